"""Tables that the chat's commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cli.chat.settings import request_names, sampling_names, value_text
from cli.chat.transcript import SavedChat, TranscriptError
from cli.options import AnswerOptions
from cli.tables import HeadedTable
from cli.units import duration_text, rate_text
from cli.visible import visible

if TYPE_CHECKING:
    from mlx_moe.decoding.request import GenerationStats
    from mlx_moe.sampling_params import SamplingParams


def stats(s: GenerationStats, sitting: str, load_s: float) -> Table:
    """Return a table of an answer's counts and times."""
    table = _pairs()
    table.add_row("answer", f"{s.generated_tokens:,} tokens at {rate_text(s.decode_tps)}")
    prompt = f"{s.prompt_tokens:,} tokens, {s.cached_tokens:,} from the cache"
    table.add_row("prompt", f"{prompt}, {rate_text(s.prefill_tps)}")
    table.add_row("first token", f"after {duration_text(s.ttft_s)}")
    table.add_row("total", duration_text(s.total_s))
    table.add_row("drafted", f"{s.drafted:,}, accepted {s.accepted:,}")
    if s.compared_by_depth:
        rates = (a / c if c else 0.0 for a, c in zip(s.accepted_by_depth, s.compared_by_depth, strict=True))
        table.add_row("accepted by depth", " ".join(f"{rate:.2f}" for rate in rates))
    table.add_row("this session", sitting)
    table.add_row("loading", duration_text(load_s))
    return table


def tokens(counts: Sequence[tuple[str, int]], used: int, context: int) -> Table:
    """Return a table of each message's tokens."""
    table = _pairs()
    table.columns[1].justify = "right"
    for role, count in counts:
        table.add_row(role, f"{count:,}")
    table.add_row("context", f"{used:,} of {context:,}")
    return table


def settings(options: AnswerOptions, defaults: SamplingParams, verbose: bool) -> Table:
    """Return a table of all settings, defaults marked."""
    table = _pairs()
    for name in (*sampling_names(), *request_names()):
        table.add_row(name, value_text(name, options, defaults))
    table.add_row("verbose", "on" if verbose else "off")
    return table


def sessions(listed: Sequence[SavedChat | TranscriptError], present: str | None) -> HeadedTable:
    """Return a table of saved chats with their numbers for /load."""
    table = HeadedTable(
        *("#", "last used", "model", "messages", "begins"),
        texts=("last used", "model", "begins"),
        wrapped="begins",
        optional=("messages", "model", "last used"),
    )
    for number, saved in enumerate(listed, start=1):
        if isinstance(saved, TranscriptError):
            table.add_row(str(number), "", "", "", Text(f"damaged: {visible(str(saved))}", style="red"))
            continue
        name = f"{saved.name}: " if saved.name else ""
        here = " (this one)" if saved.id == present else ""
        table.add_row(
            str(number),
            f"{saved.changed:%Y-%m-%d %H:%M}",
            visible(PurePath(saved.model).name),
            str(len(saved.dialogue.messages)),
            visible(name + saved.dialogue.title) + here,
        )
    return table


def _pairs() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    return table
