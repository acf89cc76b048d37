"""Trace: reads what the stages of a ring did, from a file that `moe-cluster bench ... --trace` wrote."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Slice:
    """The time of a frame in a stage, or of a turn of the coordinator, in milliseconds."""

    kind: str
    stage: int
    request: str
    serial: int
    position: int
    rows: int
    began_ms: float
    ended_ms: float

    @classmethod
    def read(cls, event: dict[str, Any]) -> Slice:
        """Read a trace event of a complete span."""
        args = event["args"]
        began_ms, lasted_ms = event["ts"] / 1e3, event["dur"] / 1e3
        request, serial, position, rows = (args[name] for name in ("request", "serial", "position", "rows"))
        return cls(event["cat"], event["pid"], request, serial, position, rows, began_ms, began_ms + lasted_ms)


@dataclass(frozen=True, slots=True)
class Trace:
    """All slices of a run; `returned_ms` has the time at which each frame, by serial, was back at the coordinator."""

    stages: tuple[str, ...]
    slices: tuple[Slice, ...]
    returned_ms: dict[int, float]
    emulated: bool

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a trace file."""
        told = json.loads(path.read_text())
        events = told["traceEvents"]
        stages = tuple(event["args"]["name"].partition(": ")[2] for event in events if event["ph"] == "M")
        slices = tuple(Slice.read(event) for event in events if event["ph"] == "X")
        comes = (event for event in events if event["ph"] == "f")
        ids = ((event["id"].partition("."), event["ts"] / 1e3) for event in comes)
        returned_ms = {int(serial): ms for (hop, _, serial), ms in ids if int(hop) == len(stages) - 1}
        return cls(stages, slices, returned_ms, told["otherData"]["emulated"])

    def way(self, serial: int) -> list[Slice]:
        """Return the slices of a frame, stage by stage."""
        return sorted((s for s in self.slices if s.serial == serial and s.kind != "turn"), key=lambda s: s.stage)

    def typical(self) -> list[Slice]:
        """Return the slices of the token with the median time, among those with the usual number of drafts if any.

        Raises:
            SystemExit: no token went through two or more stages.
        """
        sent = [s.serial for s in self.slices if s.kind == "decode" and s.stage == 0 and s.serial in self.returned_ms]
        ways = [self.way(serial) for serial in sent]
        if not ways:
            raise SystemExit("the trace has no token that went through two stages or more")
        drafted = [way for way in ways if self.drafts_behind(way)] or ways
        usual = statistics.median_high(self.drafts_behind(way) for way in drafted)
        alike = [way for way in drafted if self.drafts_behind(way) == usual]
        return sorted(alike, key=self.round_ms)[len(alike) // 2]

    def round_ms(self, way: Sequence[Slice]) -> float:
        """Return the milliseconds from a frame's start in the first stage until its return."""
        return self.returned_ms[way[0].serial] - way[0].began_ms

    def drafts_behind(self, way: Sequence[Slice]) -> int:
        """Return the number of drafts that the coordinator sent before a frame returned."""
        start_ms = way[0].began_ms
        drafts = (s for s in self.slices if s.kind == "draft" and s.stage == 0)
        return sum(0 < draft.began_ms - start_ms < self.round_ms(way) for draft in drafts)

    def void(self) -> set[int]:
        """Return the serials of invalidated frames: a frame for the same or an earlier position was sent after them."""
        void: set[int] = set()
        earliest: dict[str, int] = {}  # by request: the earliest position that was sent later
        sent = (s for s in self.slices if s.stage == 0 and s.kind in ("decode", "draft"))
        for frame in sorted(sent, key=lambda frame: frame.serial, reverse=True):
            before = earliest.get(frame.request, frame.position + 1)
            if frame.position >= before:
                void.add(frame.serial)
            earliest[frame.request] = min(frame.position, before)
        return void
