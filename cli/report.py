"""report: packs what helps to find a fault into one archive, and says what is in it."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from cli import doctor
from cli.status import to_json as status_to_json
from cli.tables import table_console
from cli.visible import visible
from cluster import log_files, report, software
from cluster.client import ClusterStatus, OwnNode, ServingStatus
from cluster.doctor import examine
from cluster.errors import ClusterError
from cluster.home import Home
from mlx_moe.errors import MoeClusterError
from mlx_moe.units import bytes_text

_ABOUT = {
    "doctor.json": "what moe-cluster doctor found",
    "status.json": "the cluster as this node sees it",
    "plan.json": "the plan for the served model",
    "versions.json": "software and clocks of the nodes",
    "config": "options of up, measured hardware",
    "logs": f"last {log_files.MAX_LINES:,} log lines of each node",
}

_PROMISE = (
    "No prompts, answers, chats, tokens or keys are in it. Names of people and machines, home directories and "
    "addresses are replaced; names of models are not. Read it before you share it:"
)


def write_report(output: Path | None) -> None:
    """Write the archive and print what is in it. Raises InvalidRequestError if the file exists, ClusterError."""
    home = Home.default()
    texts: dict[str, Any] = {
        "doctor.json": doctor.to_json(asyncio.run(examine(home))),
        "versions.json": {"this machine": software.versions()},
    }
    names: set[str] = set()
    try:
        with OwnNode.connect(home) as node:
            status = node.status()
            names = {name for each in status.nodes for name in (each.shown_name, each.info.name)}
            names |= {removed.name for removed in status.removed}
            texts |= _of_cluster(node, status)
    except ClusterError as error:
        texts["status.json"] = {"error": str(error)}
    texts |= report.own_texts(home)
    hidden = report.redaction(home, names | report.names_in(texts.values()))
    path = output or Path(time.strftime("moe-cluster-report-%Y%m%d-%H%M%S.tar.gz"))
    files = report.redacted(texts, hidden)
    report.write(path, files)
    _tell(path, files)


def _of_cluster(node: OwnNode, status: ClusterStatus) -> dict[str, Any]:
    """Return what the nodes of the cluster tell."""
    names = {each.info.node_id: each.shown_name for each in status.nodes}
    abouts = {names.get(about.node_id, about.node_id): asdict(about) for about in node.about()}
    texts: dict[str, Any] = {"status.json": status_to_json(status), "versions.json": abouts}
    for each in status.nodes[1:]:
        if each.is_here:
            try:
                lines, _ = node.log_lines(each.info.node_id, log_files.MAX_LINES)
                texts[f"logs/{each.shown_name}.log"] = "".join(f"{line}\n" for line in lines)
            except MoeClusterError as error:
                texts[f"logs/{each.shown_name}.log"] = f"{error}\n"
    if status.serving is not None:
        texts["plan.json"] = _plan(status.serving)
    return texts


def _plan(serving: ServingStatus) -> Mapping[str, Any]:
    """Return how the served model would be placed now, or why that is unknown."""
    from cli import plan

    try:
        made = plan.make(serving.model, plan.around(), serving.context_tokens or None, 1, None, None)
        return plan.to_json(made)
    except MoeClusterError as error:
        return {"error": str(error)}


def _tell(path: Path, files: Mapping[str, bytes]) -> None:
    console = table_console()
    console.print(Text(f"{visible(str(path))} holds"), soft_wrap=True)
    for part, about in _ABOUT.items():
        sizes = [len(data) for name, data in files.items() if name.partition("/")[0] == part]
        if sizes:
            console.print(f"  {part:13} {bytes_text(sum(sizes)):>9}  {about}")
    console.print(_PROMISE)
    console.print(Text(f"  tar xzOf {visible(shlex.quote(str(path)))} | less"), soft_wrap=True)
