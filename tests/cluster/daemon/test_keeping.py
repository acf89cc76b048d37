"""Who keeps the authority: chosen by one keeper, among nodes that are trusted with it and here."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.daemon.keeping import KEEPERS, next_keepers
from cluster.trust import Issued, StoredToken

NODES = st.sampled_from("abcdefgh")


def issued(keepers: str, joined: str, guests: str = "") -> Issued:
    tokens = StoredToken("1", 0, 9, tuple(joined)), StoredToken("2", 0, 9, tuple(guests), guest=True)
    return Issued(tokens, tuple(keepers))


def test_the_first_that_joined_become_keepers_when_they_are_here() -> None:
    assert next_keepers(issued("a", "bcd"), "", "bcd", "a") == ["b", "c"]
    assert next_keepers(issued("a", "bcd"), "", "cd", "a") == ["c", "d"]
    assert next_keepers(issued("ab", "bcd"), "", "d", "a") == ["d"]
    assert next_keepers(issued("abc", "bcd"), "", "bcd", "a") == []


def test_who_is_removed_is_replaced_and_not_chosen_again() -> None:
    assert next_keepers(issued("abc", "bcd"), "b", "cd", "a") == ["d"]
    assert next_keepers(issued("ac", "bcd"), "b", "bc", "a") == []


def test_only_the_first_keeper_that_is_here_chooses() -> None:
    assert next_keepers(issued("ab", "bcd"), "", "acd", "b") == []
    assert next_keepers(issued("ab", "bcd"), "", "cd", "b") == ["c"]


def test_a_guest_is_never_chosen() -> None:
    assert next_keepers(issued("a", "", "bcd"), "", "bcd", "a") == []


@given(st.lists(NODES, unique=True), st.lists(NODES, unique=True), st.lists(NODES, unique=True), st.sets(NODES))
def test_there_are_never_more_than_wanted(
    keepers: list[str], joined: list[str], here: list[str], gone: set[str]
) -> None:
    all_issued = issued("".join(keepers), "".join(joined))
    left = [keeper for keeper in keepers if keeper not in gone]
    chosen = [node for own in "abcdefgh" for node in next_keepers(all_issued, gone, set(here) - {own}, own)]
    assert set(chosen) <= set(joined) - gone - set(keepers)
    assert len({*left, *next_keepers(all_issued, gone, here, left[0])} if left else ()) <= max(KEEPERS, len(left))
