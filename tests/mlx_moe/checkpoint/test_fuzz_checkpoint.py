"""Fuzzing: whatever a model directory holds, loading it ends in the model or in a CheckpointError, soon."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlx_moe import families
from mlx_moe.checkpoint import json_file, tensor_file
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.errors import CheckpointError, MoeClusterError
from mlx_moe.layers.rope import Rope
from mlx_moe.summary import model_parameters

SETTINGS = settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [0, -1, 2**31, 2**63, 1e308, float("nan"), float("inf"), "", "../x", "F32", [], {}, [[]], "\ud800"]
    ),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 2**40), max_size=4),
)

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 64,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "quantization": {"group_size": 64, "bits": 4, "lm_head": False},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    tensors = {
        p.layouts[0].sources[0].tensor: np.zeros(p.layouts[0].shape, dtype=np.float32)
        for p in model_parameters(families.read_config(CONFIG))
    }
    save_file(tensors, path / "model.safetensors")
    return path


def find_all(path: Path, config: dict[str, Any]) -> None:
    """Do all that loading does before it reads data."""
    with Checkpoint.open(path) as checkpoint:
        read = families.read_config(config)
        if read.num_hidden_layers <= 64 and read.moe.n_routed_experts <= 1024:
            Rope(read.rope)
            find(checkpoint, model_parameters(read))


@SETTINGS
@given(data=st.binary(max_size=400))
def test_random_bytes_are_no_header(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        tensor_file.read(path)


@SETTINGS
@given(flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_header_bytes_never_crash(directory: Path, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray((directory / "model.safetensors").read_bytes())
    (header_bytes,) = struct.unpack("<Q", data[:8])
    for at, value in flips:
        data[at % (8 + header_bytes)] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    try:
        tensors = tensor_file.read(path).tensors
    except CheckpointError:
        return
    assert all(t.offset >= 8 and t.offset + t.nbytes <= len(data) for t in tensors.values())


@SETTINGS
@given(field=st.sampled_from(["dtype", "shape", "data_offsets", None]), value=HOSTILE, name=st.text(max_size=6))
def test_hostile_header_values_never_crash(tmp_path: Path, field: str | None, value: Any, name: str) -> None:
    entry: Any = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    entry = value if field is None else entry | {field: value}
    header = json.dumps({name: entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    try:
        tensors = tensor_file.read(path).tensors
    except CheckpointError:
        return
    assert all(t.nbytes == 4 for t in tensors.values())


@SETTINGS
@given(key=st.sampled_from(sorted(CONFIG)), value=HOSTILE)
def test_hostile_config_values_never_crash(directory: Path, key: str, value: Any) -> None:
    (directory / "config.json").write_text("{}")
    try:
        find_all(directory, CONFIG | {key: value})
    except MoeClusterError:
        return


@SETTINGS
@given(
    section=st.sampled_from(["rope_scaling", "quantization"]), key=st.text(max_size=6), value=HOSTILE, known=st.data()
)
def test_hostile_config_sections_never_crash(
    directory: Path, section: str, key: str, value: Any, known: st.DataObject
) -> None:
    key = known.draw(st.sampled_from([key, *CONFIG[section]]))
    (directory / "config.json").write_text("{}")
    try:
        find_all(directory, CONFIG | {section: CONFIG[section] | {key: value}})
    except MoeClusterError:
        return


@SETTINGS
@given(weight_map=st.one_of(HOSTILE, st.dictionaries(st.text(max_size=8), HOSTILE, max_size=4)))
def test_hostile_indices_never_crash(tmp_path: Path, weight_map: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path)


@SETTINGS
@given(data=st.one_of(st.binary(max_size=200), st.text(alphabet='{}[]":,\\a1 ', max_size=200).map(str.encode)))
def test_parsing_json_ends_in_an_object_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(json_file.parse(data, "test"), dict)
    except CheckpointError:
        return


def test_deep_and_large_json_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nested deeper than 64"):
        json_file.parse(b'{"a":' * 100_000, "test")
    with pytest.raises(CheckpointError, match="nested deeper"):
        json_file.parse(b'{"}}}}": ' + b"[" * 100_000, "test")
    (tmp_path / "large.json").write_bytes(b" " * 2048)
    with pytest.raises(CheckpointError, match="larger than the limit of 1,024 bytes"):
        json_file.read(tmp_path / "large.json", max_bytes=1024)
