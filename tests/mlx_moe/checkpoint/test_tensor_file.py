"""Headers of safetensors files: every way in which one may be wrong is refused, with the file and the tensor named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlx_moe.checkpoint import json_file, tensor_file
from mlx_moe.errors import CheckpointError

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def write(path: Path, header: dict[str, Any] | bytes, data: bytes = bytes(32), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {"format": 1}, {}, None])
def test_a_sound_header_gives_each_tensors_place(tmp_path: Path, metadata: Any) -> None:
    path = write(tmp_path / "x.safetensors", GOOD | {"__metadata__": metadata})
    tensors = tensor_file.read(path).tensors
    assert tensors["b"].shape == (4,)
    assert tensors["b"].nbytes == 8
    assert path.read_bytes()[tensors["b"].offset :] == bytes(8)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "C64", "F8_E4M3FNUZ"])
def test_a_dtype_that_is_not_known_is_left_to_who_asks_for_the_tensor(tmp_path: Path, dtype: str) -> None:
    tensors = tensor_file.read(write(tmp_path / "x.safetensors", changed(dtype=dtype))).tensors
    assert (tensors["b"].dtype, tensors["b"].nbytes) == (dtype, 8)


def changed(**entry: Any) -> dict[str, Any]:
    return GOOD | {"b": GOOD["b"] | entry}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (changed(data_offsets=[20, 28]), "tensor b at byte .* overlaps the one before"),
        (changed(data_offsets=[25, 33]), "tensor b at byte .* leaves a gap"),
        (changed(dtype=7), "tensor b has the dtype '7'"),
        (changed(dtype="F" * 17), "tensor b has the dtype 'FFF"),
        (changed(dtype="F4", data_offsets=[24, 26]), "longer than its tensors"),
        (changed(shape=[5]), r"tensor b is BF16 \[5\], 10 bytes, but its offsets span 8"),
        (changed(shape=[-4]), r"tensor b has the shape \[-4\]"),
        (changed(shape=[True]), "tensor b has the shape"),
        (changed(shape=[2**31, 2**31]), "tensor b has the shape"),
        (changed(shape=[1] * 9), "tensor b has the shape"),
        (changed(shape="4"), "tensor b has the shape 4"),
        (changed(data_offsets=[32, 24]), "tensor b has the data_offsets"),
        (changed(data_offsets=[24]), "tensor b has the data_offsets"),
        (changed(data_offsets=[24.0, 32.0]), "tensor b has the data_offsets"),
        (GOOD | {"b": None}, "tensor b must have exactly dtype, shape and data_offsets"),
        (changed(more=1), "tensor b must have exactly"),
        ({"a": GOOD["a"]}, "longer than its tensors"),
        (GOOD | {"c": {"dtype": "U8", "shape": [8], "data_offsets": [32, 40]}}, "truncated"),
        (b"[]", "is not a JSON object but list"),
        (b"{", "is not JSON"),
        (b"\xff{}", "is not UTF-8"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b'{"a": ' + b"[" * 100_000, "nested deeper than 3"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, header: dict[str, Any] | bytes, message: str) -> None:
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(CheckpointError, match=message) as caught:
        tensor_file.read(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_before_json_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert json_file.read(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize("length", [2**63, 10**9, 200])
def test_a_header_length_beyond_the_file_is_a_truncated_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match="is truncated"):
        tensor_file.read(write(tmp_path / "x.safetensors", GOOD, length=length))


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_without_a_length_is_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match="is truncated"):
        tensor_file.read(path)


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer to the file, .*`git lfs pull`"),
        (b"<!doctype html><html>Not found</html>", "a web page, not weights: the download failed"),
        (b"\n\n<html>", "a web page, not weights"),
        (b'{"error":"Invalid credentials"}', "JSON text, not weights"),
        (b"PK\x03\x04" + bytes(range(60)), "a PyTorch file under another name"),
        (b"GGUF\x03\0\0\0" + bytes(60), "a GGUF file under another name"),
    ],
)
def test_what_is_something_else_under_the_name_is_told_as_that(tmp_path: Path, beginning: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(beginning)
    with pytest.raises(CheckpointError, match=f"x.safetensors is {message}"):
        tensor_file.read(path)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        tensor_file.read(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot be read|is not a regular file"):
        tensor_file.read(tmp_path)
