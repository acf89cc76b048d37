"""Dispatch: every chosen pair goes to its owner once, and its row comes back to its place."""

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.layers.expert_dispatch import SORT_FROM, Dispatch, Integers

N_EXPERTS = 12


@st.composite
def choices(draw: st.DrawFn) -> tuple[dict[int, int], Integers]:
    """Owners of the experts, and what a router may choose: other experts for each position, in any order."""
    owners = draw(st.lists(st.integers(0, 4), min_size=N_EXPERTS, max_size=N_EXPERTS))
    k = draw(st.integers(1, 5))
    rows = draw(st.lists(st.permutations(range(N_EXPERTS)), min_size=1, max_size=24))
    return dict(enumerate(owners)), np.array([row[:k] for row in rows], dtype=np.uint32)


@given(choices())
def test_rows_of_all_owners_make_the_chunk_in_the_routers_order(choice: tuple[dict[int, int], Integers]) -> None:
    owners, indices = choice
    split = Dispatch(owners).split(indices)
    rows = {}
    for owner, pairs in split.pairs.items():
        assert {owners[int(expert)] for expert in pairs.experts} == {owner}
        rows[owner] = mx.array(np.stack([pairs.positions, pairs.experts], axis=1).astype(np.int32))
    joined = np.array(split.join(rows))
    assert np.array_equal(joined[..., 0], np.broadcast_to(np.arange(len(indices))[:, None], indices.shape))
    assert np.array_equal(joined[..., 1], indices)


@given(choices())
def test_pairs_are_sorted_where_the_whole_chunk_has_many_whatever_an_owner_has(
    choice: tuple[dict[int, int], Integers],
) -> None:
    owners, indices = choice
    for pairs in Dispatch(owners).split(indices).pairs.values():
        assert pairs.by_expert == (indices.size >= SORT_FROM)
        assert not pairs.by_expert or np.array_equal(pairs.experts, np.sort(pairs.experts))


def test_an_owner_without_a_chosen_expert_is_not_asked() -> None:
    split = Dispatch({0: 0, 1: 1, 2: 2, 3: 1}).split(np.array([[1, 2]], dtype=np.uint32))
    assert list(split.pairs) == [1, 2]
