"""SECURITY.md: each of its claims names a test, and each of these tests is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / ".github" / "SECURITY.md").read_text()
TESTS = dict(re.findall(r"^\[\^(\w+)\]: `(tests/\S+::test_\w+)`$", TEXT, re.MULTILINE))
BODY = TEXT.partition("\n[^")[0]


def test_every_footnote_is_defined_and_used() -> None:
    used = re.findall(r"\[\^(\w+)\]", BODY)
    assert set(used) == TESTS.keys()
    assert TEXT.count("\n[^") == len(TESTS)  # none has another form


def test_everything_that_somebody_cannot_do_names_its_test() -> None:
    lists = re.findall(r"\*\*Cannot\*\*\n\n(.*?)\n\n", BODY, re.DOTALL)
    claims = [claim for each in lists for claim in re.split(r"\n(?=- )", each)]
    assert len(claims) > 10
    assert [claim for claim in claims if "[^" not in claim] == []


@pytest.mark.parametrize("name", TESTS.values(), ids=TESTS)
def test_the_test_of_a_claim_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
