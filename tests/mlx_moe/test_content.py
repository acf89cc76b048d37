"""Content: what tells two models apart, and what does not."""

import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_moe import content, families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.tensor_file import header_path
from mlx_moe.content import SAMPLE_BYTES, WHOLE_BYTES, samples
from mlx_moe.errors import CheckpointError
from mlx_moe.manifest import Manifest, differences
from tests.layouts import Arrays, fused, per_expert, read_arrays, rewrite

DEMO = library.locate("demo")
LAYERS = range(1, 7)
"""The layers with experts; the last one is the MTP layer."""


def content_of(directory: Path) -> Manifest:
    with Checkpoint.open(directory) as checkpoint:
        return content.read_content(checkpoint, families.config_of(checkpoint))


def tensors_of(directory: Path, parameter: str) -> list[tuple[str, str]]:
    with Checkpoint.open(directory) as checkpoint:
        return content.read_tensors(checkpoint, families.config_of(checkpoint), parameter)


def outline_of(directory: Path) -> str:
    with Checkpoint.open(directory) as checkpoint:
        return content.outline_hash(checkpoint, families.config_of(checkpoint))


@pytest.fixture(scope="module")
def demo() -> Manifest:
    return content_of(DEMO)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return read_arrays(DEMO)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO, tmp_path / "copy")


def edit_config(directory: Path, change: Callable[[dict[str, object]], Mapping[str, object]]) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=7))


def in_all_layers(change: Callable[[Arrays, int], Arrays], arrays: Arrays) -> Arrays:
    for layer in LAYERS:
        arrays = change(arrays, layer)
    return arrays


def without_data(directory: Path) -> None:
    """Keep only the headers of the files."""
    for path in directory.glob("*.safetensors"):
        data = path.read_bytes()
        header_path(path).write_bytes(data[: 8 + int.from_bytes(data[:8], "little")])
        path.unlink()


def flip(directory: Path, tensor: str, byte: int) -> None:
    """Change one byte of a tensor."""
    with Checkpoint.open(directory) as checkpoint:
        info = checkpoint.info(tensor)
    with info.path.open("r+b") as file:
        file.seek(info.offset + byte)
        (value,) = file.read(1)
        file.seek(info.offset + byte)
        file.write(bytes([value ^ 1]))


SAME: dict[str, Callable[[Path, Arrays], None]] = {
    "a copy": lambda _d, _a: None,
    "in four files": lambda d, a: rewrite(d, a, lambda name: len(name) % 4),
    "a tensor per expert": lambda d, a: rewrite(d, in_all_layers(per_expert, a)),
    "fused experts": lambda d, a: rewrite(d, in_all_layers(fused, a)),
    "with more tensors": lambda d, a: rewrite(d, a | {"model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones(4)}),
    "config.json written otherwise": lambda d, _: edit_config(d, lambda c: dict(sorted(c.items())[::-1])),
    "config.json with other words": lambda d, _: edit_config(d, lambda c: c | {"transformers_version": "0", "x": [1]}),
}


@pytest.mark.parametrize("change", SAME)
def test_files_layout_and_spelling_do_not_matter(copy: Path, demo: Manifest, arrays: Arrays, change: str) -> None:
    SAME[change](copy, arrays)
    assert content_of(copy).hash == demo.hash
    assert outline_of(copy) == outline_of(DEMO)


@settings(max_examples=12)
@given(
    layouts=st.lists(st.sampled_from([None, per_expert, fused]), min_size=len(LAYERS), max_size=len(LAYERS)),
    n_files=st.integers(1, 9),
    seed=st.integers(0, 1 << 30),
)
def test_each_layer_may_have_its_layout_and_each_tensor_its_file(
    demo: Manifest, arrays: Arrays, layouts: list[Callable[[Arrays, int], Arrays] | None], n_files: int, seed: int
) -> None:
    for layer, change in zip(LAYERS, layouts, strict=True):
        arrays = arrays if change is None else change(arrays, layer)
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text((DEMO / "config.json").read_text())
        rewrite(Path(folder), arrays, lambda _: drawn.randrange(n_files))
        assert content_of(Path(folder)).hash == demo.hash


EXPERT = 7
UP = "model.layers.3.mlp.experts.up_proj"
CHANGED: dict[str, tuple[str, str]] = {
    "an expert": ("model.layers.3.mlp.switch_mlp.up_proj.weight", UP),
    "an expert's scales": ("model.layers.3.mlp.switch_mlp.up_proj.scales", UP),
    "an expert's biases": ("model.layers.3.mlp.switch_mlp.up_proj.biases", UP),
    "a norm": ("model.layers.5.input_layernorm.weight",) * 2,
    "the router's bias": ("model.layers.2.mlp.gate.e_score_correction_bias",) * 2,
    "the embedding": ("model.embed_tokens.weight", "model.embed_tokens"),
    "attention": ("model.layers.4.self_attn.embed_q.scales", "model.layers.4.self_attn.key_up_proj"),
    "the MTP layer": ("model.layers.6.eh_proj.biases", "model.layers.6.eh_proj"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_one_changed_byte_is_told_by_parameter_and_tensor(copy: Path, demo: Manifest, what: str) -> None:
    tensor, parameter = CHANGED[what]
    with Checkpoint.open(copy) as checkpoint:
        taken = samples(checkpoint.info(tensor).nbytes, 16 if parameter == UP else 1)
    flip(copy, tensor, taken[EXPERT].start if len(taken) > EXPERT else taken[-1].stop - 1)
    changed = content_of(copy)
    assert changed.hash != demo.hash
    assert differences(demo.digests, changed.digests) == [parameter]
    pairs = zip(tensors_of(DEMO, parameter), tensors_of(copy, parameter), strict=True)
    assert [one[0] for one, other in pairs if one != other] == [tensor]
    assert outline_of(copy) == outline_of(DEMO)


def test_the_same_change_is_told_by_the_expert_that_has_it_in_any_layout(
    copy: Path, demo: Manifest, arrays: Arrays
) -> None:
    rewrite(copy, per_expert(arrays, 3))
    flip(copy, f"model.layers.3.mlp.experts.{EXPERT}.up_proj.scales", 0)
    assert differences(demo.digests, content_of(copy).digests) == [UP]
    pairs = list(zip(tensors_of(DEMO, UP), tensors_of(copy, UP), strict=True))
    assert [(one[0], other[0]) for one, other in pairs if one[1] != other[1]] == [
        ("model.layers.3.mlp.switch_mlp.up_proj.scales", f"model.layers.3.mlp.experts.{EXPERT}.up_proj.scales")
    ]
    assert len(pairs) == 3 * 16


def test_what_is_computed_differently_differs(copy: Path, demo: Manifest) -> None:
    edit_config(copy, lambda c: c | {"rms_norm_eps": 0.5})
    assert differences(demo.digests, content_of(copy).digests) == ["rms_norm_eps of config.json"]
    assert outline_of(copy) != outline_of(DEMO)


def test_another_form_of_the_same_numbers_differs(copy: Path, demo: Manifest, arrays: Arrays) -> None:
    """Of matrices of zeros, only the dtype and the shape can tell."""
    name = "model.layers.0.self_attn.o_proj"
    hashes, outlines = set(), set()
    for form in (mx.float32, mx.bfloat16, 4, 8):
        rest = {key: array for key, array in arrays.items() if not key.startswith(name)}
        zeros = mx.zeros((192, 192))
        if isinstance(form, int):
            parts = zip(("weight", "scales", "biases"), mx.quantize(zeros, bits=form), strict=True)
            rewrite(copy, rest | {f"{name}.{kind}": part for kind, part in parts})
        else:
            rewrite(copy, rest | {f"{name}.weight": zeros.astype(form)})
        assert differences(demo.digests, content_of(copy).digests) == [name]
        hashes.add(content_of(copy).hash)
        outlines.add(outline_of(copy))
    assert len(hashes) == len(outlines) == 4


def test_of_two_layouts_of_latent_projections_only_the_transposed_half_differs(
    tmp_path: Path, copy: Path, arrays: Arrays
) -> None:
    heads, nope, value, rank = 6, 32, 32, 64
    path = "model.layers.0.self_attn"
    rest = {key: array for key, array in arrays.items() if not key.startswith((f"{path}.embed_q", f"{path}.unembed"))}
    both = mx.random.normal((heads, nope + value, rank))
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    rewrite(copy, rest | {f"{path}.kv_b_proj.weight": both.reshape(-1, rank)})
    parts = {"embed_q": both[:, :nope].swapaxes(1, 2), "unembed_out": both[:, nope:]}
    rewrite(other, rest | {f"{path}.{name}.weight": mx.contiguous(part) for name, part in parts.items()})
    assert differences(content_of(copy).digests, content_of(other).digests) == [f"{path}.key_up_proj"]


def test_a_model_without_a_tensor_has_no_content(copy: Path, arrays: Arrays) -> None:
    rewrite(copy, {name: array for name, array in arrays.items() if name != "model.norm.weight"})
    with pytest.raises(CheckpointError, match=r"no tensor model\.norm\.weight"):
        content_of(copy)


def test_headers_without_data_have_an_outline_and_no_content(copy: Path, arrays: Arrays) -> None:
    rewrite(copy, in_all_layers(per_expert, arrays), lambda name: len(name) % 3)
    without_data(copy)
    assert outline_of(copy) == outline_of(DEMO)
    with pytest.raises(CheckpointError, match="is not on this machine, and no source has it"):
        content_of(copy)


def test_the_runs_of_a_manifest_are_the_bytes_of_its_arrays(copy: Path, arrays: Arrays) -> None:
    rewrite(copy, per_expert(arrays, 3), lambda name: len(name) % 3)
    (_, scales, _) = (entry for entry in content_of(copy).entries if entry.parameter == UP)
    stored = b"".join((copy / run.file).read_bytes()[run.offset : run.offset + run.nbytes] for run in scales.runs)
    assert stored == bytes(memoryview(arrays["model.layers.3.mlp.switch_mlp.up_proj.scales"]))
    assert (scales.part, scales.dtype, scales.shape) == ("layer 3", "BF16", (16, 64, 6))


@pytest.mark.parametrize(
    ("shape", "n_samples"),
    [
        ((1, WHOLE_BYTES), 1),
        ((1, WHOLE_BYTES + 1), 3),
        ((64, SAMPLE_BYTES), 1),
        ((1, 7168 * 2048), 3),
        ((1, 129280 * 7168), 56),
        ((256, 2048 * 896), 256),  # the experts of a layer
        ((16, 100 << 20), 112),
        ((1, 0), 1),
    ],
)
def test_samples_are_spread_from_the_first_byte_to_the_last(shape: tuple[int, int], n_samples: int) -> None:
    n_experts, matrix_bytes = shape
    taken = samples(math.prod(shape), n_experts)
    assert (taken[0].start, taken[-1].stop) == (0, math.prod(shape))
    assert all(sample.stop <= following.start for sample, following in pairwise(taken))
    assert len(taken) == n_samples
    if n_samples > 1:
        assert {sample.start // matrix_bytes for sample in taken} == set(range(n_experts))
        assert all(s.start // matrix_bytes == (s.stop - 1) // matrix_bytes for s in taken)
