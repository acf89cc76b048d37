"""bench local: measures a model in this process: load, memory, prefill, decode, context."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cli.bench.asking import request
from cli.progress import progress_bar
from cli.tables import HeadedTable, table_console
from cli.units import duration_text, rate_text, tokens_text
from cli.visible import visible
from mlx_moe.errors import InvalidRequestError
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from cli.bench.context import Grown
    from mlx_moe.decoding.request import GenerationStats, Request
    from mlx_moe.model import LocalModel

POSITIONS = (256, 1024, 4096, 16384)
"""Default positions at which a token is timed, within the model's context."""


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What to measure. `positions` None: those of POSITIONS within the model's context."""

    model: str
    prompt_tokens: int
    tokens: int
    rounds: int
    positions: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class LocalFigures:
    """The result; peak bytes at the end of the rounds."""

    load_s: float
    weights_bytes: int
    mlx_peak_bytes: int
    process_peak_bytes: int
    rounds: tuple[GenerationStats, ...]
    grown: tuple[Grown, ...]

    @property
    def load_bytes_per_s(self) -> float:
        """Bytes of weights loaded per second."""
        return self.weights_bytes / self.load_s


def bench_local(asked: LocalRun, as_json: bool) -> None:
    """Measure a model in this process and print the result.

    Raises:
        InvalidRequestError: prompt, answer or positions exceed the model's context or this machine's memory.
        CheckpointError, InsufficientMemoryError: as loading does.
    """
    measured = _measure(asked)
    if as_json:
        print(json.dumps(_to_json(asked, measured)))
    else:
        _print(asked, measured)


def _measure(asked: LocalRun) -> LocalFigures:
    import mlx_moe
    from cli.bench.context import grown
    from mlx_moe.memory import process_peak_bytes

    positions = _positions(asked, mlx_moe.describe(asked.model).context_tokens)
    with progress_bar(f"loading {visible(asked.model)}", "bytes") as progress:
        model = mlx_moe.load(asked.model, progress=progress)
    if (most := max(positions, default=0)) > model.kv_positions:
        raise InvalidRequestError(
            f"--context has {most} positions; besides the weights this machine has memory for {model.kv_positions}: "
            f"ask for fewer"
        )
    rounds = _rounds(asked, model)
    (placed,) = model.placement
    held = placed.weights_bytes, placed.peak_memory_bytes, process_peak_bytes()
    return LocalFigures(model.load_s, *held, rounds, tuple(grown(model, n) for n in positions))


def _positions(asked: LocalRun, context: int) -> tuple[int, ...]:
    """Return the positions at which to time a token. Raises InvalidRequestError if they exceed the context."""
    wanted = asked.prompt_tokens + asked.tokens
    if wanted > context:
        raise InvalidRequestError(
            f"{asked.prompt_tokens} prompt tokens and {asked.tokens} tokens need {wanted} positions; the context of "
            f"{asked.model} is {context}: ask for fewer"
        )
    if asked.positions is None:
        return tuple(n for n in POSITIONS if n < context)
    if (most := max(asked.positions)) >= context:
        raise InvalidRequestError(
            f"--context has {most} positions; the context of {asked.model} is {context}: ask for at most {context - 1}"
        )
    return asked.positions


def _rounds(asked: LocalRun, model: LocalModel) -> tuple[GenerationStats, ...]:
    """Answer `rounds` times, after a first answer that compiles kernels and is not counted."""
    asking = request(range(model.config.vocab_size), asked.prompt_tokens, asked.tokens)
    size, rounds = asked.prompt_tokens + asked.tokens, asked.rounds + 1
    with progress_bar("measuring", "tokens") as bar:

        def answer(number: int) -> GenerationStats:
            return _answer(model, asking, lambda done: bar(number * size + done, rounds * size))

        return tuple(answer(number) for number in range(rounds))[1:]


def _answer(model: LocalModel, asking: Request, progress: Callable[[int], None]) -> GenerationStats:
    answer = model.generate(asking, progress=lambda done, _total: progress(done))
    for token in answer:
        progress(token.position + 1)
    return answer.stats


def _print(asked: LocalRun, measured: LocalFigures) -> None:
    console = table_console()
    m = measured
    console.print(
        f"{visible(asked.model)} on this machine alone: prompt {asked.prompt_tokens}, answer {asked.tokens} tokens, "
        f"{asked.rounds} round{'s' * (asked.rounds > 1)}",
        style="bold",
    )
    console.print()
    load = f"{bytes_text(m.weights_bytes)} in {duration_text(m.load_s)}, {bytes_text(int(m.load_bytes_per_s))}/s"
    console.print(f"load    {load}")
    console.print(f"memory  {bytes_text(m.mlx_peak_bytes)} of MLX at most, {bytes_text(m.process_peak_bytes)} in all")
    console.print()
    console.print(_speeds(m.rounds))
    if m.grown:
        console.print()
        console.print(_growth(m.grown))


def _speeds(rounds: Sequence[GenerationStats]) -> HeadedTable:
    table = HeadedTable("", "median", "least", "most", texts=("",))
    for label, values in (
        ("prefill", [stats.prefill_tps for stats in rounds]),
        ("decode", [stats.decode_tps for stats in rounds]),
    ):
        table.add_row(label, *(rate_text(value) for value in _spread(values).values()))
    first = _spread([stats.ttft_s for stats in rounds])
    table.add_row("first token", *(duration_text(value) for value in first.values()))
    return table


def _growth(grown: Sequence[Grown]) -> HeadedTable:
    table = HeadedTable("positions", "ms/token", "KV cache", "ms more/MB more", texts=(), optional=("ms more/MB more",))
    first = grown[0]
    for g in grown:
        more_bytes = g.kv_bytes - first.kv_bytes
        slope = f"{(g.token_s - first.token_s) * 1e9 / more_bytes:.3f}" if more_bytes else ""
        table.add_row(tokens_text(g.positions), f"{g.token_s * 1e3:.2f}", bytes_text(g.kv_bytes), slope)
    return table


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _to_json(asked: LocalRun, measured: LocalFigures) -> dict[str, Any]:
    rounds = measured.rounds
    return {
        "asked": asdict(asked),
        "load_s": measured.load_s,
        "load_bytes_per_s": measured.load_bytes_per_s,
        "weights_bytes": measured.weights_bytes,
        "mlx_peak_bytes": measured.mlx_peak_bytes,
        "process_peak_bytes": measured.process_peak_bytes,
        "prefill_tps": _spread([stats.prefill_tps for stats in rounds]),
        "decode_tps": _spread([stats.decode_tps for stats in rounds]),
        "ttft_s": _spread([stats.ttft_s for stats in rounds]),
        "context": [asdict(g) for g in measured.grown],
    }
