"""The table of short names: every name means one model, and every model of it can be planned."""

import re

import pytest

from mlx_moe import known_models
from mlx_moe.checkpoint import library
from mlx_moe.families import read_config, registry
from mlx_moe.known_models import KNOWN_MODELS, KnownModel, find


@pytest.mark.parametrize("known", KNOWN_MODELS.values(), ids=lambda known: known.name)
def test_every_model_of_the_table_is_found_by_its_names_and_read_by_its_family(known: KnownModel) -> None:
    for name in (known.name, *known.aliases, known.name.upper(), known.original.rpartition("/")[2]):
        assert find(name) is known
        assert known_models.suggestions(name) == [known.name]
        assert not known_models.unsupported(name)
    assert known.family == known.config["model_type"]
    assert known.family in registry.FAMILIES
    assert read_config(known.config, known.name).moe_layers


def test_names_and_aliases_are_lower_case_without_colons_and_repositories_are_repo_ids() -> None:
    for known in KNOWN_MODELS.values():
        assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in (known.name, *known.aliases))
        assert all(library.REPO_ID.fullmatch(repo_id) for repo_id in known.repositories)
        assert all(known.original.rpartition("/")[2] in repo_id for repo_id in known.repositories)
    originals = [known.original for known in KNOWN_MODELS.values()]
    assert len(set(originals)) == len(originals)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("qwen3:235b", "qwen3-235b-a22b"),
        ("qwen3-235b", "qwen3-235b-a22b"),
        ("Qwen3:30B", "qwen3-30b-a3b"),
        ("qwen3-coder:480b", "qwen3-coder-480b"),
        ("deepseek-r1:671b", "deepseek-r1"),
        ("gpt-oss:120b", "gpt-oss-120b"),
    ],
)
def test_names_are_understood_as_other_programs_write_them(typed: str, name: str) -> None:
    known = find(typed)
    assert known is not None
    assert known.name == name


def test_an_unsupported_family_is_named_by_the_refusal_with_what_runs() -> None:
    assert "deepseek-v4" not in KNOWN_MODELS
    assert known_models.refusal("deepseek-v4") == (
        f"deepseek-v4 belongs to DeepSeek-V4, which this version does not run; it runs {known_models.RUNS}"
    )
    assert "belongs to the dense Qwen3.5 and 3.6," in known_models.refusal("Qwen/Qwen3.5-27B")


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", True),
        ("Qwen/Qwen2.5-7B-Instruct", True),
        ("Qwen/Qwen2.5-VL-7B-Instruct", False),
        ("Qwen/Qwen3-0.6B", True),
        ("zai-org/GLM-4.7", True),
        ("zai-org/GLM-4.5V", False),
        ("THUDM/glm-4-9b-chat", False),
        ("THUDM/GLM-4-9B-0414", True),
        ("mistralai/Mistral-7B-Instruct-v0.3", True),
        ("meta-llama/Llama-3.3-70B-Instruct", True),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", False),
        ("allenai/OLMoE-1B-7B-0924", True),
        ("allenai/OLMo-2-1124-7B", False),
    ],
)
def test_a_name_alone_says_whether_its_family_runs(name: str, runs: bool) -> None:
    assert known_models.unsupported(name) is not runs


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("kimi", ["kimi-k2", "kimi-k2-0905", "kimi-k2-thinking", "kimi-k2.5"]),
        ("deepsek-v3", ["deepseek-v3"]),
        ("qwen3-coder", ["qwen3-coder-30b", "qwen3-coder-480b"]),
        ("mlx-community/DeepSeek-V3-0324-4bit", ["deepseek-v3-0324"]),
    ],
)
def test_a_name_that_is_not_known_is_matched_with_those_that_are(name: str, suggested: list[str]) -> None:
    assert known_models.suggestions(name)[: len(suggested)] == suggested
