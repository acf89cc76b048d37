"""plan: a placement of a model and its predicted speed. Needs only config and headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cli.show import context_text
from cli.tables import HeadedTable, table_console
from cli.units import count_text, duration_text, rate_text, span_text, tokens_text
from cli.visible import visible
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table

    from cli.options import LoadOptions
    from cluster.placement import Fit, Links, ModelCosts, NodeCapacity, Objective, Prediction, StagePlacement

DEFAULT_CONTEXT = 8192
PROMPTS = (128, 1024, 8192)
"""Prompt lengths whose time to the first token is predicted."""


@dataclass(frozen=True, slots=True)
class Target:
    """The nodes to plan for. `float_bytes` is 2 if nodes compute in 16 bit, 4 on the CPU backend.

    `free_disk_bytes` by node id, as far as it is known.
    """

    nodes: Sequence[NodeCapacity]
    links: Links
    float_bytes: int
    assumptions: Mapping[str, str]
    free_disk_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement, its target and its prediction."""

    model: ModelCosts
    target: Target
    fit: Fit
    prediction: Prediction


def plan(
    model: str,
    nodes_text: str | None,
    as_json: bool,
    context: int | None = None,
    users: int = 1,
    bits: int | None = None,
    objective: Objective | None = None,
    here: Callable[[], Target] | None = None,
    cut: LoadOptions | None = None,
    *,
    standby: bool = False,
) -> None:
    """Print a placement of `model` on the nodes of a spec, or on the target of `here` (None: the cluster, if any).

    `cut` says how prompts are cut.

    Raises:
        InvalidRequestError, CheckpointError: the model, the spec or a number is invalid.
        PlacementError: the model does not fit; the message says what would make it fit.
    """
    target = parsed(nodes_text) if nodes_text is not None else (here or around)()
    made = make(model, target, context, users, bits, objective, cut, standby=standby, with_content=as_json)
    if as_json:
        print(json.dumps(to_json(made)))
    else:
        _print(made)


def parsed(nodes_text: str) -> Target:
    """Return the target of a spec like 8xM4-Pro-64GB, connected by 10 GbE."""
    from cluster.placement import Links
    from cluster.placement.chips import assumptions, parse_nodes

    return Target(parse_nodes(nodes_text), Links(), 2, assumptions(nodes_text))


def around() -> Target:
    """Return this machine's cluster, or this machine alone if no node runs on it."""
    from cluster.client import OwnNode
    from cluster.errors import NoClusterError
    from cluster.home import Home

    try:
        node = OwnNode.connect(Home.default())
    except NoClusterError:
        return this_machine()
    with node:
        status = node.status()
    nodes = status.capacities()
    texts = {n.name: f"{n.bandwidth_gbps:.0f} GB/s and {n.tflops:.2g} TFLOPS, as it measured itself" for n in nodes}
    disks = {node_id: node.free_disk_bytes for node_id, node in status.here.items()}
    return Target(nodes, status.links(), status.float_bytes, texts, disks)


def this_machine() -> Target:
    """Return this machine; measure it unless that was done before."""
    import asyncio

    from cluster.home import Home
    from cluster.membership.hardware import hardware
    from cluster.placement import Links
    from cluster.placement.chips import measured
    from mlx_moe.checkpoint import durable_file

    home = Home.default()
    home.create()
    machine = asyncio.run(hardware(home.path / "hardware.json"))
    node = measured("this-machine", "this machine", machine)
    text = f"{machine.bandwidth_gbps:.0f} GB/s and {machine.matmul_tflops:.2g} TFLOPS, as measured here"
    disks = {node.node_id: durable_file.free_bytes(home.path)}
    return Target([node], Links(), 4 if machine.dtype == "float32" else 2, {machine.chip: text}, disks)


def make(
    model: str,
    target: Target,
    context: int | None,
    users: int,
    bits: int | None,
    objective: Objective | None,
    cut: LoadOptions | None = None,
    *,
    standby: bool = False,
    with_content: bool = False,
) -> Plan:
    """Return a plan, with prompts cut as `cut` says, and a spare copy of a stage. Raises as `plan`.

    `with_content` adds the content hash, which a later load checks.
    """
    from cluster.cost_reader import CostReader
    from cluster.placement import Latency, fit, predict, with_standby
    from mlx_moe.checkpoint.recipe import AS_STORED, uniform
    from mlx_moe.decoding.chunking import ChunkRule

    chunks: ChunkRule | Latency | None = None
    if cut is not None and cut.latency_s is not None:
        chunks = Latency(cut.latency_s)
    elif cut is not None and cut.chunk is not None:
        chunks = ChunkRule.fixed(cut.chunk)
    recipe = AS_STORED if bits is None else uniform(bits)
    reader = CostReader(model, float_bytes=target.float_bytes)
    costs = reader.at(bits)
    context_tokens = context if context is not None else min(DEFAULT_CONTEXT, costs.context.tokens)
    found = fit(
        costs,
        target.nodes,
        target.links,
        context_tokens=context_tokens,
        concurrency=users,
        objective=objective,
        at_bits=reader.at,
        chunks=chunks,
    )
    if standby:
        found = replace(found, placement=with_standby(found.placement, costs, found.nodes))
    if with_content:
        placement = replace(found.placement, content_hash=reader.content_hash(), recipe=recipe)
        found = replace(found, placement=placement)
    prompts = [n for n in PROMPTS if n <= context_tokens]
    return Plan(costs, target, found, predict(found.placement, costs, found.nodes, target.links, prompts=prompts))


def to_json(made: Plan) -> dict[str, object]:
    """Return the plan as JSON values; `up --plan` reads `placement`."""
    users, prediction = made.fit.placement.concurrency, made.prediction
    return {
        "placement": made.fit.placement.to_json(),
        "prediction": {
            "tokens_per_s": prediction.tokens_per_s,
            "together_tokens_per_s": prediction.together_tokens_per_s(users),
            "most_tokens_per_s": prediction.most_tokens_per_s,
            **{name: getattr(prediction, name) for name in ("position", "stage_s", "hop_s", "head_s", "ttft_s")},
        },
        "raised_gpu_limit": [node.node_id for node in made.fit.raised],
        "assumptions": assumptions(made.target),
    }


def _print(made: Plan) -> None:
    console = table_console()
    costs, placement = made.model, made.fit.placement
    used, known = len(placement.node_ids), len(made.fit.nodes)
    where = f"{used} of {known} nodes" if known > 1 else "one node"
    console.print(
        f"{visible(placement.model)}: {count_text(costs.parameters)} parameters, {bytes_text(costs.weights_bytes)} at "
        f"{costs.bits:.1f} bits a weight, on {where}; a token uses {count_text(costs.active_parameters)}, "
        f"{bytes_text(costs.read_bytes_per_token)}"
    )
    console.print()
    console.print(_nodes_table(made))
    console.print()
    console.print(_speed_table(made))
    for line in _notes(made):
        console.print()
        console.print(line)
    console.print()
    console.print(
        "Assumed: (M) measured and published, (F) fitted to published figures, (A) to be confirmed", style="dim"
    )
    console.print(_assumptions_table(made.target), style="dim")


def _nodes_table(made: Plan) -> HeadedTable:
    from cluster.placement import loads
    from cluster.placement.accounting import budget

    table = HeadedTable(
        *("node", "holds", "weights", "disk free", "KV room", "GPU limit", "a token"),
        texts=("node", "holds"),
        wrapped="holds",
        optional=("disk free", "GPU limit", "KV room", "a token"),
    )
    nodes = {node.node_id: node for node in made.fit.nodes}
    disks = made.target.free_disk_bytes
    held = loads(made.model, made.fit.placement.stages)
    for i, stage in enumerate(made.fit.placement.stages):
        first, seconds = i == 0, made.prediction.stage_s[i]
        for node_id, holds in _holdings(made, stage, first):
            node, load = nodes[node_id], held[node_id]
            room = budget(made.model, node) - load.weights_bytes
            leads = node_id == stage.node_id
            table.add_row(
                visible(node.name),
                holds,
                bytes_text(load.weights_bytes),
                bytes_text(disks[node_id]) if node_id in disks else "",
                bytes_text(room) if leads else "",
                bytes_text(node.memory_bytes),
                f"{(seconds + made.prediction.head_s * first) * 1000:.1f} ms" if leads else "",
            )
    if (spare := made.fit.placement.standby) is not None:
        node = nodes[spare.node_id]
        nbytes = sum(made.model.layers[layer].owned_bytes(made.model.n_experts, 0) for layer in spare.layers)
        holds = f"spare copy of layers {span_text(spare.layers)}"
        table.add_row(visible(node.name), holds, bytes_text(nbytes), "", "", bytes_text(node.memory_bytes), "")
    return table


def _holdings(made: Plan, stage: StagePlacement, first: bool) -> list[tuple[str, str]]:
    """Return the nodes of a stage and, as text, what they hold."""
    model = made.model
    layers = f"layer{'s' * (len(stage.layers) > 1)} {span_text(stage.layers)}"
    dense = sum(not model.layers[layer].expert_bytes for layer in stage.layers)
    if dense:
        layers += f" ({dense} dense)"
    if first:
        layers += ", embedding, head" + (", MTP" if model.mtp else "")
    if stage.owned_experts:
        layers += f", {len(next(iter(stage.owned_experts.values())))} of {model.n_experts} experts"
    rows = [(stage.node_id, layers)]
    for peer in stage.peers:
        experts = next(iter(peer.owned_experts.values()))
        rows.append((peer.node_id, f"  {len(experts)} of {model.n_experts} experts of these layers"))
    return rows


def _speed_table(made: Plan) -> Table:
    from rich.table import Table

    from mlx_moe.layers.batches import TOGETHER

    placement, prediction = made.fit.placement, made.prediction
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    ttft = ", ".join(f"{duration_text(s)} ({tokens_text(n)} tokens)" for n, s in prediction.ttft_s.items())
    table.add_row("one user", f"{rate_text(prediction.tokens_per_s)} at position {prediction.position}")
    if placement.concurrency > 1:
        together = prediction.together_tokens_per_s(placement.concurrency)
        table.add_row(f"{placement.concurrency} users", f"{rate_text(together)} together")
    many = len(placement.stages) * TOGETHER
    table.add_row(f"{many} users", f"{rate_text(prediction.most_tokens_per_s)} together, at most")
    table.add_row("first token", ttft or f"not predicted for fewer than {PROMPTS[0]} tokens")
    table.add_row("prompts", f"run in {placement.chunks}")
    kv = f"{tokens_text(placement.kv_positions)} positions of all requests together"
    context = made.model.context
    table.add_row("context", context_text(context.tokens, context.longest, context.rope.rope_type))
    table.add_row("KV room", f"{kv}; {placement.concurrency} x {tokens_text(placement.context_tokens)} asked for")
    return table


def _notes(made: Plan) -> list[str]:
    from cluster.placement.remedy import raise_command

    commands: dict[str, list[str]] = {}
    for node in made.fit.raised:
        commands.setdefault(raise_command(node), []).append(visible(node.name))
    return [
        f"macOS limits the GPU's memory too much by default. On {', '.join(names)}, after each boot:\n  {command}"
        for command, names in commands.items()
    ]


def _assumptions_table(target: Target) -> Table:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, text in assumptions(target).items():
        table.add_row(f"  {visible(what)}", text)
    return table


def assumptions(target: Target) -> dict[str, str]:
    """Return the assumptions behind the predictions."""
    from cluster.placement.capacity import HARD_LIMIT, HOP_S, TEN_GIGABIT_BYTES_PER_S
    from cluster.placement.timing import EXCHANGE_S

    return {
        **target.assumptions,
        "hop": f"{HOP_S * 1e3:g} ms and {TEN_GIGABIT_BYTES_PER_S / 1e9:g} GB/s where no link was measured (A)",
        "expert peers": f"{EXCHANGE_S * 1e3:g} ms an exchange, one in each split layer (M)",
        "memory": f"weights and KV cache fill at most {HARD_LIMIT:.0%} of the GPU limit (A)",
        "decoding": "plain, without speculation",
    }
