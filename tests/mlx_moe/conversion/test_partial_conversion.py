"""Partial conversions: parts that are converted apart, killed or not, are together what a conversion writes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from mlx_moe import families
from mlx_moe.checkpoint import share as share_module
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import mixed, uniform
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.conversion import partial_conversion
from mlx_moe.errors import CheckpointError
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests.conversions import add_part, converted
from tests.patience import PATIENCE_S

SMALL = TINY_DEEPSEEK | {"num_hidden_layers": 2, "n_routed_experts": 8}

HALVES = [
    ShardSpec(range(1, 2), {1: (0, 2, 5)}),
    ShardSpec(range(1, 2), {1: (1, 3, 4, 6, 7)}),
    ShardSpec(range(1)),
]

KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_moe.checkpoint import share
from tests.conversions import add_part
from tests.mlx_moe.conversion.test_partial_conversion import ALL

share.SYNC_BYTES = 1 << 14
write, n_writes = share.Share.write, int(sys.argv[3])

def write_or_die(*arguments):
    global n_writes
    n_writes -= 1
    if not n_writes:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)

share.Share.write = write_or_die
add_part(Path(sys.argv[1]), Path(sys.argv[2]), ALL)
"""

ALL = ShardSpec(range(2))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source") / "model"
    write_checkpoint(directory, SMALL, bits=None)
    return directory


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(converted(source, tmp_path_factory.mktemp("converted") / "model"))


def contents(directory: Path) -> dict[str, bytes]:
    """Return the files of a conversion, but for the digests, which nobody has who has a part."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name not in ("digests.json", share_module.LOCK_NAME)
    }


def test_parts_in_any_order_are_the_files_of_a_conversion(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_conversion, "CUT_NUMBERS", 1 << 14)
    directory = tmp_path / "model"
    assert all(add_part(source, directory, spec, ends=spec is HALVES[0]) for spec in HALVES)
    assert contents(directory) == whole
    assert add_part(source, directory, ALL) == 0


def test_what_is_converted_stays_as_it_is_when_it_is_loaded_with_the_same_recipe(source: Path, tmp_path: Path) -> None:
    for recipe in (uniform(4), mixed(3)):
        directory = tmp_path / str(recipe.experts)
        add_part(source, directory, HALVES[0], recipe)
        with Checkpoint.open(directory) as target:
            parameters = ALL.parameters(families.config_of(target))
            assert not any(s.origin.target for s in find(target, parameters, recipe))


def test_a_model_with_no_more_bits_is_laid_out_anew(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    again = tmp_path / "again"
    add_part(converted(source, tmp_path / "model"), again, ALL)
    assert contents(again) == whole


def test_a_killed_part_goes_on_with_what_was_recorded(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "model"), "90"]
    killed = subprocess.run(command, timeout=PATIENCE_S, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    written = add_part(source, tmp_path / "model", ALL)
    total = sum(len(data) for name, data in whole.items() if name.endswith(".safetensors"))
    assert 0 < written < 0.8 * total
    assert contents(tmp_path / "model") == whole


def test_a_full_disk_is_one_error_after_which_it_goes_on(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, pwrite = 200_000, os.pwrite

    def until_full(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", until_full)
        with pytest.raises(CheckpointError, match=r"the disk is full: .*moe-cluster rm"):
            add_part(source, tmp_path / "model", ALL)
    add_part(source, tmp_path / "model", ALL)
    assert contents(tmp_path / "model") == whole


def test_a_disk_without_room_is_refused_before_anything_is_converted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.durable_file.free_bytes", lambda _directory: 1000)
    with pytest.raises(CheckpointError, match=r"bytes are needed, but the disk has 1,000 free"):
        add_part(source, tmp_path / "model", ALL)
    with closing(Share(tmp_path / "model")) as share:
        assert share.nbytes_present == 0
