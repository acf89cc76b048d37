"""Worker memory: a worker takes little more than its shard, also while it loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.synthetic import DEEPSEEK, write_checkpoint
from cluster.client import RemoteModel
from mlx_moe.decoding.request import Request
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import ROOT, Cluster, answer, until

pytestmark = pytest.mark.slow

N_NODES = 4
SHARE = 1.15
BESIDE_BYTES = 150 << 20
"""For the interpreter, MLX and gRPC: what a worker without a model takes is in it."""


@pytest.fixture(scope="module")
def model(five_nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RemoteModel:
    """Load a checkpoint of about 200 MB."""
    directory = tmp_path_factory.mktemp("memory") / "model"
    write_checkpoint(directory, DEEPSEEK | {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "vocab_size": 2048})
    return five_nodes.load(str(directory), five_nodes.place(str(directory), (3,) * N_NODES))


def peak_bytes(pid: int | str) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of another process is read from /proc")
def test_a_workers_peak_is_little_more_than_its_shard(five_nodes: Cluster, model: RemoteModel) -> None:
    sampling = SamplingParams(temperature=0.0)
    answer(model, Request(tuple(range(64)), sampling, max_tokens=2, ignore_eos=True))
    nodes = five_nodes.nodes[:N_NODES]
    until(lambda: all(five_nodes.holding(node).weights_bytes for node in nodes))
    idle = _idle_bytes()
    for node in nodes:
        (worker,) = node.workers()
        weights, peak = five_nodes.holding(node).weights_bytes, peak_bytes(worker.pid)
        print(f"{node.name}: shard {weights / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, idle worker {idle / 1e6:.0f} MB")
        assert peak <= SHARE * weights + BESIDE_BYTES


def _idle_bytes() -> int:
    """Return the peak of a process that has imported what a worker imports."""
    script = "import cluster.worker.__main__; print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
