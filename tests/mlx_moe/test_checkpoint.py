"""Checkpoint: index, links, byte ranges, and files that change under it."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_moe.checkpoint import Checkpoint, Piece
from mlx_moe.errors import CheckpointError

ARRAYS = {
    "a": np.arange(24, dtype=np.float32).reshape(6, 4),
    "b": np.arange(100, 108, dtype=np.float32),
    "c": np.arange(200, 204, dtype=np.float32),
}


def make(directory: Path, files: dict[str, list[str]] | None = None) -> Path:
    """Write a checkpoint of ARRAYS, one file or the files named."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    if files is None:
        save_file(ARRAYS, directory / "model.safetensors")
        return directory
    for file, names in files.items():
        save_file({name: ARRAYS[name] for name in names}, directory / file)
    write_index(directory, {name: file for file, names in files.items() for name in names})
    return directory


def write_index(directory: Path, weight_map: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def read(checkpoint: Checkpoint, pieces: list[Piece], size: int) -> list[float]:
    array = mx.zeros(size)
    mx.eval(array)
    checkpoint.read_into(pieces, array)
    return array.tolist()  # type: ignore[return-value]


TWO_FILES = {"model-1.safetensors": ["a", "b"], "model-2.safetensors": ["c"]}


@pytest.mark.parametrize("files", [None, TWO_FILES])
def test_pieces_of_several_tensors_and_files_fill_an_array_in_order(
    tmp_path: Path, files: dict[str, list[str]] | None
) -> None:
    with Checkpoint.open(make(tmp_path, files)) as checkpoint:
        assert checkpoint.names == {"a", "b", "c"}
        pieces = [Piece("c", 4, 8), Piece("a", 0, 8), Piece("a", 8, 8), Piece("a", 80, 16), Piece("b", 0, 4)]
        assert read(checkpoint, pieces, 11) == [201, 202, 0, 1, 2, 3, 20, 21, 22, 23, 100]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", ".x.safetensors", "x.bin", "", "a\0.safetensors"],
)
def test_an_index_that_leads_out_of_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, TWO_FILES)
    write_index(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match="is not the name of a safetensors file"):
        Checkpoint.open(tmp_path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside")
    inside = make(tmp_path / "inside")
    (inside / "model.safetensors").unlink()
    (inside / "model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a link out of"):
        Checkpoint.open(inside)


def test_the_hub_caches_links_to_its_blobs_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = make(repo / "snapshots" / "0123")
    (repo / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repo / "blobs" / "abcd")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/abcd"))
    with Checkpoint.open(snapshot) as checkpoint:
        assert read(checkpoint, [Piece("c", 0, 4)], 1) == [200]


def test_missing_files_are_counted_and_named(tmp_path: Path) -> None:
    make(tmp_path, TWO_FILES)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 files are missing \(model-2.safetensors\); the download"):
        Checkpoint.open(tmp_path)


def test_a_directory_without_weights_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has neither model"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("weight_map", [{}, [], None, {"a": 3}, {"a": None}])
def test_an_index_that_is_no_index_is_refused(tmp_path: Path, weight_map: Any) -> None:
    make(tmp_path, TWO_FILES)
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("change", [{"b": None}, {"d": "model-1.safetensors"}])
def test_a_file_that_holds_other_tensors_than_the_index_says_is_refused(tmp_path: Path, change: Any) -> None:
    make(tmp_path, TWO_FILES)
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"} | change
    write_index(tmp_path, {name: file for name, file in weight_map.items() if file})
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="different revisions"):
        checkpoint.info("a")


def test_a_file_that_changed_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    with Checkpoint.open(make(tmp_path)) as checkpoint:
        checkpoint.info("a")
        save_file({name: array + 1 for name, array in ARRAYS.items()}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="changed while it was being loaded"):
            read(checkpoint, [Piece("c", 0, 4)], 1)


def test_the_content_hash_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    def content_hash(directory: Path) -> str:
        with Checkpoint.open(directory) as checkpoint:
            return checkpoint.content_hash()

    one = content_hash(make(tmp_path / "one", TWO_FILES))
    assert content_hash(make(tmp_path / "two", TWO_FILES)) == one
    assert content_hash(make(tmp_path / "three")) != one
    (tmp_path / "two" / "config.json").write_text('{"bits": 4}')
    assert content_hash(tmp_path / "two") != one
