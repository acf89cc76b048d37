"""Charts of emulated speeds and of traces: python -m bench.pictures DIRECTORY [--trace FILE] [EMULATED.json ...].

The JSON files are the output of `moe-cluster bench --emulate ... --json`; the trace is written by `--trace` of this
command or of `moe-cluster bench cluster`. Each chart is written as SVG and as PNG.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files alone

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bench.trace import Slice, Trace
from cli.bench.emulate import EXO

# Okabe and Ito's colors, which color-blind people can distinguish
PLAIN, DRAFTED, GREY = "#0072B2", "#D55E00", "#767676"
VOID, TURN = "#F3CDB3", "#DDDDDD"
OF_KIND = {"turn": TURN, "prefill": GREY, "decode": PLAIN, "draft": DRAFTED}

WIDTH_INCHES = 8.5
"""A README's width at 100 dots an inch."""

STYLE: Any = {  # as matplotlib.RcParams, whose keys are a type of 300 names
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "moe-cluster",  # the same picture is the same file
}


@dataclass(frozen=True, slots=True)
class Emulated:
    """Speeds of one emulated cluster: tokens per second of all users together, by the number of users."""

    nodes: str
    model: str
    stages: int
    plain: dict[int, float]
    drafted: dict[int, float]
    predicted: dict[int, float]

    @classmethod
    def read(cls, path: Path) -> Emulated:
        """Read the output of bench --emulate --json. Raises SystemExit if one user alone was not measured."""
        told = json.loads(path.read_text())
        if 1 not in told["asked"]["users"]:
            raise SystemExit(f"{path} has no figures of one user: measure with --users 1,2,4")
        return cls(
            told["asked"]["nodes"],
            told["asked"]["model"],
            len(told["placement"]["stages"]),
            _by_users(told["plain"]),
            _by_users(told["drafted"]),
            {int(users): rate for users, rate in told["predicted"]["tokens_per_s"].items()},
        )

    @property
    def label(self) -> str:
        """The Macs as people write them: 8 x M4 Pro 64GB."""
        return ",\n".join(part.replace("x", " \u00d7 ", 1).replace("-", " ") for part in self.nodes.split(","))

    @property
    def published(self) -> float | None:
        """Tokens per second that exo has published for the same Macs and model, if any."""
        exo = EXO.get((self.model.lower(), self.nodes.lower()))
        return exo.tokens_per_s if exo else None


def main() -> None:
    """Draw the charts for the files on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("emulated", type=Path, nargs="*")
    arguments = parser.parse_intermixed_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        if arguments.emulated:
            runs = sorted((Emulated.read(path) for path in arguments.emulated), key=lambda run: run.stages)
            _save(against_users(runs), arguments.directory / "users")
            _save(against_nodes(runs), arguments.directory / "nodes")
        if arguments.trace:
            trace = Trace.read(arguments.trace)
            _save(token_way(trace), arguments.directory / "token")
            _save(prompt_way(trace), arguments.directory / "prompt")


def against_users(runs: Sequence[Emulated]) -> Figure:
    """Draw tokens per second against users, one panel per cluster."""
    figure, rows = plt.subplots(
        1, len(runs), figsize=(WIDTH_INCHES, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, run in zip(rows[0], runs, strict=True):
        users = sorted(run.plain)
        axes.plot(users, [run.predicted[n] for n in users], color=GREY, linestyle=":", linewidth=2, zorder=1)
        axes.plot(users, [run.plain[n] for n in users], color=PLAIN, marker="o", linewidth=2)
        if run.drafted:
            axes.plot(users, [run.drafted[n] for n in users], color=DRAFTED, marker="s", linewidth=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(users, [str(n) for n in users])
        axes.minorticks_off()
        axes.set_xlabel("users at once")
        axes.set_title(run.label, fontweight="normal", fontsize=11)
        axes.grid(axis="y", color="#E5E5E5")
        axes.set_axisbelow(True)
    rows[0][0].set_ylabel("tokens/s of all users")
    rows[0][0].set_ylim(bottom=0)
    _name_lines(rows[0][-1], runs[-1])
    _title(figure, f"{_models(runs)}: tokens/s against users", emulated=True)
    return figure


def against_nodes(runs: Sequence[Emulated]) -> Figure:
    """Draw one user's tokens per second (published, plain, drafted), one group of bars per cluster."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 4), layout="constrained")
    for x, run in enumerate(runs):
        rates = (run.published, GREY), (run.plain[1], PLAIN), (run.drafted.get(1), DRAFTED)
        bars = [(rate, color) for rate, color in rates if rate is not None]
        for number, (rate, color) in enumerate(bars):
            place = x + 0.26 * (number - (len(bars) - 1) / 2)
            axes.bar(place, rate, width=0.24, color=color)
            text = f"{rate:.2f}" if rate < 10 else f"{rate:.1f}"
            axes.annotate(text, (place, rate), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(runs)), [run.label for run in runs])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(runs) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("tokens/s, one user")
    _title(figure, f"{_models(runs)}: tokens/s against nodes", emulated=True)
    published = [("exo, published", GREY)] if any(run.published for run in runs) else []
    _legend(axes, [*published, ("plain", PLAIN), ("drafted", DRAFTED)])
    return figure


def token_way(trace: Trace) -> Figure:
    """Draw a typical token's way through the stages, with the drafts that follow it, if any."""
    way = trace.typical()
    start_ms, end_ms = way[0].began_ms, way[0].began_ms + trace.round_ms(way)
    figure, axes = _stages_figure(trace)
    margin_ms = (end_ms - start_ms) * 0.04
    from_ms, to_ms = start_ms - margin_ms, end_ms + margin_ms
    shown = [piece for piece in trace.slices if piece.ended_ms > from_ms and piece.began_ms < to_ms]
    void = trace.void()
    for piece in shown:
        color = VOID if piece.serial in void else OF_KIND[piece.kind]
        _bar(axes, piece, start_ms, color, height=0.8 if piece.kind == "turn" else 0.6)
        if piece.kind != "turn":
            _write(axes, piece, str(piece.position), (from_ms, to_ms), start_ms, "black" if color == VOID else "white")
    for serial in sorted({piece.serial for piece in shown if piece.kind != "turn"}):
        _hops(axes, trace, trace.way(serial), start_ms, strong=serial == way[0].serial)
    drafts = trace.drafts_behind(way)
    axes.set_xlim(from_ms - start_ms, to_ms - start_ms)
    axes.set_xlabel("ms; numbers are positions")
    what = "One token" + (f" and {drafts} draft{'s' * (drafts > 1)} behind it" if drafts else "")
    way_text = f"{end_ms - start_ms:.0f} ms through {len(trace.stages)} stages and back"
    _title(figure, f"{what}: {way_text}", emulated=trace.emulated)
    _legend(axes, [("token", PLAIN), ("draft", DRAFTED), ("void draft", VOID), ("coordinator's turn", TURN)])
    return figure


def prompt_way(trace: Trace) -> Figure:
    """Draw the way of the longest prompt's chunks through the stages, colored from light to dark."""
    prompts: dict[str, list[Slice]] = {}
    for piece in trace.slices:
        if piece.kind == "prefill":
            prompts.setdefault(piece.request, []).append(piece)
    pieces = max(prompts.values(), key=lambda pieces: sum(piece.rows for piece in pieces))
    serials = sorted({piece.serial for piece in pieces})
    colors = plt.get_cmap("cividis")([0.9 - 0.8 * i / max(1, len(serials) - 1) for i in range(len(serials))])
    start_ms, end_ms = min(piece.began_ms for piece in pieces), max(piece.ended_ms for piece in pieces)
    figure, axes = _stages_figure(trace)
    for piece in pieces:
        number = serials.index(piece.serial)
        _bar(axes, piece, start_ms, colors[number], height=0.7)
        dark = number > len(serials) // 3
        _write(axes, piece, str(number + 1), (start_ms, end_ms), start_ms, "white" if dark else "black")
    tokens = sum(piece.rows for piece in pieces if piece.stage == 0)
    axes.set_xlim(0, end_ms - start_ms)
    axes.set_xlabel("ms")
    text = f"A prompt of {tokens} tokens in {len(serials)} chunks through {len(trace.stages)} stages"
    _title(figure, text, emulated=trace.emulated)
    return figure


def _by_users(told: dict[str, Any] | None) -> dict[int, float]:
    return {decoded["users"]: decoded["tokens_per_s"] for decoded in told["decoded"]} if told else {}


def _stages_figure(trace: Trace) -> tuple[Figure, Axes]:
    stages = len(trace.stages)
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 1.4 + 0.42 * (stages + 1)), layout="constrained")
    axes.set_yticks(range(stages), [f"{name}{', coordinator' * (i == 0)}" for i, name in enumerate(trace.stages)])
    axes.set_ylim(stages - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _bar(axes: Axes, piece: Slice, start_ms: float, color: Any, height: float) -> None:
    axes.barh(
        piece.stage,
        piece.ended_ms - piece.began_ms,
        left=piece.began_ms - start_ms,
        height=height,
        color=color,
        edgecolor="white",
        linewidth=0.5,
        zorder=1 if piece.kind == "turn" else 2,
    )


def _write(axes: Axes, piece: Slice, text: str, window_ms: tuple[float, float], start_ms: float, color: str) -> None:
    """Write a text into a bar if it fits."""
    left_ms, right_ms = max(piece.began_ms, window_ms[0]), min(piece.ended_ms, window_ms[1])
    if (right_ms - left_ms) / (window_ms[1] - window_ms[0]) > 0.013 * len(text):
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "zorder": 4}
        axes.text((left_ms + right_ms) / 2 - start_ms, piece.stage, text, color=color, **place)


def _hops(axes: Axes, trace: Trace, pieces: Sequence[Slice], start_ms: float, strong: bool) -> None:
    """Draw lines from the end of a frame in each stage to its beginning in the next one; if strong, also the return."""
    style: dict[str, Any] = {"color": "black" if strong else GREY, "linewidth": 1.2 if strong else 0.6, "zorder": 3}
    for here, there in itertools.pairwise(pieces):
        if there.stage == here.stage + 1:
            axes.plot([here.ended_ms - start_ms, there.began_ms - start_ms], [here.stage, there.stage], **style)
    returned_ms = trace.returned_ms.get(pieces[0].serial)
    if strong and returned_ms is not None:
        axes.plot([pieces[-1].ended_ms - start_ms, returned_ms - start_ms], [pieces[-1].stage, 0], **style)


def _title(figure: Figure, text: str, *, emulated: bool) -> None:
    figure.suptitle(text + (", emulated" if emulated else ""), x=0.01, ha="left", fontsize=12, fontweight="bold")


def _legend(axes: Axes, names: Sequence[tuple[str, str]]) -> None:
    handles = [Rectangle((0, 0), 1, 1, color=color) for _, color in names]
    axes.legend(
        handles,
        [name for name, _ in names],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(names),
        frameon=False,
        borderaxespad=0,
        handlelength=1,
        handleheight=1,
    )


def _name_lines(axes: Axes, run: Emulated) -> None:
    """Write the names of lines at their ends, moved apart if they would overlap."""
    last = max(run.plain)
    names = [(run.predicted[last], "predicted plain", "#666666"), (run.plain[last], "plain", PLAIN)]
    if run.drafted:
        names.append((run.drafted[last], "drafted", DRAFTED))
    least = 0.0
    for rate, name, color in sorted(names):
        height = max(rate, least)
        least = height + 0.06 * axes.get_ylim()[1]
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (last, height), (9, 0), color=color, fontweight="bold", **place)


def _models(runs: Sequence[Emulated]) -> str:
    return " and ".join(sorted({run.model for run in runs}))


def _save(figure: Figure, path: Path) -> None:
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {})):
        figure.savefig(path.with_suffix(suffix), dpi=200, metadata=metadata)
    plt.close(figure)


if __name__ == "__main__":
    main()
