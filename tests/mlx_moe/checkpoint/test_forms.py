"""Forms: the numbers of each published form, over odd shapes and any rows; and what is refused.

References are written with numpy here; that of E4M3 is held to torch's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.decoded import float8
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.parameter import Layout, Parameter, Source, latent_projections, linear
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from tests.checkpoints import write_tensors

Array = np.ndarray[Any, Any]
Tensors = dict[str, tuple[str, Array]]


def loaded(
    directory: Path, parameter: Parameter, recipe: Recipe = AS_STORED, dtype: mx.Dtype = mx.float32
) -> tuple[mx.array, ...]:
    """Return a parameter's arrays in memory, which take the bytes that were foretold."""
    with Checkpoint.open(directory) as checkpoint:
        (stored,) = find(checkpoint, [parameter], recipe)
        held: Held = {}
        progress: list[tuple[int, int]] = []
        parameters = loader.load(checkpoint, [stored], dtype, lambda *counts: progress.append(counts), held)
        assert parameters.nbytes == stored.memory_bytes(dtype.size)
        done_bytes, total_bytes = progress[-1]
        assert done_bytes == total_bytes >= stored.nbytes
        return held[stored.origin]


def e4m3(numbers: Array) -> Array:
    """Return what bytes mean as E4M3: sign, 4 bits of exponent, 3 of mantissa."""
    sign = np.where(numbers & 0x80, -1.0, 1.0)
    exponent, mantissa = (numbers >> 3) & 15, numbers & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7))
    return np.where(numbers & 0x7F == 0x7F, np.nan, sign * values).astype(np.float32)


def fp8(
    name: str, shape: tuple[int, ...], block: tuple[int, int], random: np.random.Generator
) -> tuple[Tensors, Array]:
    """Return a matrix, or a stack of them, in FP8, and its numbers."""
    numbers = random.integers(0, 127, shape, dtype=np.uint8) | (random.integers(0, 2, shape, dtype=np.uint8) << 7)
    blocks = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
    scales = random.uniform(1e-4, 3, blocks).astype(np.float32)
    by_row = scales.repeat(block[0], -2).repeat(block[1], -1)[..., : shape[-2], : shape[-1]]
    return {name: ("F8_E4M3", numbers), f"{name}_scale_inv": ("F32", scales)}, e4m3(numbers) * by_row


def int4(name: str, rows: int, inputs: int, group: int, random: np.random.Generator) -> tuple[Tensors, Array]:
    """Return a matrix as compressed-tensors packs it, and its numbers."""
    values = random.integers(-8, 8, (rows, inputs))
    scales = (random.uniform(1e-3, 1, (rows, inputs // group)).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    nibbles = (values + 8).astype(np.uint32).reshape(rows, -1, 8)
    words = (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)
    floats = (scales.astype(np.uint32) << 16).view(np.float32)
    tensors: Tensors = {
        f"{name}_packed": ("I32", words),
        f"{name}_scale": ("BF16", scales),
        f"{name}_shape": ("I32", np.array([rows, inputs], np.int32)),
    }
    return tensors, values.astype(np.float32) * floats.repeat(group, -1)


@pytest.mark.oracle
def test_fp8_is_decoded_as_torch_decodes_it() -> None:
    import torch

    numbers = np.arange(256, dtype=np.uint8)
    wanted = torch.from_numpy(numbers).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    np.testing.assert_array_equal(e4m3(numbers), wanted)
    got = float8(mx.array(numbers)[None], mx.array([[1.0], [2.0]]), [1, 0], 256)
    np.testing.assert_array_equal(np.array(got)[0], wanted)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 70),
    block=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 9),
)
def test_fp8_of_any_shape_and_blocks_is_decoded_to_the_bit(
    rows: int, inputs: int, block: tuple[int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors, wanted = fp8("a.weight", (rows, inputs), block, np.random.default_rng(seed))
    section = {"quant_method": "fp8", "weight_block_size": block}
    directory = write_tensors(tmp_path_factory.mktemp("fp8"), tensors, quantization_config=section)
    (got,) = loaded(directory, linear("a", rows, inputs))
    np.testing.assert_array_equal(np.array(got), wanted)


@pytest.mark.parametrize("cut_numbers", [1, 700, 1 << 20])
def test_any_rows_of_fp8_get_the_scales_of_their_own_blocks(
    cut_numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.stored_parameter.CUT_NUMBERS", cut_numbers)
    heads, nope, value, rank = 5, 24, 17, 33  # the rows of a head begin anywhere in a block
    name = "a.kv_b_proj.weight"
    tensors, numbers = fp8(name, (heads * (nope + value), rank), (16, 16), np.random.default_rng(0))
    section = {"weight_block_size": [16, 16]}
    directory = write_tensors(tmp_path, tensors, quantization_config=section)
    by_head = numbers.reshape(heads, nope + value, rank)
    keys, values = latent_projections("a", heads, nope, value, rank)
    np.testing.assert_array_equal(np.array(loaded(directory, keys)[0]), by_head[:, :nope])
    np.testing.assert_array_equal(np.array(loaded(directory, values)[0]), by_head[:, nope:])


def test_matrices_of_an_fp8_stack_have_blocks_of_their_own(tmp_path: Path) -> None:
    tensors, numbers = fp8("experts.up_proj", (4, 19, 21), (8, 8), np.random.default_rng(0))
    directory = write_tensors(tmp_path, tensors, quantization_config={"weight_block_size": [8, 8]})
    rows = (range(15, 50),)  # the end of the first, the second, the beginning of the third
    layout = Layout((35, 21), (Source("experts.up_proj", (4, 19, 21), rows),))
    np.testing.assert_array_equal(
        np.array(loaded(directory, Parameter("up", (layout,)))[0]), numbers.reshape(-1, 21)[15:50]
    )


def test_fp8_is_rounded_once_where_it_is_computed_in_16_bits(tmp_path: Path) -> None:
    tensors, numbers = fp8("a.weight", (130, 140), (128, 128), np.random.default_rng(0))
    (got,) = loaded(write_tensors(tmp_path, tensors), linear("a", 130, 140), dtype=mx.bfloat16)
    assert mx.array_equal(got, mx.array(numbers).astype(mx.bfloat16)).item()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_packed_int4_is_mlxs_affine_4_bit(group: int, tmp_path: Path) -> None:
    tensors, numbers = int4("a.weight", 7, 256, group, np.random.default_rng(0))
    words, scales, biases = loaded(write_tensors(tmp_path, tensors), linear("a", 7, 256))
    assert mx.array_equal(words, mx.array(tensors["a.weight_packed"][1]).view(mx.uint32)).item()
    got = mx.dequantize(words, scales, biases, group_size=group, bits=4)
    np.testing.assert_array_equal(np.array(got), numbers)


@pytest.mark.parametrize(("inputs", "group"), [(48, 16), (24, 24), (256, 256), (40, 8)])
def test_packed_int4_in_groups_that_mlx_lacks_is_decoded(inputs: int, group: int, tmp_path: Path) -> None:
    tensors, numbers = int4("a.weight", 7, inputs, group, np.random.default_rng(0))
    (got,) = loaded(write_tensors(tmp_path, tensors), linear("a", 7, inputs))
    np.testing.assert_array_equal(np.array(got), numbers)


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""E2M1. Source: OCP Microscaling Formats 1.0, section 5.3.3."""


def test_blocks_of_gpt_oss_are_mlxs_mxfp4_with_gate_and_up_in_turns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n_experts, rows, inputs, owned = 4, 6, 96, (1, 3)
    blocks = random.integers(0, 256, (n_experts, rows, inputs // 32, 16), dtype=np.uint8)
    scales = random.integers(120, 134, (n_experts, rows, inputs // 32), dtype=np.uint8)
    name = "mlp.experts.gate_up_proj"
    directory = write_tensors(tmp_path, {f"{name}_blocks": ("U8", blocks), f"{name}_scales": ("U8", scales)})
    numbers = FP4[np.stack([blocks & 15, blocks >> 4], -1)].reshape(n_experts, rows, -1, 32)
    wanted = (numbers * np.exp2(scales.astype(np.float32) - 127)[..., None]).reshape(n_experts, rows, inputs)
    ranges = tuple(range(e * rows, (e + 1) * rows) for e in owned)
    layout = Layout((2, rows, inputs), (Source(f"{name}_blocks", (n_experts, rows, inputs), ranges),))
    words, e8m0 = loaded(directory, Parameter("gate_up", (layout,), routed=True))
    got = mx.dequantize(words, e8m0, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    np.testing.assert_array_equal(np.array(got), wanted[list(owned)])
    x = mx.array(random.standard_normal((1, inputs)), mx.float32)
    y = mx.gather_qmm(x, words, e8m0, rhs_indices=mx.array([1]), group_size=32, bits=4, mode="mxfp4")
    gate, up = np.array(y).reshape(-1, 2).T
    np.testing.assert_allclose(gate, wanted[3, ::2] @ np.array(x)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(up, wanted[3, 1::2] @ np.array(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("q", [QuantizationConfig(16, 4, "nvfp4"), QuantizationConfig(32, 8, "mxfp8")])
def test_mlxs_modes_of_floats_are_told_by_their_shapes(q: QuantizationConfig, tmp_path: Path) -> None:
    w = mx.random.normal((6, 96), key=mx.random.key(0))
    words, scales = mx.quantize(w, group_size=q.group_size, bits=q.bits, mode=q.mode)
    tensors: Tensors = {"a.weight": ("U32", np.array(words)), "a.scales": ("U8", np.array(scales))}
    directory = write_tensors(tmp_path, tensors)
    got = loaded(directory, linear("a", 6, 96))
    assert all(mx.array_equal(one, other).item() for one, other in zip(got, (words, scales), strict=True))
    with Checkpoint.open(directory) as checkpoint:
        (stored,) = find(checkpoint, [linear("a", 6, 96)])
        assert stored.quantization == q
        matrix = loader.load(checkpoint, [stored], mx.float32).weight("a")
    x = mx.random.normal((3, 96), key=mx.random.key(1))
    unpacked = mx.dequantize(words, scales, group_size=q.group_size, bits=q.bits, mode=q.mode, dtype=mx.float32)
    assert mx.allclose(matrix.matmul(x), x @ unpacked.T, atol=1e-4).item()


def fp8_matrix(**changes: tuple[str, Array] | None) -> Tensors:
    """Return an FP8 matrix of 200 x 300 some of whose tensors are others, or missing."""
    tensors, _ = fp8("a.weight", (200, 300), (128, 128), np.random.default_rng(0))
    tensors |= {f"a.{name}": tensor for name, tensor in changes.items() if tensor is not None}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name[2:], tensor) is not None}


def int4_matrix(**changes: tuple[str, Array] | None) -> Tensors:
    """Return a packed int4 matrix of 200 x 320, changed as `fp8_matrix`."""
    tensors, _ = int4("a.weight", 200, 320, 32, np.random.default_rng(0))
    tensors |= {f"a.{name}": tensor for name, tensor in changes.items() if tensor is not None}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name[2:], tensor) is not None}


def with_nan(array: Array, bits: int, row: int) -> Array:
    """Return a copy of an array with a number of these bits in a row."""
    changed = array.copy()
    changed.view(f"u{array.itemsize}")[row, -1] = bits
    return changed


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


NUMBERS = fp8_matrix()["a.weight"][1]
SCALES = int4_matrix()["a.weight_scale"][1]

BAD: dict[str, tuple[Tensors, int, dict[str, Any], str]] = {
    "no scales": (fp8_matrix(weight_scale_inv=None), 300, {}, r"no tensor a\.weight_scale_inv"),
    "scales of another shape": (
        fp8_matrix(weight_scale_inv=("F32", ones(3, 2))),
        300,
        {},
        r"a\.weight_scale_inv is F32 \[3, 2\], config\.json asks for F32 \[2, 3\] \(FP8 in blocks of 128 x 128\)",
    ),
    "scales that are no floats": (
        fp8_matrix(weight_scale_inv=("U8", ones(2, 3).astype(np.uint8))),
        300,
        {},
        r"a\.weight_scale_inv has dtype U8, wanted F32 or F16 or BF16",
    ),
    "other blocks": (
        fp8_matrix(),
        300,
        {"weight_block_size": [64, 128]},
        r"\[2, 3\], .* F32 \[4, 3\] \(FP8 .* 64 x 128",
    ),
    "blocks of nothing": (
        fp8_matrix(),
        300,
        {"weight_block_size": [0, 128]},
        r"weight_block_size must be .*\[0, 128\]",
    ),
    "no blocks": (fp8_matrix(), 300, {"weight_block_size": "all"}, r"weight_block_size must be two .*got all"),
    "another matrix": (
        fp8_matrix(),
        301,
        {},
        r"a\.weight is F8_E4M3 \[200, 300\], config\.json asks for .* \[200, 301\]",
    ),
    "NaN in FP8": (fp8_matrix(weight=("F8_E4M3", with_nan(NUMBERS, 0xFF, 150))), 300, {}, r"a\.weight .* in row 150 "),
    "NaN as a scale": (
        fp8_matrix(weight_scale_inv=("F32", with_nan(ones(2, 3), 0x7FC00000, 1))),
        300,
        {},
        r"a\.weight has NaN or infinity in row 128 ",
    ),
    "FP8 of compressed-tensors": (
        fp8_matrix(weight_scale_inv=None, weight_scale=("F32", ones(200, 1))),
        300,
        {},
        r"a\.weight has dtype F8_E4M3: compressed-tensors quantization, .* moe-cluster up ORIGINAL --bits 4",
    ),
    "int4 without scales": (int4_matrix(weight_scale=None), 320, {}, r"no tensor a\.weight_scale"),
    "int4 with zero points": (
        int4_matrix(weight_zero_point=("I32", np.zeros((25, 10), np.int32))),
        320,
        {},
        r"asymmetric compressed-tensors quantization, which is not supported",
    ),
    "packed 8 bits": (int4_matrix(), 160, {}, r"a\.weight_packed has 40 words and 10 scales for a row of 160 inputs"),
    "int4 of other rows": (
        int4_matrix(weight_scale=("BF16", SCALES[:100])),
        320,
        {},
        r"a\.weight_scale is BF16 \[100, 10\], config\.json asks for BF16 \[200, 10\] \(int4 in groups of 32",
    ),
    "infinity as int4's scale": (
        int4_matrix(weight_scale=("BF16", with_nan(SCALES, 0x7F80, 7))),
        320,
        {},
        r"a\.weight_packed has NaN or infinity in row 7 ",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_damaged_or_not_supported_is_refused_with_the_tensor_and_its_numbers(bad: str, tmp_path: Path) -> None:
    tensors, inputs, section, message = BAD[bad]
    directory = write_tensors(tmp_path, tensors, quantization_config=section)
    with pytest.raises(CheckpointError, match=message):
        loaded(directory, linear("a", 200, inputs))


def test_experts_of_one_stack_must_be_stored_alike(tmp_path: Path) -> None:
    one, _ = fp8("e.0.weight", (16, 16), (128, 128), np.random.default_rng(0))
    directory = write_tensors(tmp_path, one | {"e.1.weight": ("F32", ones(16, 16))})
    sources = tuple(Source(f"e.{i}.weight", (16, 16), (range(16),)) for i in range(2))
    with pytest.raises(UnsupportedModelError, match=r"e\.1\.weight is not stored as e\.0\.weight: F32 and FP8"):
        loaded(directory, Parameter("e", (Layout((2, 16, 16), sources),)))
