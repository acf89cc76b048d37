"""Gated delta rule: folds positions into a state per head, from which queries read.

Source: Gated Delta Networks, arXiv 2412.06464, section 3; transformers' `qwen3_next` for the numbers. All float32.
Shapes: L positions, H heads, K key width, V value width, C blocks, N positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

BLOCK = 64
"""Positions that are computed at a time where there are several; their interactions are a matrix per head."""

SMALLEST_INVERSE = 4
"""Matrices up to this size are inverted by their powers, of which few differ from 0."""


@dataclass(frozen=True, slots=True)
class DeltaInputs:
    """What L positions read and write: queries and keys `[H, L, K]`, values `[H, L, V]`.

    `log_decay` `[H, L]` is at most 0: the state fades by its exponential before each position writes. `beta` `[H, L]`,
    from 0 to 1, is how far the state's value for a key moves to the position's value.
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    log_decay: mx.array
    beta: mx.array


def advance(state: mx.array, x: DeltaInputs) -> tuple[mx.array, mx.array]:
    """Fold positions into a state `[H, K, V]`; return the new state, and what the queries read `[H, L, V]`.

    The bits depend on the number of positions, as with any matrix product.
    """
    return _step(state, x) if x.keys.shape[1] == 1 else _scan(state, x)


def _step(state: mx.array, x: DeltaInputs) -> tuple[mx.array, mx.array]:
    """Fold one position by the definition."""
    state = state * mx.exp(x.log_decay)[..., None]
    delta = (x.values - x.keys @ state) * x.beta[..., None]  # [H, 1, V]
    state = state + x.keys.swapaxes(-1, -2) * delta
    return state, x.queries @ state


def _scan(state: mx.array, x: DeltaInputs) -> tuple[mx.array, mx.array]:
    """Fold several positions, a block at a time: matrix products in place of a loop over positions.

    Within a block, every position's delta depends on the earlier ones' by a triangular matrix, whose inverse gives all
    deltas at once. Source: arXiv 2412.06464, section 3.3.
    """
    n_positions = x.keys.shape[1]
    size = min(BLOCK, 1 << (n_positions - 1).bit_length())
    queries, keys, values = (_blocks(array, size) for array in (x.queries, x.keys, x.values))  # [H, C, N, K or V]
    beta = _blocks(x.beta, size)[..., None]
    decay = mx.cumsum(_blocks(x.log_decay, size), axis=-1)[..., None]  # [H, C, N, 1], since the block's start
    between = mx.tril(mx.exp(mx.minimum(decay - decay.swapaxes(-1, -2), 0.0)))  # [H, C, N, N]
    weighted = keys * beta
    inverse = _inverse(mx.tril(weighted @ keys.swapaxes(-1, -2) * -between, -1))
    written = inverse @ (values * beta)
    faded = inverse @ (weighted * mx.exp(decay))
    scores = queries @ keys.swapaxes(-1, -2) * between
    queries = queries * mx.exp(decay)
    last = decay[:, :, -1:]  # [H, C, 1, 1]
    keys = (keys * mx.exp(last - decay)).swapaxes(-1, -2)
    last = mx.exp(last)
    read = []
    for block in range(keys.shape[1]):
        delta = written[:, block] - faded[:, block] @ state
        read.append(queries[:, block] @ state + scores[:, block] @ delta)
        state = state * last[:, block] + keys[:, block] @ delta
    return state, mx.concatenate(read, axis=1)[:, :n_positions]


def _blocks(array: mx.array, size: int) -> mx.array:
    """Cut the positions of an array `[H, L, ...]` into blocks `[H, C, N, ...]`; zeros fill the last and do nothing."""
    n_heads, n_positions, *width = array.shape
    padding = [(0, 0), (0, -n_positions % size), *((0, 0) for _ in width)]
    return mx.pad(array, padding).reshape(n_heads, -1, size, *width)


def _inverse(below: mx.array) -> mx.array:
    """Return the inverse of I - `below`, of strictly lower triangular matrices `[..., N, N]`, N a power of two.

    Halves are inverted first, as in substitution. The product of powers alone would need fewer steps, but where keys
    are alike its terms grow to 1e18 and cancel.
    """
    size = below.shape[-1]
    if size <= SMALLEST_INVERSE:
        square = below @ below
        identity = mx.eye(size)
        return (identity + below) @ (identity + square)
    half = size // 2
    first, second = _inverse(mx.stack([below[..., :half, :half], below[..., half:, half:]]))
    corner = second @ below[..., half:, :half] @ first
    upper = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
    return mx.concatenate([upper, mx.concatenate([corner, second], axis=-1)], axis=-2)
