"""RopeConfig: the rotary position embedding in config.json, in any of its spellings.

Read as in transformers 5: `rope_scaling` (published checkpoints) replaces `rope_parameters` (saved by transformers 5)
if both exist; a `rope_theta` or `original_max_position_embeddings` beside them is used if they do not have it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import CheckpointError

RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]

DEFAULT_THETA = 10_000.0

LEAST_RATIO = 1e-6
"""Factors and betas must be greater: smaller values come from no training and leave the range of floats."""

SECTIONS = ("rope_scaling", "rope_parameters")
"""The first one that exists and is not empty is used."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of the first `dims` numbers of each head.

    The other fields have the names of `rope_parameters`. `dynamic` is plain up to max_position_embeddings and not
    supported beyond, where all keys would have to be rotated again; `longrope` neither, beyond the original context,
    within which it stretches by the `short_factor` of each pair. Source: YaRN, arXiv 2309.00071, section 3.4; the
    `attention_factor` multiplies cos and sin.
    """

    dims: int
    rope_theta: float
    interleaved: bool
    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()


def read_rope(
    fields: ConfigFields,
    head_dim: int,
    interleaved: bool,
    *,
    default_share: float | None = None,
    default_theta: float = DEFAULT_THETA,
    longrope: bool = False,
) -> RopeConfig:
    """Read the rotary embedding's parameters.

    A family with a `default_share` rotates that part of each head's numbers, unless partial_rotary_factor says another.
    Families have longrope in different ways; one that reads it says so.

    Raises:
        CheckpointError: a missing or wrong value.
        UnsupportedModelError: a valid setting that is not supported.
    """
    section = _section(fields)
    holder = section if section.has("partial_rotary_factor") else fields
    share = holder.number("partial_rotary_factor", default=default_share or 1.0, above=0)
    dims = head_dim if default_share is None else int(head_dim * share)
    if dims % 2 or not 0 < dims <= head_dim:
        raise CheckpointError(f"config.json: rotary embedding goes over pairs of numbers; a head has {dims}")
    theta_holder = section if section.has("rope_theta") else fields
    rope_theta = theta_holder.number("rope_theta", default=default_theta, above=1)
    rope_type = section.word("rope_type" if section.has("rope_type") else "type", default="default")
    if rope_type == "default":
        return RopeConfig(dims, rope_theta, interleaved)
    known = [kind for kind in get_args(RopeType) if longrope or kind != "longrope"]
    if rope_type not in known:
        raise section.unsupported(f"rope type {rope_type!r} is not supported; supported are {', '.join(known)}")
    if default_share is None and share != 1.0:
        raise section.unsupported(f"partial_rotary_factor {share:g} is not supported with rope type {rope_type!r}")
    if rope_type == "longrope":
        return _read_longrope(fields, section, RopeConfig(dims, rope_theta, interleaved, "longrope"))
    factor, original = _stretch(fields, section, rope_type)
    low_freq_factor = section.number("low_freq_factor", default=None if rope_type == "llama3" else 1.0, above=0)
    return RopeConfig(
        dims,
        rope_theta,
        interleaved,
        cast("RopeType", rope_type),
        factor,
        original,
        _beta(section, "beta_fast", 32.0),
        _beta(section, "beta_slow", 1.0),
        low_freq_factor,
        section.number("high_freq_factor", default=None if rope_type == "llama3" else 4 * low_freq_factor, above=0),
        _attention_factor(section, factor) if rope_type == "yarn" else 1.0,
        section.number("mscale_all_dim", default=0.0, above=-1),
        section.flag("truncate", default=True),
    )


def yarn_mscale(factor: float, mscale: float) -> float:
    """Return yarn's attention temperature for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def note(values: Mapping[str, Any]) -> str:
    """Return a note for people about the rope settings in the `values` of a config.json, "" if there is none."""
    scaling, parameters = (values.get(key) or {} for key in SECTIONS)
    theta = parameters.get("rope_theta")
    if not scaling or theta in (None, DEFAULT_THETA) or "rope_theta" in scaling or "rope_theta" in values:
        return ""
    return (
        f"config.json: rope_scaling replaces rope_parameters and its rope_theta of {theta!s:.20}, as in transformers: "
        f'write "rope_theta": {theta!s:.20} into rope_scaling if it is to count'
    )


def _section(fields: ConfigFields) -> ConfigFields:
    """Return the object with the parameters; an empty one if there is none."""
    found = [section for key in SECTIONS if (section := fields.section(key)) and section.items()]
    if not found:
        return ConfigFields({}, "rope_parameters")
    given = {key: value for key, value in found[0].items() if value is not None}
    by_layer_type = [key for key, value in given.items() if isinstance(value, dict)]
    if by_layer_type and len(by_layer_type) == len(given):
        raise found[0].unsupported(
            f"parameters by layer type ({', '.join(by_layer_type)[:80]}) are not supported, and transformers ignores "
            f"them in this family: write those of {by_layer_type[0]:.40} in their place if they hold for all layers"
        )
    return found[0]


def _stretch(fields: ConfigFields, section: ConfigFields, rope_type: str) -> tuple[float, int]:
    """Return the factor and the original context that it stretches; 0 if linear or dynamic rope does not state it."""
    key, longest = "original_max_position_embeddings", fields.dimension("max_position_embeddings")
    holder = fields if fields.has(key) else section  # in transformers the one outside has precedence
    may_be_left_out = rope_type in ("linear", "dynamic")
    original = 0 if may_be_left_out and not holder.has(key) else holder.dimension(key, default=longest)
    return section.number(
        "factor", default=longest / original if rope_type == "yarn" else None, above=LEAST_RATIO
    ), original


def _read_longrope(fields: ConfigFields, section: ConfigFields, rope: RopeConfig) -> RopeConfig:
    """Read what longrope needs within the original context. Source: arXiv 2402.13753; transformers' `phimoe`."""
    key = "original_max_position_embeddings"
    original = (section if section.has(key) else fields).dimension(key)
    factors = section.numbers("short_factor", rope.dims // 2, above=LEAST_RATIO)
    temperature = section.number("short_mscale", above=0)
    return replace(rope, original_max_position_embeddings=original, short_factor=factors, attention_factor=temperature)


def _beta(section: ConfigFields, key: str, default: float) -> float:
    """Return how often a pair turns where blending begins or ends; 0 says the default, as in transformers."""
    return section.number(key, default=default, above=LEAST_RATIO) if section.number(key, default=default) else default


def _attention_factor(section: ConfigFields, factor: float) -> float:
    mscale = section.number("mscale", default=0.0, above=-1)
    mscale_all_dim = section.number("mscale_all_dim", default=0.0, above=-1)
    if mscale and mscale_all_dim:
        default = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    else:
        default = yarn_mscale(factor, 1.0)
    return section.number("attention_factor", default=default, above=0)
