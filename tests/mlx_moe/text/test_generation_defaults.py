"""GenerationDefaults: what people's files say is taken, or ignored with a note, and never a reason not to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.generation_defaults import GenerationDefaults


def read(directory: Path, text: str | bytes, config: dict[str, Any] | None = None) -> GenerationDefaults:
    (directory / "generation_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (directory / "config.json").write_text(json.dumps(config or {}))
    return GenerationDefaults.read(directory)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", {}),
        ('{"do_sample": true, "temperature": 0.7, "top_k": 20, "unknown": [{}]}', {"temperature": 0.7, "top_k": 20}),
        ('{"do_sample": false, "temperature": 0.7}', {"temperature": 0.0}),
        ('{"do_sample": true, "min_p": 0.1}', {"min_p": 0.1}),
        ('{"top_k": null, "top_p": null, "temperature": null, "do_sample": null, "repetition_penalty": null}', {}),
        ('{"top_k": -1, "top_p": -1, "min_p": -1.0, "repetition_penalty": -1}', {"top_k": 0, "top_p": 1.0}),
        ('{"top_k": 50.0}', {"top_k": 50}),
        ('{"top_k": 0, "top_p": 0, "temperature": 0.0}', {"top_k": 0, "top_p": 0, "temperature": 0.0}),
        ('{"top_p": 1, "temperature": 1, "repetition_penalty": 1}', {"top_p": 1, "temperature": 1}),
    ],
)
def test_values_are_taken_and_negative_ones_switch_off(tmp_path: Path, text: str, wanted: dict[str, Any]) -> None:
    defaults = read(tmp_path, text)
    assert defaults.sampling == SamplingParams().updated(**wanted)
    assert defaults.notes == ()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("top_k", '"50"'),
        ("top_k", "2.5"),
        ("top_k", "true"),
        ("top_k", "1e300"),
        ("temperature", '"0.6"'),
        ("temperature", "-1"),
        ("temperature", "NaN"),
        ("temperature", "[1]"),
        ("top_p", "7"),
        ("top_p", "false"),
        ("repetition_penalty", "0"),
        ("min_p", "{}"),
        ("do_sample", '"yes"'),
        ("do_sample", "1"),
    ],
)
def test_what_cannot_be_used_is_ignored_with_a_note(tmp_path: Path, key: str, text: str) -> None:
    defaults = read(tmp_path, f'{{"{key}": {text}, "presence_penalty": 0.5}}')
    assert defaults.sampling == SamplingParams(presence_penalty=0.5)
    (note,) = defaults.notes
    assert note.startswith(f"generation_config.json: {key} must be ")
    assert note.endswith("; it is ignored")


@pytest.mark.parametrize(
    ("text", "ids", "noted"),
    [
        ("1", {1}, False),
        ("[1, 2]", {1, 2}, False),
        ("2.0", {2}, False),
        ("null", set(), False),
        ("-1", set(), False),
        ("[1, -1]", {1}, False),
        ("[]", set(), False),
        ('"1"', set(), True),
        ("[[1]]", set(), True),
        ("[true, 3]", {3}, True),
        ("1.5", set(), True),
        ('{"a": 1}', set(), True),
    ],
)
@pytest.mark.parametrize("source", ["generation_config.json", "config.json"])
def test_odd_ends_of_turns_are_ignored(tmp_path: Path, source: str, text: str, ids: set[int], noted: bool) -> None:
    values = {"generation_config.json": "{}", "config.json": "{}"} | {source: f'{{"eos_token_id": {text}}}'}
    for name, content in values.items():
        (tmp_path / name).write_text(content)
    defaults = GenerationDefaults.read(tmp_path)
    assert defaults.eos_token_ids == ids
    assert [note.startswith(f"{source}: eos_token_id must have ") for note in defaults.notes] == [True] * noted


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"top_k": 1, "top_k": 2}', b"[" * 100, b"7"])
def test_a_broken_file_is_ignored_with_a_note(tmp_path: Path, text: bytes) -> None:
    defaults = read(tmp_path, text, {"eos_token_id": 5})
    assert (defaults.sampling, defaults.eos_token_ids) == (SamplingParams(), {5})
    assert [note.split(":")[0] for note in defaults.notes] == ["generation_config.json is ignored"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["temperature", "top_k", "top_p", "eos_token_id", "do_sample"]), json_values))
def test_no_value_keeps_a_model_from_loading(tmp_path: Path, values: dict[str, Any]) -> None:
    read(tmp_path, json.dumps(values))
