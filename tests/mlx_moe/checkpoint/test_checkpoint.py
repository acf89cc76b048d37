"""Checkpoint: one rule for files as they lie, byte ranges, and files that change under it."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_moe.checkpoint import disk, json_file, library, tensor_file
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.weight_files import INDEX_NAME
from mlx_moe.errors import CheckpointError, InvalidRequestError

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
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


def read(checkpoint: Checkpoint, pieces: list[Piece], size: int) -> list[float]:
    buffer = bytearray(4 * size)
    checkpoint.read_into(pieces, buffer)
    return memoryview(buffer).cast("f").tolist()


TWO_FILES = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}
FIRST, SECOND = TWO_FILES


@pytest.mark.parametrize("files", [None, TWO_FILES])
def test_pieces_of_several_tensors_and_files_fill_an_array_in_order(
    tmp_path: Path, files: dict[str, list[str]] | None
) -> None:
    with Checkpoint.open(make(tmp_path, files)) as checkpoint:
        assert checkpoint.names == {"a", "b", "c"}
        pieces = [Piece("c", 4, 8), Piece("a", 0, 8), Piece("a", 8, 8), Piece("a", 80, 16), Piece("b", 0, 4)]
        assert read(checkpoint, pieces, 11) == [201, 202, 0, 1, 2, 3, 20, 21, 22, 23, 100]


INDICES: dict[str, Callable[[Path], None]] = {
    "right": lambda d: write_index(d, {name: file for file, names in TWO_FILES.items() for name in names}),
    "none": lambda d: (d / INDEX_NAME).unlink(missing_ok=True),
    "a tensor too many": lambda d: write_index(d, {"a": FIRST, "b": FIRST, "c": SECOND, "inv_freq": FIRST}),
    "a tensor too few": lambda d: write_index(d, {"a": FIRST, "c": SECOND}),
    "a tensor in the wrong file": lambda d: write_index(d, {"a": SECOND, "b": FIRST, "c": SECOND}),
    "files that are gone": lambda d: write_index(d, {"a": "model-1-of-9.safetensors", "b": "x.safetensors"}),
    "empty": lambda d: write_index(d, {}),
    "not an object": lambda d: write_index(d, [1]),
    "files that are no names": lambda d: write_index(d, {"a": 3, "b": None, "c": [SECOND]}),
    "no JSON": lambda d: (d / INDEX_NAME).write_bytes(b"\xff{"),
    "a directory": lambda d: ((d / INDEX_NAME).unlink(missing_ok=True), (d / INDEX_NAME).mkdir())[0],
}


def _rename(directory: Path, names: dict[str, str]) -> None:
    for old, new in names.items():
        (directory / old).rename(directory / new)


def _merge(directory: Path, name: str) -> None:
    for file in TWO_FILES:
        (directory / file).unlink()
    save_file(ARRAYS, directory / name)


FILES: dict[str, Callable[[Path], None]] = {
    "as saved": lambda _: None,
    "another count": lambda d: _rename(d, {f: f.replace("-of-00002", "-of-000007") for f in TWO_FILES}),
    "other names": lambda d: _rename(d, {FIRST: "weights.00.safetensors", SECOND: "weights.01.safetensors"}),
    "merged": lambda d: _merge(d, "model.safetensors"),
    "upper case": lambda d: _rename(d, {f: f.upper() for f in TWO_FILES}),
    "merged under a shard's name": lambda d: _merge(d, "model-00001-of-00001.safetensors"),
}


def _link_files(directory: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    for path in list(directory.iterdir()):
        if path.is_file():
            path.rename(elsewhere / path.name)
            path.symlink_to(elsewhere / path.name)


def _link_twice(directory: Path, elsewhere: Path) -> None:
    _link_files(directory, elsewhere)
    _link_files(directory, elsewhere.with_name("again"))


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "files": lambda _directory, _elsewhere: None,
    "links, file by file": _link_files,
    "links to links": _link_twice,
}


@pytest.mark.parametrize("links", LINKS)
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("index", INDICES)
def test_a_checkpoint_is_read_wherever_its_tensors_are_there(
    tmp_path: Path, index: str, files: str, links: str
) -> None:
    directory = make(tmp_path / "model", TWO_FILES)
    FILES[files](directory)
    INDICES[index](directory)
    LINKS[links](directory, tmp_path / "elsewhere")
    with Checkpoint.open(directory) as checkpoint:
        for name, array in ARRAYS.items():
            assert read(checkpoint, [Piece(name, 0, array.nbytes)], array.size) == array.flatten().tolist()


DAMAGED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "truncated": lambda path: path.write_bytes((1000).to_bytes(8, "little") + b"{"),
    "a web page": lambda path: path.write_text("<html>404</html>"),
    "a folder": lambda path: path.mkdir(),
    "a link to a folder": lambda path: path.symlink_to(path.parent),
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a circle of links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("index", ["right", "none"])
@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_file_that_holds_nothing_needed_is_passed_over(
    tmp_path: Path, damaged: str, index: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, TWO_FILES)
    INDICES[index](tmp_path)
    DAMAGED[damaged](tmp_path / "model-extra.safetensors")
    with Checkpoint.open(tmp_path) as checkpoint:
        for name, array in ARRAYS.items():
            assert read(checkpoint, [Piece(name, 0, array.nbytes)], array.size) == array.flatten().tolist()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_file_that_holds_all_there_is_is_refused(tmp_path: Path, damaged: str) -> None:
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    DAMAGED[damaged](tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("file", "cure"),
    [
        ("pytorch_model.bin", r"PyTorch files \(pytorch_model.bin\), .* python3 -c .*save_pretrained"),
        ("model.Q4_K_M.gguf", r"GGUF \(model.Q4_K_M.gguf\), .*`moe-cluster pull OWNER/NAME`"),
    ],
)
def test_weights_in_another_format_are_told_with_how_to_convert_them(tmp_path: Path, file: str, cure: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(InvalidRequestError, match=cure):
        library.locate(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=cure):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("weights", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64])
def test_what_lies_beside_the_models_files_does_not_matter(
    tmp_path: Path, weights: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, TWO_FILES)
    save_file({"lora_a": ARRAYS["a"]}, tmp_path / "adapters.safetensors")
    save_file({name: array + 1 for name, array in ARRAYS.items()}, tmp_path / "consolidated.safetensors")
    (tmp_path / "mtp.safetensors").write_bytes(weights)
    (tmp_path / f"._{FIRST}").write_bytes(weights)  # macOS, on a disk of another system
    shutil.copytree(tmp_path, tmp_path / "original", ignore=shutil.ignore_patterns("original"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    with caplog.at_level(logging.DEBUG, "mlx_moe"), Checkpoint.open(tmp_path) as checkpoint:
        assert read(checkpoint, [Piece("a", 0, 96)], 24) == ARRAYS["a"].flatten().tolist()
        assert "lora_a" in checkpoint  # nobody asks for it
    assert "mtp.safetensors" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_copy_beside_the_models_files_does_not_stand_in_for_one_that_is_missing(tmp_path: Path) -> None:
    make(tmp_path, TWO_FILES)
    save_file({name: array + 1 for name, array in ARRAYS.items()}, tmp_path / "consolidated.safetensors")
    (tmp_path / SECOND).unlink()
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="1 of 2 files are missing"):
        checkpoint.info("c")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_two_names_of_one_file_are_one(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    make(tmp_path)
    link(tmp_path / "model.safetensors", tmp_path / "model-00001-of-00001.safetensors")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert read(checkpoint, [Piece("c", 0, 4)], 1) == [200]


@pytest.mark.parametrize(
    ("file", "indexed"), [("model.safetensors", True), ("model.safetensors", False), ("model (1).safetensors", True)]
)
def test_a_tensor_that_is_in_two_files_is_refused_with_both_when_it_is_asked_for(
    tmp_path: Path, file: str, indexed: bool
) -> None:
    make(tmp_path, TWO_FILES)
    if not indexed:
        (tmp_path / INDEX_NAME).unlink()
    save_file({"b": ARRAYS["b"] + 1}, tmp_path / file)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.info("a").shape == (6, 4)
        with pytest.raises(CheckpointError, match="tensor b is both in") as caught:
            checkpoint.info("b")
    assert file in str(caught.value)
    assert FIRST in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", ".x.safetensors", "x.bin", "", "a\0.safetensors"],
)
def test_an_index_that_leads_out_of_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, TWO_FILES)
    write_index(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match="is not the name of a safetensors file"):
        Checkpoint.open(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_link_to_a_strangers_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = make(tmp_path / "model", TWO_FILES)
    _link_files(directory, tmp_path / "elsewhere")
    os.chown(tmp_path / "elsewhere" / name, 12345, 12345)
    with pytest.raises(CheckpointError, match=r"is a link to .*, which belongs to user 12345"):
        Checkpoint.open(directory).info("a")
    os.chown(directory, 12345, 12345)  # whoever owns the directory may link to files of theirs
    Checkpoint.open(directory).close()


@pytest.mark.parametrize("blobs_are_a_link", [False, True])
def test_the_hub_caches_links_to_its_blobs_are_followed(tmp_path: Path, blobs_are_a_link: bool) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = make(repo / "snapshots" / "0123")
    (repo / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repo / "blobs" / "abcd")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/abcd"))
    if blobs_are_a_link:
        (repo / "blobs").rename(tmp_path / "disk")
        (repo / "blobs").symlink_to(tmp_path / "disk")
    with Checkpoint.open(snapshot) as checkpoint:
        assert read(checkpoint, [Piece("c", 0, 4)], 1) == [200]


@pytest.mark.parametrize("index", ["right", "none"])
@pytest.mark.parametrize("dangling", [False, True])
def test_an_absent_tensor_is_named_with_the_files_that_are_missing(tmp_path: Path, index: str, dangling: bool) -> None:
    make(tmp_path, TWO_FILES)
    INDICES[index](tmp_path)
    (tmp_path / SECOND).unlink()
    if dangling:
        (tmp_path / SECOND).symlink_to("../blobs/gone")
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError) as caught:
        checkpoint.info("c")
    link = ", a link to ../blobs/gone" if dangling else ""
    assert f"no tensor c; 1 of 2 files are missing (model-00002-of-00002.safetensors{link}): " in str(caught.value)


def test_an_absent_tensor_of_a_snapshot_is_told_with_the_command_that_downloads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = make(tmp_path / "models--org--name" / "snapshots" / "0123", TWO_FILES)
    (snapshot / SECOND).unlink()
    with Checkpoint.open(snapshot) as checkpoint:
        assert str(checkpoint.absence("c")).endswith("moe-cluster pull org/name --revision 0123`")


def test_an_absent_tensor_says_where_the_index_has_it(tmp_path: Path) -> None:
    make(tmp_path, TWO_FILES)
    write_index(tmp_path, {"d": FIRST})
    with Checkpoint.open(tmp_path) as checkpoint:
        with pytest.raises(CheckpointError, match=f"no tensor d; {INDEX_NAME} puts it into {FIRST}, which does not"):
            checkpoint.info("d")
        with pytest.raises(CheckpointError, match=r"no tensor e in 2 files: config\.json describes another"):
            checkpoint.info("e")


def test_a_directory_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="there are no safetensors files"):
        Checkpoint.open(tmp_path)
    write_index(tmp_path, dict.fromkeys(ARRAYS, "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"1 of 1 files are missing \(model.safetensors\)"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_truncated_file_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    make(tmp_path, TWO_FILES)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 4)
    tensor = TWO_FILES[name][0]
    with Checkpoint.open(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=f"{name} is truncated"):
        checkpoint.info(tensor)


def test_a_pointer_that_git_lfs_left_is_told_as_one(tmp_path: Path) -> None:
    make(tmp_path, TWO_FILES)
    (tmp_path / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match=f"{FIRST} is a Git LFS pointer .*`git lfs pull`"):
        Checkpoint.open(tmp_path).info("a")


def test_each_file_is_opened_once_for_its_header_and_once_for_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(path: Path) -> Any:
        opened.append(path.name)
        return open_regular(path)

    open_regular = tensor_file.open_regular
    for place in (tensor_file, json_file, disk):
        monkeypatch.setattr(place, "open_regular", counted)
    with Checkpoint.open(make(tmp_path, TWO_FILES)) as checkpoint:
        assert sorted(opened) == sorted(["config.json", INDEX_NAME, FIRST, SECOND])
        for name in ARRAYS:
            checkpoint.info(name)
            read(checkpoint, [Piece(name, 0, 4)], 1)
            read(checkpoint, [Piece(name, 4, 4)], 1)
    assert sorted(opened) == sorted(["config.json", INDEX_NAME, FIRST, FIRST, SECOND, SECOND])


@pytest.mark.parametrize("n_files", [10, 40])
def test_opening_compares_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int) -> None:
    """A comparison for each tensor and file, which it once did, is 80 % of the time of 45,000 tensors in 163 files."""
    directory = make(tmp_path, {f"model-{n:05}-of-{n_files:05}.safetensors": [] for n in range(1, n_files + 1)})
    for n in range(1, n_files + 1):
        arrays = {f"{n}.{i}": ARRAYS["c"] for i in range(10)}
        save_file(arrays, directory / f"model-{n:05}-of-{n_files:05}.safetensors")
    compared: list[Path] = []
    equal = Path.__eq__

    def counted(one: Path, other: object) -> bool:
        compared.append(one)
        return equal(one, other)

    monkeypatch.setattr(Path, "__eq__", counted)
    with Checkpoint.open(directory) as checkpoint:
        infos = [checkpoint.info(name) for name in checkpoint.names]
    assert len(infos) == 10 * n_files
    assert len(compared) <= 2 * n_files


def test_a_file_that_changed_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    with Checkpoint.open(make(tmp_path)) as checkpoint:
        stamp = checkpoint.stamp()
        save_file({name: array + 1 for name, array in ARRAYS.items()}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="changed while it was being loaded"):
            read(checkpoint, [Piece("c", 0, 4)], 1)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.stamp() != stamp
