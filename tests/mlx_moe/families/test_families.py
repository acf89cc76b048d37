"""Every registered family passes every check of families, and the README's table lists all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlx_moe.families import registry
from tests import families
from tests.family import README, names, rows_of_readme
from tests.family_checks import CHECKS, FamilyUnderTest

ALIASES = {name: families.read(name).aliases for name in families.NAMES}


@pytest.fixture(scope="module", params=families.NAMES)
def family(request: pytest.FixtureRequest) -> FamilyUnderTest:
    return FamilyUnderTest(request.param)


@pytest.mark.oracle
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_each_family(family: FamilyUnderTest, check: Callable[[FamilyUnderTest], str]) -> None:
    assert check(family)


def test_every_registered_family_is_checked() -> None:
    checked = [*families.NAMES, *(alias for aliases in ALIASES.values() for alias in aliases)]
    assert sorted([*checked, *families.WITHOUT_TRANSFORMERS]) == sorted(registry.FAMILIES)


def test_the_readme_lists_every_family() -> None:
    listed = {name: names(cells[0]) for name, cells in rows_of_readme(README.read_text()).items()}
    others = {name: [name] for name in families.WITHOUT_TRANSFORMERS}
    assert listed == others | {name: [name, *ALIASES[name]] for name in families.NAMES}
