"""What the cluster's tests share."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.membership import hardware
from tests.cluster.hosts import Hosts, permitted_hosts
from tests.cluster.running import Cluster, running_cluster
from tests.patience import PATIENCE_S


@pytest.fixture(autouse=True)
def _logs_are_heard() -> None:
    """Undo what a command that ran in this process has set: it quiets the project's loggers."""
    logging.getLogger("cluster").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _patient_probe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "DEADLINE_S", PATIENCE_S)
        yield


@pytest.fixture(scope="session")
def measured_hardware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure this machine once, not for every node."""
    cache = tmp_path_factory.mktemp("hardware") / "hardware.json"
    asyncio.run(hardware.hardware(cache))
    return cache


@pytest.fixture(scope="module")  # idle it takes a tenth of a core, more in a while than its start
def five_nodes(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    """Run a cluster to load models on; a test that ends a node makes a cluster of its own."""
    with running_cluster(tmp_path_factory.mktemp("five"), 5, measured_hardware) as cluster:
        yield cluster


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with permitted_hosts() as permitted:
        yield permitted
