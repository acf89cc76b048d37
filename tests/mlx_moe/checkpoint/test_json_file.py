"""JSON file: how deep a text is nested is found without parsing it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError

Json = dict[str, "Json"] | list["Json"] | str | None
WORDS = st.text('[]{}"\\ab', max_size=6)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
)


def depth(value: Json) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(st.dictionaries(WORDS, VALUES, max_size=3))
def test_a_text_is_parsed_up_to_its_own_depth_whatever_its_strings_have(value: dict[str, Json]) -> None:
    data, levels = json.dumps(value).encode(), depth(value)
    assert json_file.parse(data, "x", levels) == value
    with pytest.raises(CheckpointError, match=f"x is nested deeper than {levels - 1} levels"):
        json_file.parse(data, "x", levels - 1)


UNENDED = {"a string": '{"' + '\\"' * 500_000, "objects": '{"a": ' * 3, "only ends": "}" * 500_000}


@pytest.mark.parametrize("what", UNENDED)
def test_brackets_and_strings_without_an_end_are_no_json(what: str) -> None:
    with pytest.raises(CheckpointError, match="x is not JSON"):
        json_file.parse(UNENDED[what].encode(), "x")


DEEP = {"without an end": "[" * 500_000, "whole": "{" * 50_000 + "}" * 50_000}


@pytest.mark.parametrize("what", DEEP)
def test_many_levels_are_refused_before_they_are_parsed(what: str) -> None:
    with pytest.raises(CheckpointError, match="nested deeper than 64 levels"):
        json_file.parse(DEEP[what].encode(), "x")
