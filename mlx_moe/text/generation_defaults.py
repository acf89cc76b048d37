"""GenerationDefaults: a checkpoint's default sampling parameters and its end-of-turn tokens.

Both are in generation_config.json; config.json may list end-of-turn tokens too. A value that cannot be used is ignored
and noted; it never prevents loading, because people and tools edit these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.sampling_params import SamplingParams, is_integer, shown

_OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The values that switch a filter off; many tools write a negative number for them."""

_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """A checkpoint's defaults; `notes` tells people which values are ignored, and why."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    eos_token_ids: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> GenerationDefaults:
        """Read generation_config.json, and config.json's `eos_token_id`."""
        notes: list[str] = []
        values = _values(directory / "generation_config.json", notes)
        sampling = _sampling(values, notes)
        ends = _eos_ids(values, "generation_config.json", notes)
        ends |= _eos_ids(_values(directory / "config.json", notes), "config.json", notes)
        return cls(sampling, frozenset(ends), tuple(notes))


def _values(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json_file.read(path)
    except CheckpointError as exc:
        notes.append(f"{path.name} is ignored: {exc}")
        return {}


def _sampling(values: Mapping[str, Any], notes: list[str]) -> SamplingParams:
    """Return the sampling parameters: greedy if do_sample is false, this project's defaults for missing values."""
    params = SamplingParams()
    for name in _FIELDS:
        if values.get(name) is not None:
            try:
                params = params.updated(**{name: _meant(name, values[name])})
            except InvalidRequestError as exc:
                notes.append(f"generation_config.json: {exc}; it is ignored")
    do_sample = values.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        notes.append(f"generation_config.json: do_sample must be true or false, got {shown(do_sample)}; it is ignored")
    return params.updated(temperature=0.0) if do_sample is False else params


def _meant(name: str, value: Any) -> Any:
    """Return the value to use: 50 for a top_k of 50.0; for a negative number the one that switches the filter off."""
    if name in _OFF and isinstance(value, int | float) and value < 0:
        return _OFF[name]
    return _whole(value) if name == "top_k" else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _eos_ids(values: Mapping[str, Any], source: str, notes: list[str]) -> set[int]:
    """Return the ids in `eos_token_id`, an integer or a list. Negative ids mean "none" and are left out."""
    value = values.get("eos_token_id")
    ids = [_whole(i) for i in (value if isinstance(value, list) else [] if value is None else [value])]
    if unusable := [i for i in ids if not is_integer(i)]:
        notes.append(f"{source}: eos_token_id must have token ids, got {shown(unusable[0])}; it is ignored")
    return {i for i in ids if is_integer(i) and i >= 0}
