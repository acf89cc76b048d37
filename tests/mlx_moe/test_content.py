"""Content: what tells two models apart, and what does not."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.tensor_file import TensorInfo
from mlx_moe.content import (
    CONFIG,
    SAMPLE_BYTES,
    WHOLE_BYTES,
    Content,
    first_difference,
    read_content,
    read_part,
    samples,
)
from mlx_moe.errors import CheckpointError

DEMO = library.locate("demo")
Arrays = dict[str, mx.array]


def content_of(directory: Path) -> Content:
    with Checkpoint.open(directory) as checkpoint:
        return read_content(checkpoint, families.read_config(checkpoint.config))


@pytest.fixture(scope="module")
def demo() -> Content:
    return content_of(DEMO)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO, tmp_path / "copy")


def arrays(directory: Path) -> Arrays:
    loaded = mx.load(str(directory / "model.safetensors"))
    assert isinstance(loaded, dict)
    return loaded


def save(directory: Path, tensors: Arrays, name: str = "model.safetensors") -> None:
    mx.save_safetensors(str(directory / name), tensors, metadata={"format": "mlx"})


def edit_config(directory: Path, change: Callable[[dict[str, object]], Mapping[str, object]]) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=7))


def _in_two_files(directory: Path) -> None:
    tensors = arrays(directory)
    for path in directory.glob("*.safetensors*"):
        path.unlink()
    halves = list(tensors)[::2], list(tensors)[1::2]
    for number, names in enumerate(halves, 1):
        save(directory, {name: tensors[name] for name in names}, f"model-{number:05}-of-00002.safetensors")


SAME: dict[str, Callable[[Path], None]] = {
    "a copy": lambda _: None,
    "in two files": _in_two_files,
    "with more tensors": lambda d: save(d, arrays(d) | {"model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones(4)}),
    "config.json written otherwise": lambda d: edit_config(d, lambda c: dict(sorted(c.items())[::-1])),
    "config.json with other words": lambda d: edit_config(d, lambda c: c | {"transformers_version": "0", "x": [1]}),
}


@pytest.mark.parametrize("change", SAME)
def test_files_and_spelling_do_not_matter(copy: Path, demo: Content, change: str) -> None:
    SAME[change](copy)
    assert content_of(copy).hash == demo.hash


def test_two_fine_tunes_of_one_tensor_differ_in_it_alone(copy: Path, demo: Content) -> None:
    tensors = arrays(copy)
    for name in ("model.embed_tokens.scales", "model.layers.4.mlp.switch_mlp.down_proj.scales", "model.norm.weight"):
        save(copy, tensors | {name: tensors[name] * 1.01})
        other = content_of(copy)
        assert other.hash != demo.hash
        part = first_difference(demo.part_hashes, other.part_hashes)
        assert part is not None
        assert [n for n, digest in other.parts[part].items() if digest != demo.parts[part][n]] == [name]
        assert [p for p in demo.parts if demo.part_hashes[p] != other.part_hashes[p]] == [part]
        assert first_difference(demo.parts[part], other.parts[part]) == name


def test_a_part_can_be_read_alone(demo: Content) -> None:
    with Checkpoint.open(DEMO) as checkpoint:
        config = families.read_config(checkpoint.config)
        for part in (CONFIG, "layer 3", "multi-token prediction"):
            assert read_part(checkpoint, config, part) == demo.parts[part]
        assert read_part(checkpoint, config, "layer 300") == {}


def test_what_is_computed_differently_differs(copy: Path, demo: Content) -> None:
    edit_config(copy, lambda c: c | {"rms_norm_eps": 0.5})
    other = content_of(copy)
    assert first_difference(demo.part_hashes, other.part_hashes) == CONFIG
    assert first_difference(demo.parts[CONFIG], other.parts[CONFIG]) == "rms_norm_eps"


def test_a_model_without_a_tensor_has_no_content(copy: Path) -> None:
    tensors = arrays(copy)
    del tensors["model.norm.weight"]
    save(copy, tensors)
    with pytest.raises(CheckpointError, match=r"no tensor model\.norm\.weight"):
        content_of(copy)


@pytest.mark.parametrize(
    ("shape", "n_samples"),
    [
        ((WHOLE_BYTES,), 1),
        ((WHOLE_BYTES + 1,), 3),
        ((64, 1, SAMPLE_BYTES), 1),
        ((7168, 2048), 3),  # an expert's matrix
        ((129280, 7168), 56),
        ((256, 2048, 896), 256),  # a stack of them
        ((0, 5), 1),
    ],
)
def test_samples_are_spread_from_the_first_byte_to_the_last(shape: tuple[int, ...], n_samples: int) -> None:
    info = TensorInfo("x", "U8", shape, Path("x"), 0, math.prod(shape))
    runs = samples(info)
    assert runs[0][0] == 0
    assert sum(runs[-1]) == info.nbytes
    assert all(start + length <= following for (start, length), (following, _) in pairwise(runs))
    assert len(runs) == n_samples
    if n_samples == 256:
        matrix_bytes = info.nbytes // shape[0]
        assert [start // matrix_bytes for start, _ in runs] == list(range(shape[0]))
