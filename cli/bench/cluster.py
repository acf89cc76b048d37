"""bench cluster: measures a model on the running cluster: stages, hops, bubble, drafts, users."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.backend import lasting
from cli.bench.asking import request
from cli.bench.stages import RingFigures, remembered, ring_figures
from cli.bench.trace_file import TraceFile
from cli.interrupt import Interrupt
from cli.nodes import NodeRow, holders, node_rows
from cli.remote import ClusterBackend
from cli.tables import HeadedTable, table_console
from cli.units import duration_text, rate_text, span_text
from cli.visible import visible
from cluster.client import OwnNode, RemoteModel, Wanted
from cluster.home import Home
from cluster.timeline import MOST_SPANS, Timeline
from mlx_moe.decoding.request import GenerationStats, Request
from mlx_moe.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.table import Table

WARM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """What to measure: one answer by stages, then simultaneous users."""

    model: str
    prompt_tokens: int
    tokens: int
    users: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Together:
    """Simultaneous answers: tokens per second of all, from first request to last token, and of each decoding."""

    users: int
    tokens_per_s: float
    each_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """The result. `is_cut`: the workers' timelines no longer have the beginning of the answer."""

    layers: tuple[range, ...]
    figures: RingFigures
    is_cut: bool
    stats: GenerationStats
    together: tuple[Together, ...]


def bench_cluster(asked: ClusterRun, trace: Path | None, as_json: bool) -> None:
    """Measure a model on the cluster, loaded if needed, and print the result.

    Raises:
        NoClusterError: no node runs here.
        InvalidRequestError: the answers do not fit in the cache, or the trace cannot be written.
        MoeClusterError: as loading and answering do.
    """
    file = None if trace is None else TraceFile(trace)
    home = Home.default()
    node = OwnNode.connect(home)
    with (
        closing(node),
        closing(ClusterBackend(home, node, Wanted(lasting(asked.model)))) as backend,
        Interrupt() as interrupt,
    ):
        _require_room(asked, backend.remote)
        vocabulary = range(backend.remote.description.vocab_size)
        timeline, stats = _one_answer(asked, backend.remote, vocabulary, interrupt)
        together = _all_together(asked, backend.remote, vocabulary, interrupt)
        rows = [row for row in holders(node_rows(node.status())) if row.role != "experts"]
    if file is not None:
        file.write(timeline)
    measured = _measured(timeline, stats, together, rows)
    if as_json:
        print(json.dumps(_to_json(asked, measured)))
    else:
        _print(asked, measured)


def _require_room(asked: ClusterRun, model: RemoteModel) -> None:
    context, room = model.description.context_tokens, model.description.kv_positions
    each, users = asked.prompt_tokens + asked.tokens, max(asked.users)
    if each > context or users * each > room:
        raise InvalidRequestError(
            f"{users} answers of {asked.prompt_tokens} prompt tokens and {asked.tokens} tokens need {each} positions "
            f"each, {users * each} in all; the context of {model.description.model} is {context}, and the cluster has "
            f"room for {room}: ask for fewer"
        )


def _one_answer(
    asked: ClusterRun, model: RemoteModel, vocabulary: Sequence[int], interrupt: Interrupt
) -> tuple[Timeline, GenerationStats]:
    """Return the timeline of one answer; a first one warms up (compiles kernels, fills caches)."""
    _answer(model, request(vocabulary, asked.prompt_tokens, WARM_TOKENS), interrupt)
    model.timeline()  # clears earlier work
    stats = _answer(model, request(vocabulary, asked.prompt_tokens, asked.tokens), interrupt)
    return model.timeline(), stats


def _all_together(
    asked: ClusterRun, model: RemoteModel, vocabulary: Sequence[int], interrupt: Interrupt
) -> tuple[Together, ...]:
    return tuple(_together(asked, model, vocabulary, users, interrupt) for users in asked.users)


def _together(
    asked: ClusterRun, model: RemoteModel, vocabulary: Sequence[int], users: int, interrupt: Interrupt
) -> Together:
    """Answer `users` requests at once; their prompts differ, so that none borrows another's prefix."""
    requests = [request(vocabulary, asked.prompt_tokens, asked.tokens, seed) for seed in range(users)]
    with ThreadPoolExecutor(users) as pool:
        started = time.perf_counter()
        stats = list(pool.map(lambda asking: _answer(model, asking, interrupt), requests))
        seconds = time.perf_counter() - started
    each = statistics.median(s.decode_tps for s in stats)
    return Together(users, sum(s.generated_tokens for s in stats) / seconds, each)


def _answer(model: RemoteModel, asking: Request, interrupt: Interrupt) -> GenerationStats:
    with closing(model.new_conversation()) as conversation:
        answer = conversation.answer(asking, lambda _done, _total: interrupt.check())
        for _ in answer:
            interrupt.check()
    return answer.stats


def _measured(
    timeline: Timeline, stats: GenerationStats, together: tuple[Together, ...], rows: Sequence[NodeRow]
) -> ClusterFigures:
    part = remembered(timeline, MOST_SPANS)
    return ClusterFigures(tuple(row.layers for row in rows), ring_figures(part), part is not timeline, stats, together)


def _print(asked: ClusterRun, measured: ClusterFigures) -> None:
    console = table_console()
    stages = len(measured.layers)
    console.print(
        f"{visible(asked.model)} on {stages} stage{'s' * (stages > 1)}: prompt {asked.prompt_tokens}, "
        f"answer {asked.tokens} tokens",
        style="bold",
    )
    console.print()
    console.print(_stages_table(measured))
    console.print()
    console.print(_summary(measured))
    console.print()
    for note in _notes(measured):
        console.print(note, style="bright_black")
    console.print()
    console.print(_users_table(measured.together))


def _stages_table(measured: ClusterFigures) -> HeadedTable:
    table = HeadedTable(
        *("node", "layers", "ms/token", "ms/chunk", "ms/hop", "busy in\nprefill", "busy in\ndecode"),
        texts=("node",),
        optional=("busy in\nprefill", "ms/chunk", "busy in\ndecode", "ms/hop"),
    )
    for layers, stage in zip(measured.layers, measured.figures.stages, strict=True):
        table.add_row(
            visible(stage.node),
            span_text(layers),
            *(_ms(seconds) for seconds in (stage.token_s, stage.chunk_s, stage.hop_s)),
            *(_share(busy) for busy in (stage.prefill_busy, stage.decode_busy)),
        )
    return table


def _summary(measured: ClusterFigures) -> Table:
    from rich.table import Table

    stats, figures = measured.stats, measured.figures
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column()
    chunks = f" in chunks of {n}" if (n := figures.chunk_positions) else ""
    table.add_row("prefill", f"{rate_text(stats.prefill_tps)}{chunks}, first token after {duration_text(stats.ttft_s)}")
    table.add_row("decode", rate_text(stats.decode_tps))
    if figures.decode_bubble is not None:
        prefill = f"{_share(figures.prefill_bubble)} of prefill, " if figures.prefill_bubble is not None else ""
        table.add_row("bubble", f"{prefill}{_share(figures.decode_bubble)} of decode: average idle time of a stage")
    if figures.own_s is not None:
        table.add_row("coordinator", f"{_ms(figures.own_s)} ms/token besides its stage: sampling, drafting, text")
    if stats.drafted:
        rates = " ".join(f"{rate:.2f}" for rate in _accepted(stats))
        table.add_row("drafts", f"{stats.drafted} sent, {stats.accepted} right; by depth {rates or 'none compared'}")
    return table


def _notes(measured: ClusterFigures) -> list[str]:
    notes = []
    if len(measured.layers) == 1:
        notes.append("On one node there are no hops to measure: figures of stages need two nodes or more.")
    else:
        notes.append(
            "The stages' clocks are aligned by the fastest hop to each: the time of a round is exact, its division "
            "among the hops is estimated."
        )
    if measured.is_cut:
        notes.append(f"The stages keep only {MOST_SPANS} pieces of work: their figures cover the end of the answer.")
    if measured.figures.mixed:
        notes.append("Other requests were served at the same time: the figures of the stages include them.")
    return notes


def _users_table(together: Sequence[Together]) -> HeadedTable:
    table = HeadedTable("users", "together", "times one", "each decodes", texts=(), optional=("each decodes",))
    for t in together:
        times = "" if (times_one := _times_one(t, together)) is None else f"{times_one:.2f}"
        table.add_row(str(t.users), rate_text(t.tokens_per_s), times, rate_text(t.each_tokens_per_s))
    return table


def _times_one(t: Together, together: Sequence[Together]) -> float | None:
    """Return the rate as a multiple of one user's rate, if that was measured."""
    return next((t.tokens_per_s / one.tokens_per_s for one in together if one.users == 1), None)


def _accepted(stats: GenerationStats) -> list[float]:
    return [a / c for a, c in zip(stats.accepted_by_depth, stats.compared_by_depth, strict=True) if c]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _to_json(asked: ClusterRun, measured: ClusterFigures) -> dict[str, Any]:
    figures = asdict(measured.figures)
    stages = [
        {"layers": [layers.start, layers.stop], **stage}
        for layers, stage in zip(measured.layers, figures.pop("stages"), strict=True)
    ]
    stats = measured.stats
    return {
        "asked": asdict(asked),
        "stages": stages,
        **figures,
        "cut": measured.is_cut,
        "prefill_tps": stats.prefill_tps,
        "decode_tps": stats.decode_tps,
        "ttft_s": stats.ttft_s,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "compared_by_depth": stats.compared_by_depth,
        "accepted_by_depth": stats.accepted_by_depth,
        "users": [asdict(t) | {"times_one": _times_one(t, measured.together)} for t in measured.together],
    }
