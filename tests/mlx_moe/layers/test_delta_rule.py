"""Delta rule: blocks of positions give what one position after the other gives, also where keys are alike."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_moe.layers.delta_rule import DeltaInputs, advance

HEADS, KEY, VALUE = 3, 16, 24


def inputs(n_positions: int, *, alike: bool = False) -> DeltaInputs:
    """Return random inputs; with keys that are `alike`, hardly fading, each position undoes most of the one before."""
    mx.random.seed(n_positions)
    keys = mx.random.normal((HEADS, n_positions, KEY)) * (0.05 if alike else 1.0) + float(alike)
    return DeltaInputs(
        queries=mx.random.normal((HEADS, n_positions, KEY)),
        keys=keys / mx.linalg.norm(keys, axis=-1, keepdims=True),
        values=mx.random.normal((HEADS, n_positions, VALUE)),
        log_decay=-mx.abs(mx.random.normal((HEADS, n_positions))) * (0.001 if alike else 0.5),
        beta=mx.sigmoid(mx.random.normal((HEADS, n_positions)) + (6.0 if alike else 0.0)),
    )


def by_definition(state: mx.array, x: DeltaInputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the last state and what is read, in float64, one position after the other."""
    fields = (x.queries, x.keys, x.values, x.log_decay, x.beta)
    queries, keys, values, log_decay, beta = (np.array(field).astype(np.float64) for field in fields)
    last, read = np.array(state).astype(np.float64), []
    for i in range(keys.shape[1]):
        last = last * np.exp(log_decay[:, i, None, None])
        delta = (values[:, i] - np.einsum("hk,hkv->hv", keys[:, i], last)) * beta[:, i, None]
        last = last + keys[:, i, :, None] * delta[:, None]
        read.append(np.einsum("hk,hkv->hv", queries[:, i], last))
    return last, np.stack(read, axis=1)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("n_positions", [1, 2, 3, 5, 31, 64, 65, 200])
def test_any_number_of_positions_gives_the_numbers_of_the_definition(n_positions: int, alike: bool) -> None:
    x, state = inputs(n_positions, alike=alike), mx.random.normal((HEADS, KEY, VALUE), key=mx.random.key(1))
    for got, wanted in zip(advance(state, x), by_definition(state, x), strict=True):
        assert got.shape == wanted.shape
        assert np.abs(np.array(got) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_fading_that_leaves_nothing_is_no_nan() -> None:
    x = replace(inputs(70), log_decay=mx.full((HEADS, 70), -200.0))
    state, read = advance(mx.ones((HEADS, KEY, VALUE)), x)
    assert mx.isfinite(state).all().item()
    assert np.allclose(np.array(read), by_definition(mx.ones((HEADS, KEY, VALUE)), x)[1], atol=1e-5)
