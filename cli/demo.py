"""demo: starts nodes on this machine, spreads the embedded model over their layers and experts, answers a prompt."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.status import Status

from cli import run
from cli.background import BackgroundNode
from cli.loading import load
from cli.nodes import NodeRow, holders, holders_table, node_rows
from cli.options import AnswerOptions
from cli.remote import ClusterModels
from cli.units import span_text
from cluster.client import ClusterStatus, OwnNode, Wanted
from cluster.cost_reader import read_costs
from cluster.home import Home
from cluster.membership.hardware import hardware
from cluster.node.options import NodeOptions
from cluster.node.running import admit
from cluster.node.tokens import join_tokens
from cluster.placement import Placement, spread
from mlx_moe.checkpoint.library import DEMO
from mlx_moe.errors import InvalidRequestError

HOST = "127.0.0.1"
PROMPT = "Hello! Who are you?"
MOST_NODES = 7
"""The embedded model has six layers: at most six stages and one expert peer."""


def demo(n_nodes: int, prompt: str | None) -> None:
    """Answer `prompt` on nodes of this machine. None: answer PROMPT, then start a chat if on a terminal.

    Raises:
        InvalidRequestError: the prompt is empty.
    """
    if prompt is not None and not prompt.strip():
        raise InvalidRequestError("the prompt is empty")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    console = Console(markup=False, emoji=False, highlight=False, stderr=True)
    with _nodes(n_nodes, console) as homes, OwnNode.connect(homes[0]) as node:
        load(node, Wanted(DEMO, plan=_placed(node.status())), console)
        rows = node_rows(node.settled())
        console.print(_told(rows))
        console.print()
        console.print(holders_table(rows))
        console.print()
        models = ClusterModels(homes[0])
        asked = PROMPT if prompt is None else prompt
        console.print(f">>> {asked}", style="bright_black")
        run.run(models, DEMO, run.Prompt(asked), AnswerOptions(), as_json=False)
        if prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
            from cli.chat.start import start  # imported late: this would delay the start of the nodes

            console.print()
            start(models, DEMO, False, None, AnswerOptions())


def shape(n_nodes: int, n_layers: int) -> tuple[list[int], list[int]]:
    """Return layers per stage and expert peers per stage (the last stage has 1 from three nodes on)."""
    peers = int(n_nodes > 2)
    n_stages = n_nodes - peers
    layers = [n_layers // n_stages + (i < n_layers % n_stages) for i in range(n_stages)]
    return layers, [0] * (n_stages - 1) + [peers]


def _placed(status: ClusterStatus) -> Placement:
    """Return the demo's placement on the nodes, sorted by name."""
    costs = read_costs(DEMO, float_bytes=status.float_bytes)
    nodes = sorted(status.capacities(), key=lambda node: node.name)
    layers, peers = shape(len(nodes), len(costs.layers))
    # With the whole context the KV cache would exceed these small experts, and the leader would get no expert
    return spread(costs, nodes, layer_splits=layers, expert_peers=peers, context_tokens=256, concurrency=1)


def _told(rows: list[NodeRow]) -> str:
    parts = []
    for row in holders(rows):
        layers = f"layer{'s' * (len(row.layers) > 1)} {span_text(row.layers)}"
        parts.append(f"{row.name} {f'{row.experts} experts of {layers}' if row.role == 'experts' else layers}")
    parts[0] = parts[0].replace(" ", " holds ", 1)
    return f"{DEMO} runs on {len(parts)} node{'s' * (len(parts) > 1)} of this machine: {', '.join(parts)}"


@contextmanager
def _nodes(count: int, console: Console) -> Iterator[list[Home]]:
    """Start nodes that know each other; yield their homes. The nodes end with the block."""
    with tempfile.TemporaryDirectory(prefix="moe-cluster-demo-") as directory:
        homes = [Home(Path(directory) / f"mac-{i + 1}") for i in range(count)]
        nodes: list[BackgroundNode] = []
        try:
            with console.status("measuring this machine") as step:  # shown on a terminal, until the next step
                _measure(homes)
                _start_all(homes, nodes, step)
            yield homes
        finally:
            for node in nodes:
                node.stop()
            for node in nodes:
                node.wait()


def _start_all(homes: list[Home], nodes: list[BackgroundNode], step: Status) -> None:
    """Start the first node, which has the cluster's authority; then start the others, which join it."""
    step.update(f"starting {homes[0].path.name}")
    asyncio.run(admit(homes[0], None, (), insecure=False, new=True)).keep()
    nodes.append(_start(homes[0]))
    with nodes[0].connect() as first:
        if len(homes) > 1:
            step.update(f"starting {', '.join(home.path.name for home in homes[1:])}: they join {homes[0].path.name}")
        address = first.status().own.info.addresses[0]
        asyncio.run(_join(homes, address))
        nodes += [_start(home, address) for home in homes[1:]]
        for node in nodes[1:]:
            node.connect().close()
        first.wait_for_nodes(len(homes))


def _measure(homes: list[Home]) -> None:
    """Measure once; store it for later demos."""
    own = Home.default()
    own.create()
    asyncio.run(hardware(own.hardware))
    for home in homes:
        home.create()
        shutil.copy(own.hardware, home.hardware)


def _start(home: Home, *peers: str) -> BackgroundNode:
    return BackgroundNode(home, NodeOptions(home.path.name, HOST, port=0, peers=peers), leash=True)


async def _join(homes: list[Home], address: str) -> None:
    """Join all other homes to the first one's cluster."""
    token = join_tokens(homes[0]).create()
    for home in homes[1:]:
        await admit(home, token.text, (address,), insecure=False, new=False)


def _leave(signum: int, _frame: FrameType | None) -> None:
    """Exit normally, so that the nodes are stopped, when the terminal closes."""
    raise SystemExit(128 + signum)
