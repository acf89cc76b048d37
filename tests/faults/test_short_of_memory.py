"""Row 4: a node is killed, and the others have no memory for its layers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client import ServingState
from mlx_moe.decoding.request import Token
from tests.cluster.running import running_cluster
from tests.faults.network import network
from tests.faults.record import Record
from tests.faults.trio import Trio
from tests.patience import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("by_hand")]

BUDGET_BYTES = 3_300_000
"""Of each node: for a third of the model and its KV cache, not for half."""


@pytest.fixture
def small_trio(tmp_path: Path, measured_hardware: Path, wanted: dict[tuple[int, ...], list[Token]]) -> Iterator[Trio]:
    measured = json.loads(measured_hardware.read_text())
    measured["hardware"]["budget_bytes"] = BUDGET_BYTES
    hardware = tmp_path / "hardware.json"
    hardware.write_text(json.dumps(measured))
    with network(3) as between, running_cluster(tmp_path / "nodes", 3, hardware, between.prefixes) as cluster:
        between.begin(cluster.nodes)
        yield Trio(cluster, between, wanted)


def test_answers_end_with_an_error_and_the_model_works_again_with_the_node(
    small_trio: Trio, record: list[Record]
) -> None:
    trio = small_trio
    trio.load()
    began_s = time.monotonic()
    seen = trio.disturb(trio.nodes[2].kill)
    ended_s = time.monotonic() - began_s
    served = trio.cluster.own.status().serving
    assert not seen.answers.violations
    assert len(seen.answers.errors) == len(seen.answers.readings), seen.answers.errors
    assert served is None or served.state is not ServingState.READY
    trio.cluster.model = None
    trio.load()
    until(lambda: trio.cluster.own.status().ready)
    assert trio.disturb(lambda: None).answers.are_whole
    told = f"after {ended_s:.1f} s; the partial text stays, and it works again with the node"
    record.append(seen.record(4, "SIGKILL to the last node; the others have no memory for its layers", told))
