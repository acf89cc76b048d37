"""Record: what became of one fault, as a line of the table in README.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.rows import NEEDS_A_MAC, ROWS

README = Path(__file__).with_name("README.md")

_HEAD = """# Thirty faults

What becomes of an answer, or of a cluster, under each fault: real processes and signals on one machine, three nodes on
loopback, a toxic proxy between them (see `proxy.py`). Written by `python -m tests.faults`; not edited by hand.

"""

_COLUMNS = ("row", "fault", "when", "injected how", "outcome", "s to detect", "s to go on", "tokens identical")


@dataclass(frozen=True, slots=True)
class Record:
    """What was seen of a row. Seconds from the fault until a node saw it, and until answers went on; None: nothing."""

    row: int
    injected: str
    outcome: str
    detect_s: float | None = None
    on_s: float | None = None
    same_tokens: bool | None = None


def render(records: Sequence[Record], load: str) -> str:
    """Return README.md: a line for each record, and one for each row that tests elsewhere show."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    lines = [
        _HEAD + f"{datetime.date.today():%Y-%m-%d}, {machine}, load average {load}. {NEEDS_A_MAC}",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
    ]
    for row in ROWS:
        seen = [record for record in records if record.row == row.number]
        if row.shown_by:
            told = ", ".join(f"`{name.rpartition('::')[2]}` in {name.partition('::')[0]}" for name in row.shown_by)
            left = f"; not shown: {row.left}" if row.left else ""
            seen.append(Record(row.number, row.injected, f"{row.wanted}: {told}{left}"))
        if not seen:
            seen = [Record(row.number, "", "not measured in this run")]
        for record in seen:
            cells = (row.number, row.fault, row.when, record.injected, record.outcome, *_numbers(record))
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _numbers(record: Record) -> tuple[str, str, str]:
    seconds = ("-" if s is None else f"{s:.1f}" for s in (record.detect_s, record.on_s))
    same = {None: "-", True: "yes", False: "NO"}[record.same_tokens]
    return (*seconds, same)  # type: ignore[return-value]
