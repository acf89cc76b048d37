"""ls: the models on disk: whole or in part, how many bytes, in which form, when they were used."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from cli.tables import HeadedTable, table_console
from cli.units import age_text, span_text
from cli.visible import visible
from cluster.client import OwnNode, is_running
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.model_list import ListedModel, of_this_machine
from mlx_moe.checkpoint import durable_file, hub_cache
from mlx_moe.checkpoint.inventory import Place, State, StoredModel
from mlx_moe.families.registry import FAMILIES
from mlx_moe.units import bytes_text

COMMIT_LETTERS = 8
"""Shown letters of a commit; `NAME@COMMIT` takes its beginning."""


def show_models(as_json: bool) -> None:
    """Print the models on the disks of the cluster's nodes, or of this machine if no node runs here."""
    listed = _listed(Home.default())
    if as_json:
        print(json.dumps([to_json(row) for row in listed]))
        return
    console = table_console()
    if listed:
        console.print(models_table(listed, time.time()))
        for line in _notes([row for row in listed if row.node == listed[0].node]):
            console.print(line, style="yellow")
    else:
        console.print("no model is on this machine; `moe-cluster pull MODEL` downloads one", style="bright_black")
    console.print(_room())


def _listed(home: Home) -> list[ListedModel]:
    if is_running(home):
        with suppress(NoClusterError), OwnNode.connect(home) as node:
            return node.models()
    return of_this_machine(home, "this machine")


def is_supported(row: ListedModel) -> bool:
    """Whether a model's family is one that this version runs."""
    return row.model.model_type in FAMILIES


def to_json(row: ListedModel) -> dict[str, object]:
    """Return what `--json` prints."""
    model = row.model
    layers = None if model.layers is None else [model.layers.start, model.layers.stop - 1]
    values = asdict(model) | {"path": str(model.path), "layers": layers, "state": model.state}
    return {"node": row.node} | values | {"supported": is_supported(row), "used_at": row.used_at}


def models_table(listed: Sequence[ListedModel], now: float) -> HeadedTable:
    """Return a table of models, with the nodes if there are several."""
    table = HeadedTable(
        *("node", "model", "commit", "here", "on disk", "form", "family", "last used"),
        texts=("node", "model", "commit", "here", "form", "family", "last used"),
        optional=("node", "commit", "family", "last used", "form"),
    )
    several = len({row.node for row in listed}) > 1
    for row in listed:
        model = row.model
        table.add_row(
            visible(row.node) if several else "",
            visible(model.name),
            visible(model.revision[:COMMIT_LETTERS]),
            held_text(model),
            bytes_text(model.disk_bytes),
            visible(model.form),
            visible(model.model_type) + ("" if is_supported(row) or not model.model_type else " (not run)"),
            "" if row.used_at is None else age_text(now - row.used_at),
            style="" if is_supported(row) and model.state is not State.DAMAGED else "bright_black",
        )
    return table


def held_text(model: StoredModel) -> str:
    """Return which part of a model is here: "whole", "layers 0-29", "34%", "2 of 5 files" or "damaged"."""
    if model.state is not State.PART:
        return str(model.state)
    if model.n_missing:
        return f"{model.n_files - model.n_missing} of {model.n_files} files"
    if model.layers:
        return f"layer{'s' * (len(model.layers) > 1)} {span_text(model.layers)}"
    return f"{model.weights_bytes / model.total_bytes:.0%}"


def _notes(listed: Sequence[ListedModel]) -> list[str]:
    """Return what is wrong with damaged models, and how models in part are completed."""
    damaged = [(row.model, row.model.damage) for row in listed if row.model.damage]
    incomplete = [
        row.model for row in listed if is_supported(row) and row.model.n_missing and row.model.place is Place.CACHE
    ]
    cures = [(model, f"{_missing(model.n_missing)}: {hub_cache.cure(model.path)}") for model in incomplete]
    begun = [row.model for row in listed if row.model.place is Place.DOWNLOAD and not row.model.damage]
    cures += [(model, f"its download goes on with `{hub_cache.pull_command(model.name)}`") for model in begun]
    return [visible(f"{model.name}: {text.replace(f'{model.path}/', '')}") for model, text in (*damaged, *cures)]


def _missing(count: int) -> str:
    return "1 file is missing" if count == 1 else f"{count} files are missing"


def _room() -> str:
    cache = hub_cache.directory()
    return f"{bytes_text(durable_file.free_bytes(cache))} free on the disk of {visible(str(cache))}"
