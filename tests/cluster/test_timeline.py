"""Timelines of stages with clocks of their own are brought together, and read as figures and as a trace."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.timeline import FRAMES, Span, SpanKind, StageTimeline, Timeline
from cluster.wire import worker_pb2 as pb

REQUEST = "ab" * 16
COMPUTE_S = 0.010

offsets = st.lists(st.floats(-1000, 1000), min_size=3, max_size=3)
hops = st.lists(st.lists(st.floats(1e-4, 5e-3), min_size=4, max_size=4), min_size=1, max_size=8)


def span(kind: SpanKind, serial: int, began_s: float, seconds: float = COMPUTE_S, waited_s: float = 0.0) -> Span:
    return Span(kind, REQUEST, serial, serial + 7, 1, began_s - waited_s, began_s, began_s + seconds)


def ring(hops_s: Sequence[Sequence[float]], kind: SpanKind = SpanKind.DECODE) -> list[StageTimeline]:
    """Return what stages do, on one clock, with frames one after the other that take so long for each hop."""
    spans: list[list[Span]] = [[] for _ in hops_s[0]]
    now_s = 100.0
    for serial, ways_s in enumerate(hops_s, start=1):
        began_s = now_s
        for stage, way_s in enumerate(ways_s):
            spans[stage].append(span(kind, serial, now_s))
            now_s += COMPUTE_S + way_s
        spans[0].append(span(SpanKind.RETURN, serial, now_s, seconds=1e-6))
        spans[0].append(span(SpanKind.TURN, 0, began_s - 1e-3, seconds=COMPUTE_S + 2e-3))
        now_s += 2e-3
    return [StageTimeline(f"mac-{number}", tuple(of_stage)) for number, of_stage in enumerate(spans, start=1)]


def read(stages: Sequence[StageTimeline], offsets_s: Sequence[float] = ()) -> Timeline:
    """Read stages whose clocks, after the coordinator's, are so far ahead."""
    skewed = [
        replace(stage, spans=tuple(span.moved(by) for span in stage.spans))
        for stage, by in zip(stages, (0.0, *(offsets_s or [0.0] * (len(stages) - 1))), strict=True)
    ]
    return Timeline.read(
        pb.StageTimeline(node=stage.node, spans=[span.to_message() for span in stage.spans]) for stage in skewed
    )


def without(stage: StageTimeline, serial: int) -> StageTimeline:
    return replace(stage, spans=tuple(span for span in stage.spans if span.serial != serial))


@given(hops, offsets)
def test_hops_fill_what_stages_leave_of_each_round_whatever_the_clocks_say(
    hops_s: list[list[float]], offsets_s: list[float]
) -> None:
    timeline = read(ring(hops_s), offsets_s)
    told = timeline.hops_s()
    for number, ways_s in enumerate(hops_s):
        assert sum(of_stage[number] for of_stage in told) == pytest.approx(sum(ways_s), abs=1e-9)
    fastest = [min(of_stage) for of_stage in told]
    assert fastest == pytest.approx([fastest[0]] * 4, abs=1e-9)


@given(offsets)
def test_hops_of_which_the_fastest_are_equal_are_told_as_they_were(offsets_s: list[float]) -> None:
    hops_s = [[3e-4, 3e-4, 3e-4, 3e-4], [9e-4, 3e-4, 4e-4, 7e-4]]
    timeline = read(ring(hops_s), offsets_s)
    for number, ways_s in enumerate(hops_s):
        assert [of_stage[number] for of_stage in timeline.hops_s()] == pytest.approx(ways_s, abs=1e-9)
    assert [stage.node for stage in timeline.stages] == ["mac-1", "mac-2", "mac-3", "mac-4"]


def test_a_frame_that_a_stage_dropped_has_no_hops_beyond() -> None:
    first, second, third = ring([[1e-3, 2e-3, 3e-3]] * 3)
    timeline = read([without(first, 99), second, without(third, 2)])
    assert [len(of_stage) for of_stage in timeline.hops_s()] == [3, 2, 2]
    assert len(arrows(timeline.to_chrome())) == 7


def test_clocks_stay_as_they_are_where_a_stage_saw_no_frame() -> None:
    first, second, third = ring([[1e-3, 2e-3, 3e-3]])
    stages = [first, second, replace(third, spans=())]
    assert read(stages, [5.0, 9.0]).stages[1].spans[0].began_s == pytest.approx(second.spans[0].began_s + 5.0)
    assert read(stages).hops_s()[1:] == [[], []]


def test_one_stage_has_no_hops_and_its_turns_alone() -> None:
    timeline = read([StageTimeline("mac-1", (span(SpanKind.TURN, 0, 1.0),))])
    assert timeline.hops_s() == []
    assert timeline.window(*FRAMES) is None
    assert timeline.stages[0].busy_s(0.0, 2.0) == pytest.approx(COMPUTE_S)
    assert arrows(timeline.to_chrome()) == []


def test_a_stage_is_busy_within_a_window_with_its_frames_and_the_coordinator_with_its_turns() -> None:
    first, second = read(ring([[1e-3, 1e-3]] * 2)).stages
    assert second.busy_s(0.0, math.inf) == pytest.approx(2 * COMPUTE_S)
    assert first.busy_s(0.0, math.inf) == pytest.approx(2 * (COMPUTE_S + 2e-3))  # a turn has its frame in it
    assert first.spent_s(0.0, math.inf, *FRAMES) == pytest.approx(2 * COMPUTE_S)
    began_s = second.spans[0].began_s
    assert second.busy_s(began_s + 0.004, began_s + 0.007) == pytest.approx(0.003)
    assert second.busy_s(began_s - 1, began_s) == 0.0


def test_a_window_is_from_the_first_frame_of_a_kind_to_its_last_return() -> None:
    prefill, decode = ring([[1e-3, 1e-3]], SpanKind.PREFILL), ring([[1e-3, 1e-3]] * 2)
    later = [
        replace(stage, spans=tuple(replace(s.moved(9.0), serial=s.serial + 1) for s in stage.spans)) for stage in decode
    ]
    timeline = Timeline(tuple(replace(a, spans=a.spans + b.spans) for a, b in zip(prefill, later, strict=True)))
    round_s = 2 * (COMPUTE_S + 1e-3) + 1e-6
    assert timeline.window(SpanKind.PREFILL) == pytest.approx((100.0, 100.0 + round_s))
    assert timeline.window(SpanKind.DECODE) == pytest.approx((109.0, 109.0 + 2 * round_s + 2e-3), abs=2e-6)
    assert timeline.within(105.0, math.inf).window(SpanKind.PREFILL) is None


@given(hops, st.sampled_from(FRAMES), st.sets(st.integers(1, 8)))
def test_every_arrow_of_a_trace_leaves_a_frame_and_comes_to_a_frame_or_to_the_next_turn(
    hops_s: list[list[float]], kind: SpanKind, dropped: set[int]
) -> None:
    first, second, *others = ring(hops_s, kind)
    for serial in dropped:
        second = without(second, serial)
    trace = json.loads(json.dumps(read([first, second, *others]).to_chrome(), allow_nan=False))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in slices)
    assert {event["pid"] for event in trace["traceEvents"] if event["ph"] == "M"} == {0, 1, 2, 3}
    for leaves, comes in arrows(trace):
        assert any(holds(frame, leaves) and frame["cat"] == kind for frame in slices)
        assert comes["ts"] >= leaves["ts"]
        if comes.get("bp") == "e":
            assert any(holds(frame, comes) and frame["cat"] == kind for frame in slices)
        else:
            assert comes["pid"] == 0  # and binds to the next turn, if there is one
    crossed = len(hops_s) - len(dropped & set(range(1, len(hops_s) + 1)))
    assert len(arrows(trace)) == 2 * crossed + 2 * len(hops_s)


def arrows(trace: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the ends of each arrow; each has its two."""
    ends = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "sf":
            ends[event["name"], event["cat"], event["id"]].append(event)
    for pair in ends.values():
        assert [event["ph"] for event in pair] == ["s", "f"]
    return [(leaves, comes) for leaves, comes in ends.values()]


def holds(frame: dict[str, Any], event: dict[str, Any]) -> bool:
    same_stage = (frame["pid"], frame["tid"]) == (event["pid"], event["tid"])
    return same_stage and -1e-3 <= event["ts"] - frame["ts"] <= frame["dur"] + 1e-3  # us, of floats near 100 s
