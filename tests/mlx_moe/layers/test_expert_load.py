"""Expert load: what the router chose is counted, and nothing else changes."""

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.layers.expert_load import SAMPLE, ExpertLoad
from mlx_moe.layers.experts import Experts
from mlx_moe.layers.steps import Steps, finish

N_EXPERTS = 8


class Doubling:
    """Experts that all double their input, and the peers that have them."""

    def bind(self, layer: int, own: Experts | None) -> "Doubling":  # noqa: ARG002
        return self

    def steps(self, x: mx.array, indices: mx.array, meanwhile: mx.array | None) -> Steps[mx.array]:  # noqa: ARG002
        yield from ()
        return mx.repeat(2 * x[:, None], indices.shape[1], axis=1)


frames = st.lists(st.lists(st.permutations(range(N_EXPERTS)), min_size=1, max_size=SAMPLE // 4), max_size=4)


@given(st.lists(frames, max_size=3))
def test_each_chosen_expert_of_a_sample_is_counted_once(seconds: list[list[list[list[int]]]]) -> None:
    load = ExpertLoad(N_EXPERTS, Doubling())
    layers = [load.bind(layer, None) for layer in (3, 5)]
    expected = np.zeros(N_EXPERTS)
    for second in seconds:
        for frame in second:
            chosen = np.array(frame)[:, :2]
            x = mx.ones((len(frame), 4))
            rows = finish(layers[1].steps(x, mx.array(chosen), None))
            assert (np.array(rows) == 2).all()
            expected += np.bincount(chosen.reshape(-1), minlength=N_EXPERTS)
        counts = load.counts()
    if expected.any():
        assert set(counts) == {5}
        assert (counts[5] == expected).all()


def test_no_more_is_kept_than_a_sample_and_one_frame() -> None:
    load = ExpertLoad(N_EXPERTS, Doubling())
    layer = load.bind(0, None)
    for _ in range(10):
        finish(layer.steps(mx.ones((SAMPLE - 1, 4)), mx.zeros((SAMPLE - 1, 2), mx.int32), None))
    assert load.counts()[0].tolist() == [2 * 2 * (SAMPLE - 1)] + [0] * (N_EXPERTS - 1)
