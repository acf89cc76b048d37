"""Losses: a node that was lost must stay for a while before it gets a part; longer, the oftener it was lost."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.membership.contacts import TIMEOUT_S
from cluster.membership.losses import LONGEST_TRUST_S, REMEMBERED_S, TRUST_S, Losses
from cluster.membership.membership import Greeted, Left, Tick
from tests.cluster.membership.test_membership import ALONE, answered, apply, info


def test_a_node_that_was_never_lost_is_trusted_at_once() -> None:
    assert Losses().is_trusted("a", 5.0)
    assert Losses().back("a", 5.0).is_trusted("a", 5.0)
    assert Losses().newest() is None


def test_trust_comes_back_after_a_stay_that_doubles_with_each_loss() -> None:
    losses = Losses().lost("a", 10.0).back("a", 40.0)
    assert losses.trusted_at("a", 41.0) == 40.0 + TRUST_S
    losses = losses.lost("a", 50.0).back("a", 52.0)
    assert losses.trusted_at("a", 53.0) == 52.0 + 2 * TRUST_S
    assert losses.is_trusted("b", 53.0)
    assert losses.newest() == 50.0


def test_a_loss_is_forgotten() -> None:
    losses = Losses().lost("a", 0.0).back("a", REMEMBERED_S)
    assert losses.is_trusted("a", REMEMBERED_S)


@given(st.lists(st.floats(0.1, 900), min_size=1, max_size=40))
def test_a_flapping_node_is_left_out_most_of_the_time_and_never_for_ever(stays: list[float]) -> None:
    losses, now, used = Losses(), 0.0, 0
    for stay in stays:
        losses = losses.lost("a", now).back("a", now + 1)
        now += 1 + stay
        used += losses.is_trusted("a", now)
        assert losses.trusted_at("a", now) <= now + LONGEST_TRUST_S
    short = [stay for stay in stays if stay < TRUST_S]
    assert used <= len(stays) - len(short)


def test_silence_is_a_loss_and_a_farewell_is_not() -> None:
    one = info(1)
    here = apply(ALONE, answered(one), Greeted(one))
    gone = apply(here, Tick(), now=TIMEOUT_S + 1)
    losses = Losses().after(ALONE, here, 0.0).after(here, gone, 6.0)
    assert losses.newest() == 6.0
    again = apply(gone, answered(one), Greeted(one), now=7.0)
    assert losses.after(gone, again, 7.0).trusted_at(one.node_id, 7.0) == 7.0 + TRUST_S
    assert Losses().after(here, apply(here, Left(one.node_id)), 1.0).newest() is None
