"""Quiet moments: nobody is answered, nobody was lost just now, and something has changed since the last plan."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cluster.daemon.quiet import RETRY_S, Comeback, Quiet, QuietRule

RULE = QuietRule(quiet_s=30, calm_s=60, every_s=300)


def idle(quiet: Quiet, *times: float, frames: int = 0) -> Quiet:
    for now in times:
        quiet = quiet.see(now, is_ready=True, is_answering=False, activity=frames)
    return quiet


def test_it_comes_when_nothing_was_answered_for_a_while() -> None:
    quiet = idle(Quiet(RULE), 0.0, 29.0)
    assert not quiet.is_due(29.0, "abc", None)
    assert quiet.is_due(30.0, "abc", None)
    answering = quiet.see(31.0, is_ready=True, is_answering=True, activity=0)
    assert not answering.is_due(60.0, "abc", None)
    assert idle(answering, 40.0).is_due(61.0, "abc", None)


def test_an_answer_between_two_looks_counts_too() -> None:
    assert not idle(idle(Quiet(RULE), 0.0), 20.0, frames=7).is_due(31.0, "abc", None)


def test_a_loss_defers_it() -> None:
    quiet = idle(Quiet(RULE), 0.0)
    assert not quiet.is_due(100.0, "abc", 41.0)
    assert quiet.is_due(101.0, "abc", 41.0)


def test_a_situation_is_looked_at_once() -> None:
    quiet = idle(Quiet(RULE), 0.0).looked("abc")
    assert not quiet.is_due(100.0, "abc", None)
    assert quiet.is_due(100.0, "abcd", None)


def test_a_plan_that_failed_is_tried_again_in_the_same_situation() -> None:
    quiet = idle(Quiet(RULE), 0.0).looked("abc").failed(40.0)
    assert not quiet.is_due(40.0 + RETRY_S - 1, "abc", None)
    assert quiet.is_due(40.0 + RETRY_S, "abc", None)
    assert quiet.is_due(40.0, "abcd", None)
    assert not quiet.looked("abc").is_due(40.0 + RETRY_S, "abc", None)


def test_a_model_that_is_not_ready_is_left_alone() -> None:
    quiet = idle(Quiet(RULE), 0.0).see(50.0, is_ready=False, is_answering=False, activity=0)
    assert not quiet.is_due(100.0, "abc", None)
    assert not idle(quiet, 101.0).is_due(102.0, "abc", None)


@given(st.lists(st.tuples(st.floats(0.5, 100), st.sampled_from("nlaf")), max_size=60))
def test_a_node_that_comes_and_goes_moves_nothing_more_often_than_allowed(steps: list[tuple[float, str]]) -> None:
    quiet, now, lost_at, nodes, frames = Quiet(RULE), 0.0, None, 0, 0
    moved: list[float] = []
    for seconds, what in steps:
        now += seconds
        nodes, frames = nodes + (what == "n"), frames + (what == "f")
        lost_at = now if what == "l" else lost_at
        quiet = quiet.see(now, is_ready=True, is_answering=what == "a", activity=frames)
        if quiet.is_due(now, nodes, lost_at):
            quiet = quiet.looked(nodes).moved(now)
            moved.append(now)
            assert what not in "laf"
    assert all(b - a >= RULE.every_s for a, b in itertools.pairwise(moved))


def test_a_model_that_ended_is_loaded_again_when_a_node_is_here_that_was_not() -> None:
    ended = Comeback().over({"a", "b"}).see({"a", "b"})  # b is lost, but not yet known to be
    assert not ended.is_due(1.0, {"a", "b"})
    ended = ended.see({"a"}).see({"a", "b"})
    assert ended.is_due(9.0, {"a", "b"})
    tried = ended.tried(9.0)
    assert not tried.is_due(10.0, {"a", "b"})
    assert tried.is_due(9.0 + RETRY_S, {"a", "b"})
    tried = tried.refused({"a", "b"})
    assert not tried.see({"a", "b"}).is_due(9.0 + RETRY_S, {"a", "b"})
    assert not tried.is_due(10.0, {"a", "b", "c"})
    assert tried.is_due(9.0 + RETRY_S, {"a", "b", "c"})
    assert tried.over({"a", "b", "c"}).see({"a", "b", "c"}).known == {"a", "b", "c"}
    assert tried.over({"a", "b"}).see({"a", "c"}).is_due(9.0 + RETRY_S, {"a", "c"})  # c came before the next look
    assert not Comeback().is_due(0.0, {"a"})
