"""Costs: the published totals, and the engine's own count of a real checkpoint."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest

from cluster.placement import read_costs
from mlx_moe import families, library, loader
from mlx_moe.checkpoint import Checkpoint
from mlx_moe.content import read_content
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError
from mlx_moe.families import head_parameters, mtp_parameters
from mlx_moe.parameter import Parameter
from mlx_moe.shard import ShardSpec


@pytest.mark.parametrize(
    ("name", "parameters", "gigabytes", "read_gigabytes", "kv_kib"),
    [
        ("deepseek-v3", 671_026_419_200, 377.6, 20.76, 68.6),
        ("kimi-k2", 1_026_408_232_448, 577.6, 18.06, 68.6),
        ("qwen3-235b-a22b", 235_093_634_560, 132.2, 12.13, 188),
        ("qwen3-30b-a3b", 30_532_122_624, 17.2, 1.71, 96),
    ],
)
def test_totals_are_the_published_ones(
    name: str, parameters: int, gigabytes: float, read_gigabytes: float, kv_kib: float
) -> None:
    costs = read_costs(name, float_bytes=2)
    assert costs.parameters == parameters
    assert costs.kv_bytes_per_position / 1024 == pytest.approx(kv_kib, abs=0.05)
    # The published sizes are of files; in memory the routers are float32, read whole for each token
    moe_layers = sum(layer.expert_bytes > 0 for layer in costs.layers)
    router = moe_layers * costs.n_experts * costs.hidden_size
    stored_router = 2.0 if costs.latent_attention else 4.5 / 8
    assert (costs.weights_bytes - (4 - stored_router) * router) / 1e9 == pytest.approx(gigabytes, abs=0.06)
    read = (costs.read_bytes_per_token - (4 - stored_router) * router) / 1e9
    assert read == pytest.approx(read_gigabytes, abs=0.01)


@pytest.mark.parametrize(("dtype", "float_bytes"), [(mx.float32, 4), (mx.bfloat16, 2)])
def test_a_checkpoint_costs_what_the_engine_will_take(dtype: mx.Dtype, float_bytes: int) -> None:
    costs = read_costs("demo", float_bytes=float_bytes)
    with Checkpoint.open(library.locate("demo")) as checkpoint:
        config = families.read_config(checkpoint.config)

        def taken(parameters: list[Parameter]) -> int:
            return sum(s.memory_bytes(dtype) for s in loader.find(checkpoint, parameters))

        for i, layer in enumerate(costs.layers):
            for owned in ((), (3,), tuple(range(16))):
                spec = ShardSpec(range(i, i + 1), {i: owned})
                assert layer.owned_bytes(len(owned), 0) == taken(spec.parameters(config))
        both = taken(head_parameters(config)) + taken(mtp_parameters(config))
        assert costs.coordinator_bytes(0) == both
        assert costs.content_hash == read_content(checkpoint, config).hash
    assert costs.coordinator_bytes(10) - both == 10 * float_bytes * config.attention.kv_width


def test_other_bits_are_assumed_when_asked_for() -> None:
    assert read_costs("deepseek-v3", float_bytes=2, bits=8).bits == pytest.approx(8.5, abs=0.01)
    assert read_costs("demo", float_bytes=2, bits=4).content_hash == ""
    estimate = read_costs("deepseek-v3", float_bytes=2, bits=8).at_bits(4.5)
    assert estimate.weights_bytes == pytest.approx(read_costs("deepseek-v3", float_bytes=2).weights_bytes, rel=0.001)


def test_unknown_models_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequestError, match=r"no model 'gpt-5' here.*deepseek-v3, kimi-k2, qwen3-235b-a22b"):
        read_costs("gpt-5", float_bytes=2)
    with pytest.raises(UnsupportedModelError, match="gpt-oss-120b is of a family that is not run"):
        read_costs("gpt-oss-120b", float_bytes=2)


def test_planning_imports_no_mlx() -> None:
    script = "import sys, cluster.placement as p; p.read_costs('demo', float_bytes=2); print('mlx.core' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"
