"""Router: choices and weights against a plain reference, position by position."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_moe.config import MoEConfig
from mlx_moe.layers.router import TopKRouter
from mlx_moe.layers.weights import DenseWeight, Linear

HIDDEN = 8


def config(**changes: object) -> MoEConfig:
    values = {
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 8,
        "n_shared_experts": 1,
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "n_group": 4,
        "topk_group": 2,
        "correction_bias": True,
    }
    return MoEConfig(**(values | changes))  # type: ignore[arg-type]


def reference(c: MoEConfig, x: np.ndarray, gate: np.ndarray, bias: np.ndarray) -> list[dict[int, float]]:
    """Route by sorting, one position after the other."""
    routed = []
    for row in x @ gate.T:
        scores = 1 / (1 + np.exp(-row)) if c.scoring_func == "sigmoid" else np.exp(row) / np.exp(row).sum()
        choice = scores + bias
        groups = np.split(np.arange(c.n_routed_experts), c.n_group)
        best = sorted(groups, key=lambda g: -np.sort(choice[g])[-c.scores_of_group :].sum())[: c.topk_group]
        allowed = np.concatenate(best) if c.n_group > 1 else np.arange(c.n_routed_experts)
        chosen = sorted(allowed, key=lambda e: -choice[e])[: c.num_experts_per_tok]
        total = sum(scores[e] for e in chosen) if c.norm_topk_prob else 1.0
        routed.append({int(e): float(scores[e] / total * c.routed_scaling_factor) for e in chosen})
    return routed


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_group": 1, "topk_group": 1},
        {"norm_topk_prob": False},
        {"num_experts_per_tok": 1},
        {"scoring_func": "softmax", "norm_topk_prob": False, "scores_of_group": 1},
        {"scoring_func": "softmax", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0},
    ],
)
def test_routes_as_the_reference(changes: dict[str, object], spread: float) -> None:
    c = config(**changes)
    rng = np.random.default_rng(3)
    x, gate = rng.normal(size=(40, HIDDEN)), rng.normal(size=(16, HIDDEN))
    bias = rng.normal(size=16) * spread
    router = TopKRouter(c, Linear(DenseWeight(mx.array(gate.astype(np.float32)))), mx.array(bias.astype(np.float32)))
    indices, weights = router(mx.array(x.astype(np.float32)))
    wanted = reference(c, x, gate, bias)
    for got_indices, got_weights, want in zip(indices.tolist(), weights.tolist(), wanted, strict=True):
        got = dict(zip(got_indices, got_weights, strict=True))
        assert got.keys() == want.keys()
        assert got == pytest.approx(want, rel=1e-4)


def test_a_group_left_out_stays_out_where_the_bias_makes_all_scores_negative() -> None:
    c = config(num_experts_per_tok=8)
    router = TopKRouter(c, Linear(DenseWeight(mx.zeros((16, HIDDEN)))), mx.array([-2.0] * 8 + [-3.0] * 8))
    indices, _ = router(mx.zeros((1, HIDDEN)))
    assert sorted(indices[0].tolist()) == list(range(8))
