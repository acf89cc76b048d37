"""Striping: every expert has an owner, and every routing group is spread."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.striping import divide, stripe
from tests.cluster.placement.small import layer, model


@given(st.integers(1, 300), st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any))
def test_every_expert_has_one_owner_and_shares_follow_weights(n_experts: int, weights: list[int]) -> None:
    owned = stripe(n_experts, weights)
    assert sorted(e for experts in owned for e in experts) == list(range(n_experts))
    for experts, weight in zip(owned, weights, strict=True):
        assert list(experts) == sorted(experts)
        assert abs(len(experts) - n_experts * weight / sum(weights)) < len(weights)
        assert weight or not experts


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 64))
def test_equal_owners_share_every_routing_group(n_owners: int, n_groups: int, group_size: int) -> None:
    for experts in stripe(n_groups * group_size, [7] * n_owners):
        for group in range(n_groups):
            here = [e for e in experts if e // group_size == group]
            assert len(here) in (group_size // n_owners, -(-group_size // n_owners))


def test_a_leader_gets_fewer_experts_for_what_only_it_holds() -> None:
    costs = model([layer(0, 1_000_000, 0)] * 4, n_experts=16)
    layers = divide(costs, [25_000_000, 25_000_000], 0, coordinator=False)
    first_layers = divide(costs, [25_000_000, 25_000_000], 0, coordinator=True)
    assert layers is not None
    assert [len(experts) for experts in layers] == [8, 8]
    assert first_layers is not None
    assert [len(experts) for experts in first_layers] == [7, 9]  # 5 MB of 25 are the coordinator's
    assert divide(costs, [1, 10**12], 0, coordinator=True) == ((), tuple(range(16)))
    assert divide(costs, [10**12, 1], 0, coordinator=False) is None
