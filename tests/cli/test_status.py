"""status says what a node holds beside its part."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from cli.status import print_status, to_json
from cluster.client import ClusterStatus, Holding, NodeState, NodeStatus, ServingState, ServingStatus, WorkerStats
from tests.cluster.membership.test_membership import info

SERVING = ServingStatus("demo", 3, ServingState.READY, info(1).node_id, "", (), 1.0, 512, 0)
LEADS = Holding("demo", 3, 0, range(0, 6), 16, True, True, 3_000_000, WorkerStats(kv_positions=30))
SPARE = replace(LEADS, stage=1, layers=range(0), experts=0, leads=False, coordinates=False, weights_bytes=0)


def status(spare: Holding) -> ClusterStatus:
    nodes = tuple(
        NodeStatus(info(n), f"mac-{n}", NodeState.PRESENT, None, holding, {}) for n, holding in ((1, LEADS), (2, spare))
    )
    return ClusterStatus("c", False, nodes, SERVING, "", ())


def test_a_spare_copy_is_shown_with_its_node_and_bytes() -> None:
    shown = status(replace(SPARE, spare_layers=range(2, 6), spare_bytes=2_500_000))
    output = io.StringIO()
    print_status(shown, Console(file=output, width=120))
    lines = [" ".join(line.split()) for line in output.getvalue().splitlines()]
    assert "mac-2 has a spare copy of layers 2-5, 2.5 MB" in lines
    assert any(line.startswith("mac-2 spare") for line in lines)
    model = to_json(shown)["model"]
    assert model["standby"] == {"node": "mac-2", "layers": [2, 6], "bytes": 2_500_000}
    assert to_json(status(LEADS))["model"]["standby"] is None
