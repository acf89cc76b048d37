"""Which ended prompts are kept for later requests."""

from cluster.worker.kept_prefixes import KeptPrefixes
from mlx_moe.decoding.sequence import Sequence


def sequence(*token_ids: int, chunk_length: int = 2) -> Sequence:
    made = Sequence(chunk_length=chunk_length)
    for start in range(0, len(token_ids), chunk_length):
        made.keep(list(token_ids[start : start + chunk_length]))
    return made


def test_one_that_another_covers_is_not_kept_twice() -> None:
    kept = KeptPrefixes()
    first, longer, other, unlike = sequence(1, 2), sequence(1, 2, 3, 4), sequence(5, 6), sequence(1, 2, chunk_length=1)
    assert kept.keep(first) == []
    assert kept.keep(longer) == [first]
    assert kept.keep(other) == []
    assert kept.keep(unlike) == []
    assert kept.keep(again := sequence(1, 2, 3, 4)) == [longer]
    assert kept.keep(sequence(5, 6, 7, 8)) == [other]
    assert again not in kept.keep(sequence(9, 9))


def test_the_least_recently_used_ones_go_and_those_that_were_evicted() -> None:
    kept = KeptPrefixes(most=2)
    a, b, c = sequence(1, 1), sequence(2, 2), sequence(3, 3)
    assert [*kept.keep(a), *kept.keep(b)] == []
    assert kept.keep(c) == [a]
    b.rewind(0)
    assert kept.keep(sequence(4, 4)) == [b]
    empty = sequence()
    assert kept.keep(empty) == [empty]
