"""Peak memory while loading: the shard and one tensor, measured in processes of their own. And what is left for KV."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import mlx_moe
from bench.synthetic import DEEPSEEK, write_checkpoint
from mlx_moe import memory
from mlx_moe.errors import TooLargeError

LOAD_A_SHARD = """
import json, resource, sys
import mlx.core as mx
from mlx_moe import families
from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.pipeline.shard import Shard
from mlx_moe.pipeline.shard_spec import ShardSpec

class Elsewhere:
    bind = staticmethod(lambda layer, own: own)  # nobody asks for an expert

path, layers, n_experts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
unit = 1 if sys.platform == "darwin" else 1024
mx.eval(mx.zeros(1))
with Checkpoint.open(path) as checkpoint:
    config = families.config_of(checkpoint)
    spec = ShardSpec(range(layers), {layer: tuple(range(n_experts)) for layer in range(layers)})
    stored = find(checkpoint, spec.parameters(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    loaded = loader.load(checkpoint, stored, mx.float32)
    shard = Shard.build(spec, config, loaded, mx.float32, Elsewhere())
print(json.dumps({
    "shard": loaded.nbytes,
    "largest": max(s.memory_bytes(mx.float32.size) for s in stored),
    "mlx_peak": mx.get_peak_memory(),
    "process_growth": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before,
}))
"""

OVERHEAD_BYTES = 24 << 20
"""Python objects, headers, thread stacks and allocator slack, beside 60 to 500 MB of weights."""


@dataclass(frozen=True)
class Loaded:
    """Bytes that a child process measured."""

    shard: int
    largest: int
    mlx_peak: int
    process_growth: int


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of about 1 GB, 4 bit."""
    path = tmp_path_factory.mktemp("large") / "deepseek"
    write_checkpoint(path, DEEPSEEK)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 2, 4, 8])
@pytest.mark.parametrize("of", ["layers", "experts"])
def test_loading_a_share_peaks_at_that_share_and_one_tensor(checkpoint: Path, of: str, share: int) -> None:
    n_layers, n_experts = DEEPSEEK["num_hidden_layers"], DEEPSEEK["n_routed_experts"]
    layers = max(2, n_layers // share) if of == "layers" else n_layers
    experts = n_experts // share if of == "experts" else n_experts
    command = [sys.executable, "-c", LOAD_A_SHARD, str(checkpoint), str(layers), str(experts)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded = Loaded(**json.loads(output))
    bound = loaded.shard + loaded.largest
    assert loaded.mlx_peak <= bound + (1 << 20)
    assert loaded.process_growth <= bound + OVERHEAD_BYTES


@pytest.mark.parametrize(("weights_bytes", "positions"), [(0, 95), (450, 50), (941, 0), (2000, 0)])
def test_kv_caches_may_take_what_the_weights_leave_of_the_budget(
    weights_bytes: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "budget_bytes", lambda: 1000)
    assert memory.kv_positions(weights_bytes, 10) == positions


def test_a_loaded_model_refuses_what_its_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_moe.load("demo")
    kept_bytes = model.kv_bytes_per_position
    weights_bytes = model.placement[0].weights_bytes
    monkeypatch.setattr(memory, "budget_bytes", lambda: int((weights_bytes + 400 * kept_bytes) / memory.HARD_LIMIT))
    small = mlx_moe.load("demo")
    assert len(list(small.generate(mlx_moe.Request((1,) * 20, max_tokens=4, ignore_eos=True)))) == 4
    with pytest.raises(TooLargeError, match="may take 512 positions of KV cache, the memory has room for 399"):
        next(small.generate(mlx_moe.Request((1,) * 400, max_tokens=4)))
