"""Striping: distributes a layer's experts over the nodes of a group.

Experts are dealt in turn, so that every routing group (a run of consecutive experts) is spread over all nodes. A
token's experts come from few routing groups; a node that had a whole group would have more work (on average 5.39 of a
token's 8 experts on the busiest of two nodes instead of 5.07, 3.03 instead of 2.54 of eight).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cluster.placement.costs import ModelCosts


def stripe(n_experts: int, weights: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Deal experts to owners in proportion to `weights`, also within every run of experts; return each owner's.

    Each owner's turns are evenly spaced; the owner whose turn is earliest gets the next expert.
    """
    wanted = np.arange(n_experts) + 0.5
    with np.errstate(divide="ignore"):
        turns = wanted / np.array(weights, dtype=np.float64)[:, None]  # [owners, n_experts]
    owner = turns.argsort(axis=None, kind="stable")[:n_experts] // n_experts
    return tuple(tuple(np.flatnonzero(owner == i).tolist()) for i in range(len(weights)))


def divide(
    model: ModelCosts, budgets: Sequence[int], positions: int, *, coordinator: bool
) -> tuple[tuple[int, ...], ...] | None:
    """Return the experts that each node of a group owns in MoE layers, the leader first; None if a peer gets none.

    All nodes are filled in proportion to their budgets (bytes): peers with experts, the leader first with the parts
    that only it can hold. The shares depend only on the group, not on its number of layers.
    """
    moe = [layer for layer in model.layers if layer.expert_bytes]
    if not moe:
        return None
    free = [max(0, budget) for budget in budgets]
    if coordinator:
        free[0] = max(0, free[0] - model.coordinator_bytes(positions))
    fixed = sum(layer.owned_bytes(0, positions) for layer in moe)
    whole = sum(layer.owned_bytes(model.n_experts, positions) for layer in moe)
    fill = Fraction(whole, max(1, sum(free)))
    leader = max(0, int(free[0] * fill) - fixed)
    owned = stripe(model.n_experts, [leader, *(int(budget * fill) for budget in free[1:])])
    return owned if all(owned[1:]) else None
