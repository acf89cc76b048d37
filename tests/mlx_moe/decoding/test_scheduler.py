"""Scheduler: answers that decode have turns together, divided among the stages, and no turn is lost."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.decoding.scheduler import Scheduler
from mlx_moe.layers.batches import TOGETHER, largest_batch


def scheduler(decoding: set[str], others: set[str], n_stages: int) -> Scheduler:
    """Return a scheduler in which all answers are ready."""
    found = Scheduler(n_stages, decoding.__contains__)
    for name in sorted(decoding | others):
        found.begin(name, prompt=1, written=0, limit=10, max_tokens=10)
        found.ready(name)
    return found


NAMES = st.sets(st.integers(0, 99).map("{:02}".format), max_size=40)


@given(NAMES, NAMES, st.integers(1, 9))
def test_each_ready_answer_has_one_turn_and_those_that_decode_at_least_every_second(
    decoding: set[str], others: set[str], n_stages: int
) -> None:
    others -= decoding
    answers = scheduler(decoding, others, n_stages)
    turns = list(iter(answers.next, []))
    assert sorted(name for turn in turns for name in turn) == sorted(decoding | others)
    of_decoding = [number for number, turn in enumerate(turns) if set(turn) <= decoding]
    for turn in turns:
        assert set(turn) <= decoding or len(turn) == 1
        assert len(turn) <= largest_batch(len(decoding), n_stages)
    assert of_decoding == sorted(of_decoding)
    last = max(of_decoding, default=-1)
    assert all(number in of_decoding or number + 1 in of_decoding for number in range(last))


def test_users_are_divided_among_the_stages_and_a_batch_has_a_limit() -> None:
    assert [largest_batch(users, 8) for users in (0, 1, 8, 15, 16, 31, 32, 200)] == [1, 1, 1, 1, 2, 3, 4, TOGETHER]
    assert [largest_batch(users, 1) for users in (1, 2, 16, 17)] == [1, 2, TOGETHER, TOGETHER]


def test_an_answer_that_is_held_has_no_turn_until_it_goes_on() -> None:
    answers = scheduler({"a", "b"}, set(), 1)
    answers.hold("a")
    assert answers.next() == ["b"]
    assert answers.next() == []
    answers.unhold("a")
    assert answers.next() == ["a"]
