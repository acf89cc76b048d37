"""Loading: what a role reads of a checkpoint."""

from __future__ import annotations

import pytest

from cluster.placement import Placement, StagePlacement
from cluster.worker.loading import load
from cluster.worker.node_files import NodeFiles
from cluster.worker.role import Role


@pytest.mark.parametrize(
    ("draft", "stages", "is_loaded"),
    [
        ("", [range(1), range(1, 6)], True),
        ("mtp", [range(1), range(1, 6)], True),
        ("ngram", [range(1), range(1, 6)], False),
        ("none", [range(1), range(1, 6)], False),
        ("", [range(6)], False),
    ],
)
def test_the_mtp_layer_is_loaded_only_where_it_drafts(draft: str, stages: list[range], is_loaded: bool) -> None:
    placed = tuple(StagePlacement(f"node-{i}", layers) for i, layers in enumerate(stages))
    role = Role.of(Placement("demo", "", placed, 512, 1, 1024, {}), "node-0")
    loaded = load(NodeFiles("demo"), role, lambda *_: None, draft)
    assert (loaded.holding.mtp is not None) == is_loaded
