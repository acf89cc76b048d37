"""Conversion: what is written, from every form of the source, and how it goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import pytest

from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import mixed, uniform
from mlx_moe.conversion import conversion as conversion_module
from mlx_moe.conversion import plan as plan_module
from mlx_moe.conversion import tensor_writer
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.families import has_mtp, read_config
from tests.conversions import converted, killed_before, tensor_digests
from tests.engine import load_engine

SMALL = TINY_DEEPSEEK | {"num_hidden_layers": 2, "n_routed_experts": 8}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source") / "model"
    write_checkpoint(directory, SMALL, bits=None)
    return directory


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(source, tmp_path_factory.mktemp("converted") / "model")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def stored(directory: Path) -> dict[str, mx.array]:
    tensors: dict[str, mx.array] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= mx.load(str(path))
    return tensors


def test_matrices_are_quantized_and_routers_norms_and_biases_stay_as_they_are(source: Path, undisturbed: Path) -> None:
    before, after = stored(source), stored(undisturbed)
    for name, array in before.items():
        is_kept = "norm" in name or ".mlp.gate." in name
        wanted = (array,) if is_kept else mx.quantize(array, 64, 4)
        parts = [name] if is_kept else [name, *(name.replace(".weight", f".{part}") for part in ("scales", "biases"))]
        for part, tensor in zip(parts, wanted, strict=True):
            assert mx.array_equal(after.pop(part), tensor), part
    assert not after


def test_each_layer_has_a_file_and_embedding_and_lm_head_have_one(undisturbed: Path) -> None:
    index = json.loads((undisturbed / "model.safetensors.index.json").read_text())
    files = {name: number for number, name in enumerate(sorted(set(index["weight_map"].values())))}
    assert list(files) == [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    for tensor, file in index["weight_map"].items():
        layer = re.match(r"model\.layers\.(\d+)\.", tensor)
        assert files[file] == (int(layer[1]) + 1 if layer else 0)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in stored(undisturbed).values())


def test_a_layer_larger_than_a_file_may_be_is_split(
    source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "MAX_FILE_BYTES", 150_000)
    directory = converted(source, tmp_path / "split")
    assert len(list(directory.glob("*.safetensors"))) > 6
    assert tensor_digests(directory) == tensor_digests(undisturbed)


def test_digests_are_of_the_bytes_that_were_written(undisturbed: Path) -> None:
    digests = json.loads((undisturbed / "digests.json").read_text())["tensors"]
    with Checkpoint.open(undisturbed) as checkpoint:
        assert digests.keys() == checkpoint.names
        for name, digest in digests.items():
            info = checkpoint.info(name)
            data = info.path.read_bytes()[info.offset : info.offset + info.nbytes]
            assert digest == {
                "file": info.path.name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "digest": hashlib.blake2b(data, digest_size=16).hexdigest(),
            }


def test_a_mixed_recipe_names_the_modules_that_differ(source: Path, tmp_path: Path) -> None:
    directory = converted(source, tmp_path / "mixed", mixed(3))
    section = json.loads((directory / "config.json").read_text())["quantization"]
    assert (section["bits"], section["group_size"], section["mode"]) == (3, 64, "affine")
    assert section["lm_head"] == {"bits": 6, "group_size": 64, "mode": "affine"}
    assert section["model.layers.1.self_attn.embed_q"]["bits"] == 6
    assert not any("switch_mlp" in path or path.endswith("mlp.gate") for path in section)


@pytest.mark.parametrize(
    ("bits", "mode", "group_size", "said"),
    [
        (7, "affine", None, "affine supports 2, 3, 4, 5, 6 or 8 bits"),
        (4, "affine", 16, "groups of 32, 64 or 128"),
        (8, "mxfp4", None, "mxfp4 supports 4 bits in groups of 32, got 8"),
        (4, "nvfp4", 64, "nvfp4 supports 4 bits in groups of 16"),
        (4, "int4", None, "mode must be one of"),
    ],
)
def test_a_quantization_that_mlx_lacks_is_refused(bits: int, mode: str, group_size: int | None, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        uniform(bits, mode, group_size)


def test_a_mixed_recipe_wants_fewer_bits_for_experts() -> None:
    with pytest.raises(InvalidRequestError, match="fewer than 6 bits"):
        mixed(6)


def test_a_quantized_model_gets_fewer_bits_and_never_more(tmp_path: Path, source: Path) -> None:
    eight = converted(source, tmp_path / "eight", uniform(8))
    four = converted(eight, tmp_path / "four", uniform(4))
    name = "model.layers.1.mlp.switch_mlp.up_proj"
    tensors, sources = stored(four), stored(eight)
    floats = mx.dequantize(*(sources[f"{name}.{part}"] for part in ("weight", "scales", "biases")), 64, 8)
    assert mx.array_equal(tensors[f"{name}.weight"], mx.quantize(floats, 64, 4)[0])
    with pytest.raises(InvalidRequestError, match=r"is quantized already .*more bits would not bring back"):
        converted(four, tmp_path / "six", uniform(6))


def test_a_quantized_model_in_the_wanted_form_keeps_its_bytes(undisturbed: Path, tmp_path: Path) -> None:
    assert tensor_digests(converted(undisturbed, tmp_path / "again")) == tensor_digests(undisturbed)


def test_a_killed_conversion_goes_on_and_writes_the_same_bytes(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    killed_before("model-00002-of-00003.safetensors", source, directory)
    killed_before("model-00003-of-00003.safetensors", source, directory)
    modified = (directory / "model-00001-of-00003.safetensors").stat().st_mtime_ns
    killed_before("config.json", source, directory)
    converted(source, directory)
    assert contents(directory) == contents(undisturbed)
    assert (directory / "model-00001-of-00003.safetensors").stat().st_mtime_ns == modified


class InterruptedHereError(Exception):
    pass


def interrupted(source: Path, directory: Path) -> Path:
    """Convert until the second file is begun."""

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        converted(source, directory, progress=interrupt)
    return directory


def test_an_unfinished_conversion_is_no_model_and_says_how_to_go_on(source: Path, tmp_path: Path) -> None:
    directory = interrupted(source, tmp_path / "model")
    command = f"moe-cluster convert {source} {directory} --bits 4 --mode affine --group-size 64"
    for refused in (Checkpoint.open, library.locate):
        with pytest.raises(CheckpointError, match=re.escape(f"(1 files are complete); this goes on: {command}")):
            refused(directory)


def test_an_unfinished_conversion_goes_on_in_its_own_form_only(source: Path, tmp_path: Path) -> None:
    directory = interrupted(source, tmp_path / "model")
    with pytest.raises(InvalidRequestError, match="unfinished conversion in another form"):
        converted(source, directory, uniform(8))
    with pytest.raises(InvalidRequestError, match="unfinished conversion in another form"):
        converted(source, directory, keep_mtp=False)
    other = Path(shutil.copytree(source, tmp_path / "other"))
    with pytest.raises(InvalidRequestError, match="unfinished conversion of other files"):
        converted(other, directory)


def test_a_finished_file_that_is_gone_is_written_again(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    directory = interrupted(source, tmp_path / "model")
    (directory / "model-00001-of-00003.safetensors").unlink()
    assert contents(converted(source, directory)) == contents(undisturbed)


def test_a_conversion_that_is_there_already_is_left_alone(source: Path, undisturbed: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    converted(source, undisturbed)
    assert {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before


def test_a_directory_of_something_else_is_refused(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for directory, said in [
        (tmp_path, "exists and is no conversion"),
        (undisturbed, "exists and is no conversion"),
        (tmp_path / "file", "is a file"),
        (source, "is in the model's own directory"),
        (source / "below" / "it", "is in the model's own directory"),
    ]:
        with pytest.raises(InvalidRequestError, match=said):
            converted(source, directory, uniform(8))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_disk_without_room_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(conversion_module.shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 0))
    with pytest.raises(InvalidRequestError, match=r"needs .* MB more, the disk of .* has 0 B free"):
        converted(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_disk_that_fills_up_is_one_error_after_which_it_goes_on(
    source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tensor_writer, "serialize_file", full)
        with pytest.raises(
            CheckpointError, match=r"model-00001-of-00003\.safetensors cannot be written: No space left"
        ):
            converted(source, tmp_path / "model")
    assert contents(converted(source, tmp_path / "model")) == contents(undisturbed)


def test_two_processes_do_not_convert_into_one_directory(source: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"

    def convert_too(done: int, _total: int) -> None:
        if done:
            with pytest.raises(InvalidRequestError, match="another process is converting into"):
                converted(source, directory)

    converted(source, directory, progress=convert_too)


def test_the_demo_keeps_its_mtp_layer_unless_told_otherwise(tmp_path: Path) -> None:
    demo = library.locate(library.DEMO)
    kept = converted(demo, tmp_path / "kept", uniform(4, group_size=32))
    left_out = converted(demo, tmp_path / "left out", uniform(4, group_size=32), keep_mtp=False)
    for directory, wanted in ((kept, True), (left_out, False)):
        with Checkpoint.open(directory) as checkpoint:
            config = read_config(checkpoint.config)
            assert has_mtp(checkpoint, config) is wanted
            assert config.num_nextn_predict_layers == int(wanted)
    assert len(list(kept.glob("*.safetensors"))) == len(list(left_out.glob("*.safetensors"))) + 1
    assert (kept / "tokenizer.json").read_bytes() == (demo / "tokenizer.json").read_bytes()


def test_fewer_bits_are_further_from_the_model(source: Path, tmp_path: Path) -> None:
    ids = list(range(40, 72))
    wanted = load_engine(source).logits(ids)
    distances = []
    for bits in (8, 6, 4, 3):
        logits = load_engine(converted(source, tmp_path / str(bits), uniform(bits))).logits(ids)
        distances.append(float(((logits - wanted) ** 2).mean()))
    assert distances == sorted(distances)
    assert distances[0] > 0
