"""Timing: the time of a layer on the node, or the group of nodes, that holds it.

    t = c + bytes read / bandwidth                          one position
    t = c + bytes read / bandwidth + operations / TFLOPS    a chunk of a prompt

The second is a sum instead of a maximum because it reproduces published times to first token (fitted): unpacking
weights and multiplying overlap little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from cluster.placement.capacity import HOP_S, Link, Links, NodeCapacity
from cluster.placement.costs import LayerCosts, ModelCosts

EXCHANGE_S = 0.75e-3
"""(M: 0.5 to 1 ms) Seconds from a leader to expert peers and back, over gRPC on a link with the default latency."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A node that owns some of a layer's experts, and its link to the leader (None for the leader itself)."""

    node: NodeCapacity
    n_experts: int
    link: Link | None = None


def slower_way(links: Links, a: str, b: str) -> Link:
    """Return the link to assume for a round trip: the higher latency and the lower rate of the two directions."""
    there, back = links.between(a, b), links.between(b, a)
    return Link(max(there.latency_s, back.latency_s), min(there.bytes_per_s, back.bytes_per_s))


def decode_s(
    model: ModelCosts, layer: LayerCosts, owners: Sequence[Owner], position: int, n_sequences: int = 1
) -> float:
    """Return the mean seconds of a step of so many sequences, each attending to `position` others.

    The leader is `owners[0]`. A batch reads each expert that it chooses once; its operations take no time of their own
    (assumed: up to TOGETHER rows, a product waits for its weights).
    """
    leader = owners[0].node
    read = (layer.fixed_bytes + n_sequences * position * layer.kv_bytes) / _bytes_per_s(leader)
    seconds = _overhead_s(model, layer, leader) + read
    if n_sequences == 1 or not layer.expert_bytes:
        return seconds + _slowest_owner_s(model, layer, owners)
    chosen, rows = touched_experts(model, n_sequences), n_sequences * model.experts_per_token
    slowest = 0.0
    for owner in owners:
        share = owner.n_experts / model.n_experts
        reads = share * chosen * layer.expert_bytes / _bytes_per_s(owner.node)
        slowest = max(slowest, reads + _exchange_s(model, owner, n_sequences + share * rows))
    return seconds + slowest


def touched_experts(model: ModelCosts, n_positions: int) -> float:
    """Return how many experts positions choose together on average, if each chooses at random.

    L positions of which each chooses k of n experts choose n (1 - (1 - k/n)^L).
    """
    return model.n_experts * (1 - (1 - model.experts_per_token / model.n_experts) ** n_positions)


def prefill_s(model: ModelCosts, layer: LayerCosts, owners: Sequence[Owner], start: int, end: int) -> float:
    """Return the seconds of a chunk of positions [start, end)."""
    leader, length = owners[0].node, end - start
    pairs = length * (start + end) // 2
    flops = 2 * length * layer.fixed_parameters + pairs * layer.attention_flops
    read = layer.fixed_bytes + end * layer.kv_bytes
    seconds = _overhead_s(model, layer, leader) + read / _bytes_per_s(leader) + flops / (leader.tflops * 1e12)
    if not layer.expert_bytes:
        return seconds
    touched, slowest = touched_experts(model, length), 0.0
    for owner in owners:
        share = owner.n_experts / model.n_experts
        rows = length * model.experts_per_token * share
        compute = share * touched * layer.expert_bytes / _bytes_per_s(owner.node)
        compute += 2 * rows * layer.expert_parameters / (owner.node.tflops * 1e12)
        slowest = max(slowest, compute + _exchange_s(model, owner, length + rows))
    return seconds + slowest


def hop_s(model: ModelCosts, link: Link, positions: int = 1) -> float:
    """Return the seconds in which the hidden states of `positions` go from one stage to the next."""
    return link.seconds(positions * model.hidden_size * model.float_bytes)


def head_s(model: ModelCosts, node: NodeCapacity) -> float:
    """Return the seconds of the lm_head for one token."""
    return model.head_read_bytes / _bytes_per_s(node)


def draft_s(model: ModelCosts, node: NodeCapacity, position: int) -> float:
    """Return the seconds in which the multi-token prediction layer and the lm_head make one draft; 0 without one."""
    if model.mtp is None:
        return 0.0
    owner = Owner(node, model.n_experts)
    return decode_s(model, model.mtp, [owner], position) + head_s(model, node)


def _slowest_owner_s(model: ModelCosts, layer: LayerCosts, owners: Sequence[Owner]) -> float:
    """Return the mean seconds until the last owner has finished its part of the experts that a token chose.

    All choices of experts are assumed to be equally likely; with routing groups this ignores only how groups are
    chosen. The number of choices for which no owner needs more than t is a coefficient of a product of polynomials. The
    mean is the integral over t of the probability that some owner needs more.
    """
    if not layer.expert_bytes:
        return 0.0
    k = model.experts_per_token
    times = np.array([[_owner_s(model, layer, owner, chosen) for chosen in range(k + 1)] for owner in owners])
    if len(owners) == 1:
        return float(times[0, k])
    steps = np.unique(times)
    ways = np.zeros((len(steps), k + 1))
    ways[:, 0] = 1.0
    for owner, needed in zip(owners, times, strict=True):
        choices = np.array([comb(owner.n_experts, chosen) for chosen in range(k + 1)], dtype=np.float64)
        ways = _product(ways, np.where(needed <= steps[:, None], choices, 0.0))
    late = 1.0 - ways[:, k] / comb(model.n_experts, k)
    return float(steps[0] + (np.diff(steps) * late[:-1]).sum())


def _product(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Multiply polynomials row by row, without terms of a higher degree than theirs. `[steps, degree + 1]`."""
    result = np.zeros_like(a)
    for degree in range(a.shape[1]):
        result[:, degree:] += a[:, degree, None] * b[:, : a.shape[1] - degree]
    return result


def _owner_s(model: ModelCosts, layer: LayerCosts, owner: Owner, chosen: int) -> float:
    if not chosen:
        return 0.0
    return chosen * layer.expert_bytes / _bytes_per_s(owner.node) + _exchange_s(model, owner, 1 + chosen)


def _exchange_s(model: ModelCosts, owner: Owner, rows: float) -> float:
    """Return the extra seconds if the owner is not the leader: `rows` hidden states over the wire, there and back."""
    if owner.link is None:
        return 0.0
    wire = rows * model.hidden_size * model.float_bytes / owner.link.bytes_per_s
    return EXCHANGE_S * owner.link.latency_s / HOP_S + wire


def _overhead_s(model: ModelCosts, layer: LayerCosts, node: NodeCapacity) -> float:
    if not layer.expert_bytes:
        return node.dense_layer_us * 1e-6
    return (node.mla_moe_layer_us if model.latent_attention else node.moe_layer_us) * 1e-6


def _bytes_per_s(node: NodeCapacity) -> float:
    return node.bandwidth_gbps * 1e9
