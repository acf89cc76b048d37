"""What the tests of trust share."""

from pathlib import Path

import pytest

from tests.cluster.trust.first_node import FirstNode


@pytest.fixture
def first_node(tmp_path: Path) -> FirstNode:
    return FirstNode(tmp_path / "first")
