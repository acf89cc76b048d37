"""Weights: rows of a product are grouped where more rows at a time would change their bits."""

import mlx.core as mx
import pytest

from mlx_moe.layers import weights
from mlx_moe.layers.batches import TOGETHER
from mlx_moe.layers.weights import DenseWeight, rows_of_group

ROWS = mx.random.normal((TOGETHER, 24), key=mx.random.key(1))
MATRIX = mx.random.normal((8, 24), key=mx.random.key(2))


class Kernels:
    """A product that has another kernel, with other bits, from some number of rows on."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[int] = []

    def __call__(self, x: mx.array) -> mx.array:
        n_rows = x.shape[-2]
        self.calls.append(n_rows)
        return x @ MATRIX.T * (1.0 if n_rows <= self.limit else 1.0 + 1e-6)


@pytest.mark.parametrize(("limit", "size"), [(1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (15, 8), (16, 16), (99, 16)])
def test_the_largest_group_that_keeps_the_bits_of_each_row_is_found(limit: int, size: int) -> None:
    assert rows_of_group(Kernels(limit), ROWS) == size


@pytest.mark.parametrize("n_rows", [1, 2, 5, 11, TOGETHER, TOGETHER + 1])
def test_up_to_a_batch_each_row_is_as_if_alone_whatever_the_kernels_do(
    monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    kernels = Kernels(limit=4)
    monkeypatch.setattr(weights.mx, "default_device", lambda: mx.gpu)  # where rows are tried out
    monkeypatch.setattr(weights, "_ROWS_OF_GROUP", {})
    x = mx.random.normal((n_rows, 24), key=mx.random.key(3))
    for _ in range(2):
        kernels.calls.clear()
        product = weights._by_groups(kernels, x, "a matrix")
    assert kernels.calls == ([n_rows] if n_rows > TOGETHER else [4] * (n_rows // 4) + [n_rows % 4] * (n_rows % 4 > 0))
    alone = mx.concatenate([x[i : i + 1] @ MATRIX.T for i in range(n_rows)])
    assert mx.array_equal(product, alone) == (n_rows <= TOGETHER)


def test_the_rows_of_the_cpu_are_not_tried_out() -> None:
    before = dict(weights._ROWS_OF_GROUP)
    DenseWeight(MATRIX).matmul(ROWS)
    assert before == weights._ROWS_OF_GROUP
