"""Every parser of outside bytes returns a value or raises our errors, in bounded time; also on what once failed."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.fuzzing import CORPUS, Target, check, fuzz, kept
from tests.fuzz.targets import NAMES, targets

EXECUTIONS = 100


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in targets(tmp_path_factory.mktemp("fuzz"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_returns_a_value_or_raises_our_errors(by_name: dict[str, Target], name: str) -> None:
    target, seed = by_name[name], random.randrange(2**32)
    for path in kept(target):
        assert check(target, path.read_bytes())[0] is None, path
    for data in target.seeds:
        assert check(target, data)[0] is None
    found = fuzz(target, seed, executions=EXECUTIONS // target.slowness).findings
    again = f"python -m tests.fuzz --target {name} --seed {seed}"
    assert not found, f"{again}: {[(f.what, f.where, f.data[:300]) for f in found.values()]}"


def test_each_target_and_each_corpus_is_named_once(by_name: dict[str, Target]) -> None:
    assert sorted(by_name) == sorted(NAMES)
    assert {path.name for path in CORPUS.glob("*")} <= set(NAMES)
