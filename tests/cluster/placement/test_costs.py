"""Costs: the published totals, and the engine's own count of a real checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_moe
from cluster.cost_reader import CostReader, read_costs
from cluster.placement import Links, solve, validate
from cluster.placement.chips import parse_nodes
from cluster.placement.costs import assumed_sizes, model_costs
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.content import read_content
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError
from mlx_moe.families import head_parameters, mtp_parameters
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests import checkpoints
from tests.checkpoints import Shape
from tests.families import llama


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


@pytest.mark.parametrize(
    ("name", "parameters", "index_bytes", "n_layers"),
    [("gpt-oss-20b", 20_914_757_184, 13_761_264_768, 24), ("gpt-oss-120b", 116_829_156_672, 65_248_815_744, 36)],
)
def test_what_was_published_in_4_bits_is_planned_with_the_bytes_of_its_files(
    name: str, parameters: int, index_bytes: int, n_layers: int
) -> None:
    costs = read_costs(name, float_bytes=2)
    assert costs.parameters == parameters
    routers = len(costs.layers) * costs.n_experts * (costs.hidden_size + 1)
    assert costs.weights_bytes == index_bytes + 2 * routers  # these are float32 in memory
    assert read_costs(name, float_bytes=2, bits=8).weights_bytes < costs.weights_bytes  # the experts stay as published
    assert read_costs(name, float_bytes=2, bits=3).weights_bytes < 0.8 * costs.weights_bytes
    head_bytes = 2 * 8 * 64 * 2  # keys and values of a position; every other layer keeps 4,096 positions of them
    assert costs.kv_bytes_per_position == n_layers // 2 * head_bytes
    assert sum(layer.cache.fixed_bytes for layer in costs.layers) == n_layers // 2 * 4096 * head_bytes


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gpt-oss-20b", 3.61),
        ("gpt-oss-120b", 5.13),
        ("mixtral-8x7b", 12.7),
        ("glm-4.5-air", 12.8),
        ("deepseek-v3", 36.6),
    ],
)
def test_a_token_uses_the_published_number_of_parameters(name: str, billions: float) -> None:
    """Those of gpt-oss are the model card's; others are published as 12.9, 12 and 37, rounded or with the embedding."""
    assert read_costs(name, float_bytes=2).active_parameters / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize(("dtype", "float_bytes"), [(mx.float32, 4), (mx.bfloat16, 2)])
def test_a_checkpoint_costs_what_the_engine_will_take(dtype: mx.Dtype, float_bytes: int) -> None:
    reader = CostReader("demo", float_bytes=float_bytes)
    costs = reader.at()
    with Checkpoint.open(library.locate("demo")) as checkpoint:
        config = families.config_of(checkpoint)

        def taken(parameters: list[Parameter]) -> int:
            return sum(s.memory_bytes(dtype.size) for s in find(checkpoint, parameters))

        for i, layer in enumerate(costs.layers):
            for owned in ((), (3,), tuple(range(16))):
                spec = ShardSpec(range(i, i + 1), {i: owned})
                assert layer.owned_bytes(len(owned), 0) == taken(spec.parameters(config))
        both = taken(head_parameters(config)) + taken(mtp_parameters(config))
        assert costs.coordinator_bytes(0) == both
        assert reader.content_hash() == read_content(checkpoint, config).hash
    assert costs.coordinator_bytes(10) - both == 10 * float_bytes * config.attention.kv_width


def test_other_bits_are_assumed_when_asked_for() -> None:
    assert read_costs("deepseek-v3", float_bytes=2, bits=8).bits == pytest.approx(8.5, abs=0.01)
    estimate = read_costs("deepseek-v3", float_bytes=2, bits=8).at_bits(4.5)
    assert estimate.weights_bytes == pytest.approx(read_costs("deepseek-v3", float_bytes=2).weights_bytes, rel=0.001)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_position_takes_the_same_bytes_for_the_model_for_show_and_for_the_planner(dtype: str) -> None:
    directory = checkpoints.saved(Shape("qwen3_moe"), dtype=dtype)
    loaded = mlx_moe.load(directory)
    computes_in = loaded.kv_bytes_per_position // families.cache_costs(loaded.config, 1).bytes_per_position
    assert mlx_moe.describe(directory).kv_bytes_per_position == loaded.kv_bytes_per_position
    assert read_costs(str(directory), float_bytes=computes_in).kv_bytes_per_position == loaded.kv_bytes_per_position
    on_metal = read_costs(str(directory), float_bytes=2)  # as stored, there
    assert on_metal.float_bytes == (4 if dtype == "float32" else 2)


def test_unknown_models_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"no model 'opus-5' here; .* one of demo, .*deepseek-v3, .*, kimi-k2,"
    ):
        read_costs("opus-5", float_bytes=2)


@pytest.mark.parametrize(
    ("name", "advised"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("mlx-community/DeepSeek-V3-0324-4bit", "deepseek-v3-0324"),
        ("mlx-community/DeepSeek-V3.1-Terminus-4bit", "deepseek-v3.1"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b-instruct-2507"),
    ],
)
def test_a_repository_that_is_not_here_is_told_with_the_plan_of_the_same_model(name: str, advised: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_costs(name, float_bytes=2)
    assert f"download it with `moe-cluster pull {name}`; to plan" in str(refused.value)
    assert str(refused.value).endswith(f"without its files: `moe-cluster plan {advised}`")


@pytest.mark.parametrize("name", ["DeepSeek-V3", "qwen3:235b", "kimi-k2-instruct", "deepseek-r1:671b"])
def test_a_model_is_planned_by_the_name_that_was_typed(name: str) -> None:
    costs = read_costs(name, float_bytes=2)
    assert costs.name == name
    assert costs.parameters > 2e11


@pytest.mark.parametrize(
    "name",
    [
        "gemma:7b",
        "Qwen/Qwen3.5-27B",
        "zai-org/GLM-4.5V",
        "deepseek-ai/DeepSeek-V4-Flash",
        "meta-llama/Llama-3.2-11B-Vision",
    ],
)
def test_a_family_that_is_not_run_is_refused_before_anybody_downloads_it(name: str) -> None:
    for refuse in (lambda: read_costs(name, float_bytes=2), lambda: library.locate(name)):
        with pytest.raises(UnsupportedModelError, match=f"{name} belongs to .+, which this version does not run"):
            refuse()


def test_a_dense_model_is_placed_by_whole_layers() -> None:
    values = {**llama.CONFIG, "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80}
    values |= {"intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}
    config = families.read_config(values)
    sizes = assumed_sizes(uniform(8), 2)
    costs = model_costs("dense", config, sizes, float_bytes=2, has_mtp=False)
    assert costs.parameters == 70_553_706_496
    placement = solve(costs, parse_nodes("3xM4-Pro-64GB"), Links(), context_tokens=512, concurrency=1)
    validate(placement, config)
    assert len(placement.stages) > 1
    assert not any(stage.peers for stage in placement.stages)


def test_planning_and_a_nodes_daemon_import_no_mlx() -> None:
    script = (
        "import sys, cluster.client, cluster.cost_reader, cluster.daemon.daemon\n"
        "cluster.cost_reader.read_costs('demo', float_bytes=2)\n"
        "print('mlx' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"


def test_a_models_headers_are_read_once_however_many_bits_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    open_checkpoint = Checkpoint.open

    def counted(directory: Path) -> Checkpoint:
        opened.append(directory)
        return open_checkpoint(directory)

    monkeypatch.setattr(Checkpoint, "open", counted)
    reader = CostReader("demo", float_bytes=2)
    assert reader.at(2).weights_bytes < reader.at(4).weights_bytes < reader.at(8).weights_bytes
    assert reader.content_hash()
    assert reader.at() == reader.at()
    assert len(opened) == 1
