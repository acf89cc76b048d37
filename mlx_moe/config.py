"""ModelConfig: what config.json says, read once into values that cannot be wrong.

Both dialects are read: today's hub files (`rope_theta`, `rope_scaling`, `num_experts`) and transformers 5
(`rope_parameters`, `num_local_experts`). Families say which keys they need (see `families/`); knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlx_moe.errors import CheckpointError, UnsupportedModelError

MAX_NUMBER = 1e30
"""Larger numbers overflow float32 somewhere down the line."""

MAX_DIMENSION = 1 << 24
"""Larger sizes in a config.json are taken for damage: no published model has a vocabulary or width near it."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding over the last `dims` of each head.

    `inv_freq_scale` and the yarn fields follow transformers' `rope_parameters`.
    Source: YaRN, arXiv 2309.00071, section 3.4; the `attention_factor` multiplies cos and sin.
    """

    dims: int
    rope_theta: float
    interleaved: bool
    rope_type: Literal["default", "linear", "yarn"] = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    mscale_all_dim: float = 0.0
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class MLAConfig:
    """Multi-head latent attention. Source: DeepSeek-V2, arXiv 2405.04434, section 2.1."""

    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    attention_bias: bool

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class GQAConfig:
    """Grouped-query attention, with RMSNorm over each head's query and key when `qk_norm`."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qk_norm: bool
    attention_bias: bool

    @property
    def kv_width(self) -> int:
        """Numbers that one position adds to the KV cache of one layer."""
        return 2 * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """Routed and shared experts of one MoE layer."""

    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int
    scoring_func: Literal["sigmoid", "softmax"]
    norm_topk_prob: bool
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    correction_bias: bool = False


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How a matrix is packed: `bits` a weight, one scale (affine: and one bias) per `group_size` inputs."""

    group_size: int
    bits: int
    mode: str = "affine"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A checkpoint's configuration. Layer indices are global; `moe_layers` are those with routed experts."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention: MLAConfig | GQAConfig
    rope: RopeConfig
    moe: MoEConfig
    moe_layers: frozenset[int]
    num_nextn_predict_layers: int
    quantization: QuantizationConfig | None
    quantization_overrides: Mapping[str, QuantizationConfig | None]

    @classmethod
    def read(
        cls,
        fields: ConfigFields,
        *,
        model_type: str,
        attention: MLAConfig | GQAConfig,
        rope: RopeConfig,
        moe: MoEConfig,
        moe_layers: frozenset[int],
        num_nextn_predict_layers: int = 0,
    ) -> ModelConfig:
        """Read what all families name alike, around what one reads by itself."""
        quantization, overrides = read_quantization(fields)
        return cls(
            model_type=model_type,
            vocab_size=fields.dimension("vocab_size"),
            hidden_size=fields.dimension("hidden_size"),
            intermediate_size=fields.dimension("intermediate_size"),
            num_hidden_layers=fields.dimension("num_hidden_layers"),
            max_position_embeddings=fields.dimension("max_position_embeddings"),
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6, above=0),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
            attention=attention,
            rope=rope,
            moe=moe,
            moe_layers=moe_layers,
            num_nextn_predict_layers=num_nextn_predict_layers,
            quantization=quantization,
            quantization_overrides=overrides,
        )

    @property
    def kv_bytes_per_position(self) -> int:
        """Bytes a position takes in all layers' KV caches, in 16-bit numbers."""
        return 2 * self.attention.kv_width * self.num_hidden_layers


class ConfigFields:
    """Typed reading of config.json; every refusal names the key, what was found and what is wanted."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self._source = source

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self._values.get(key) is not None

    def dimension(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """Return an integer in [minimum, MAX_DIMENSION] under the first of `keys` that is there."""
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= MAX_DIMENSION:
            raise self._wrong(key, value, f"an integer from {minimum} to {MAX_DIMENSION}")
        return value

    def number(self, *keys: str, default: float | None = None, above: float | None = None) -> float:
        """Return a finite number, above `above` if that is given."""
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise self._wrong(key, value, "a finite number")
        if above is not None and value <= above:
            raise self._wrong(key, value, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        key, value = self._find((key,), default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def word(self, key: str, default: str) -> str:
        """Return a string."""
        key, value = self._find((key,), default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def dimensions(self, key: str) -> tuple[int, ...]:
        """Return a list of integers in [0, MAX_DIMENSION]; missing or null is empty."""
        value = self._values.get(key) or []
        if not isinstance(value, list) or any(
            isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= MAX_DIMENSION for v in value
        ):
            raise self._wrong(key, value, "a list of layer indices")
        return tuple(value)

    def section(self, key: str) -> ConfigFields | None:
        """Return the object under `key`; None when missing or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return ConfigFields(value, f"{self._source}: {key}")

    def items(self) -> list[tuple[str, Any]]:
        """Return all pairs, unchecked."""
        return list(self._values.items())

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error for a sound file of a kind that is not run."""
        return UnsupportedModelError(f"{self._source}: {what}")

    def _find(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self.has(key):
                return key, self._values[key]
        if default is None:
            raise CheckpointError(f"{self._source}: {' or '.join(keys)} is missing")
        return keys[0], default

    def _wrong(self, key: str, value: object, wanted: str) -> CheckpointError:
        found = repr(value)
        return CheckpointError(f"{self._source}: {key} is {found[:80]}, wanted {wanted}")


def read_rope(fields: ConfigFields, dims: int, interleaved: bool) -> RopeConfig:
    """Read the rotary embedding's parameters in either dialect."""
    section = fields.section("rope_parameters") or fields.section("rope_scaling")
    if section is None:
        return RopeConfig(dims, fields.number("rope_theta", default=10_000.0, above=1), interleaved)
    theta_holder = section if section.has("rope_theta") else fields
    rope_theta = theta_holder.number("rope_theta", default=10_000.0, above=1)
    rope_type = section.word("rope_type" if section.has("rope_type") else "type", default="default")
    if rope_type == "default":
        return RopeConfig(dims, rope_theta, interleaved)
    if rope_type == "linear":
        return RopeConfig(dims, rope_theta, interleaved, "linear", section.number("factor", above=0))
    if rope_type != "yarn":
        raise section.unsupported(f"rope type {rope_type!r} is not supported; default, linear and yarn are")
    max_position_embeddings = fields.dimension("max_position_embeddings")
    original = section.dimension("original_max_position_embeddings", default=max_position_embeddings)
    factor = section.number("factor", default=max_position_embeddings / original, above=0)
    mscale = section.number("mscale", default=0.0, above=-1)
    mscale_all_dim = section.number("mscale_all_dim", default=0.0, above=-1)
    attention_factor = (
        yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
        if mscale and mscale_all_dim
        else yarn_mscale(factor, 1.0)
    )
    return RopeConfig(
        dims,
        rope_theta,
        interleaved,
        "yarn",
        factor,
        original,
        section.number("beta_fast", default=32.0, above=0),
        section.number("beta_slow", default=1.0, above=0),
        section.number("attention_factor", default=attention_factor, above=0),
        mscale_all_dim,
        section.flag("truncate", default=True),
    )


def yarn_mscale(factor: float, mscale: float) -> float:
    """Return yarn's attention temperature for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_quantization(
    fields: ConfigFields,
) -> tuple[QuantizationConfig | None, dict[str, QuantizationConfig | None]]:
    """Read MLX's `quantization` object: the default and the overrides by module path (None: not quantized)."""
    section = fields.section("quantization") or fields.section("quantization_config")
    if section is None:
        return None, {}
    if section.has("quant_method"):
        method = section.word("quant_method", "")
        raise section.unsupported(f"quantization {method!r} is not read; convert it to MLX's affine or mxfp4 form")
    default = _quantization_entry(section)
    overrides: dict[str, QuantizationConfig | None] = {}
    for path, value in section.items():
        if value is False:
            overrides[path] = None
        elif isinstance(value, dict):
            entry = section.section(path)
            assert entry is not None  # a dict is not null
            overrides[path] = _quantization_entry(entry)
    return default, overrides


def _quantization_entry(fields: ConfigFields) -> QuantizationConfig:
    mode = fields.word("mode", default="affine")
    if mode not in ("affine", "mxfp4"):
        raise fields.unsupported(f"quantization mode {mode!r} is not supported; affine and mxfp4 are")
    group_size = fields.dimension("group_size")
    bits = fields.dimension("bits")
    if mode == "affine" and (bits not in (2, 3, 4, 5, 6, 8) or group_size not in (32, 64, 128)):
        raise fields.unsupported(f"affine quantization with {bits} bits in groups of {group_size} is not supported")
    if mode == "mxfp4" and (bits, group_size) != (4, 32):
        raise fields.unsupported(f"mxfp4 with {bits} bits in groups of {group_size}: it is 4 bits in groups of 32")
    return QuantizationConfig(group_size, bits, mode)
