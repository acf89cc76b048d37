"""Message sizes: the longest message that a worker's port takes, by what its role can need."""

from __future__ import annotations

from cluster.timeline import MOST_SPANS
from cluster.worker.loading import Loaded
from cluster.worker.role import Role
from mlx_moe.decoding.chunking import LONGEST_ALONE
from mlx_moe.model import most_text_bytes

LEAST_BYTES = 8 << 20
"""Taken by every role."""

SPAN_BYTES = 128
"""Most bytes of a span of a timeline, which passes all stages."""

_FLOAT_BYTES = 4
_PAIR_BYTES = 8
_MORE_BYTES = 1 << 20
"""What a frame or a request has beside its numbers or its text."""


def longest_received(role: Role, loaded: Loaded) -> int:
    """Return the bytes of the longest message: a chunk's hidden states, or for the coordinator a whole prompt."""
    config = loaded.config
    chunk = max(role.placement.chunks.longest, LONGEST_ALONE)  # an answer keeps the chunks of an earlier placement
    needed = [chunk * config.hidden_size * _FLOAT_BYTES]
    if role.leads:
        needed.append(len(role.placement.stages) * MOST_SPANS * SPAN_BYTES)
    else:  # each position asks for several experts
        needed[0] += chunk * config.moe.num_experts_per_tok * _PAIR_BYTES
    if role.coordinates:
        needed.append(most_text_bytes(max(config.context.tokens, role.placement.context_tokens)))
    return max(LEAST_BYTES, max(needed) + _MORE_BYTES)
