"""NodeFiles: a part that is kept quantized is made from its model once, and read alone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from cluster.placement import ExpertPeer, Placement, StagePlacement
from cluster.worker.node_files import NodeFiles
from cluster.worker.role import Role
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.checkpoint.source import SourceError
from tests.conversions import converted

ODD, EVEN = tuple(range(1, 16, 2)), tuple(range(0, 16, 2))
STAGES = (
    StagePlacement("a", range(2)),
    StagePlacement("b", range(2, 4), {2: ODD, 3: ODD}, (ExpertPeer("c", {2: EVEN, 3: EVEN}),)),
)
PLACEMENT = Placement("mine", "", STAGES, 512, 1, 1024, {}, recipe=uniform(4))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source") / "mine"
    write_checkpoint(directory, TINY_DEEPSEEK, bits=None)
    return directory


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(source, tmp_path_factory.mktemp("converted") / "mine")


def opened(source: Path, directory: Path, role: Role) -> tuple[Checkpoint, list[tuple[str, int, int]]]:
    """Return what a worker opens for a role, and the progress that it has reported until then."""
    told: list[tuple[str, int, int]] = []
    files = NodeFiles(str(source), conversion=directory)
    return files.open_for(role, "", lambda *at: told.append(at)), told


def read(checkpoint: Checkpoint, role: Role) -> dict[str, bytes]:
    """Return the bytes of a role's part by file."""
    found = {}
    for file, ranges in role.ranges(checkpoint, "").items():
        memory = bytearray(sum(map(len, ranges)))
        checkpoint.source.read_into(file, ranges, memoryview(memory))
        found[file] = bytes(memory)
    return found


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_part_is_quantized_once_and_read_alone_afterwards(
    source: Path, whole: Path, tmp_path: Path, node: str
) -> None:
    role = Role.of(PLACEMENT, node)
    checkpoint, told = opened(source, tmp_path / "kept", role)
    checkpoint.close()
    assert told[-1][1] == told[-1][2] > 0
    part, told = opened(tmp_path / "the model is gone", tmp_path / "kept", role)
    with part, Checkpoint.open(whole) as wanted:
        assert read(part, role) == read(wanted, role)
        with pytest.raises(SourceError, match="no source has it"):
            read(part, Role.of(PLACEMENT, "b" if node == "a" else "a"))
    assert not told


def test_another_placement_adds_what_it_needs_alone(source: Path, whole: Path, tmp_path: Path) -> None:
    opened(source, tmp_path / "kept", Role.of(PLACEMENT, "b"))[0].close()
    alone = Role.of(Placement("mine", "", (StagePlacement("b", range(4)),), 512, 1, 1024, {}, recipe=uniform(4)), "b")
    checkpoint, told = opened(source, tmp_path / "kept", alone)
    with checkpoint, Checkpoint.open(source) as original:
        total = sum(original.info(name).nbytes for name in original.names)
        assert told[-1][2] < 0.8 * total
        assert checkpoint.is_whole
    for path in whole.glob("*.safetensors"):
        assert (tmp_path / "kept" / path.name).read_bytes() == path.read_bytes()
