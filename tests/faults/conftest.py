"""What the fault suite shares: a running cluster with a network that can be spoiled, and the records of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_moe
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Token
from tests.cluster.conftest import _patient_probe, hosts, measured_hardware
from tests.cluster.running import running_cluster
from tests.faults.network import network
from tests.faults.record import README, Record, render
from tests.faults.trio import LONG, N_TOKENS, PROMPTS, Trio, request

__all__ = ["_patient_probe", "hosts", "measured_hardware"]

RECORDS: list[Record] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="also the rows that take long, or that other tests show")
    parser.addoption("--write-faults", action="store_true", help="write tests/faults/README.md")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-faults", default=False):
        README.write_text(render(RECORDS, f"{os.getloadavg()[1]:.1f}"))


@pytest.fixture
def record() -> list[Record]:
    """Take the records of rows."""
    return RECORDS


@pytest.fixture(scope="session")  # before all that a row needs
def by_hand(request: pytest.FixtureRequest) -> None:
    """Skip what takes long, or what a test of `make test` shows too, unless all faults are asked for."""
    if not request.config.getoption("--all-faults", default=False):
        pytest.skip("make faults runs it")


@pytest.fixture(scope="session")
def wanted() -> dict[tuple[int, ...], list[Token]]:
    """Return what one machine answers to each prompt."""
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    tokens = {prompt: list(model.generate(request(prompt))) for prompt in PROMPTS}
    tokens[LONG] = list(model.generate(request(LONG, 4)))
    model.close()
    assert all(len(answer) == (4 if prompt == LONG else N_TOKENS) for prompt, answer in tokens.items())
    return tokens


@pytest.fixture(scope="module")
def trio(
    tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path, wanted: dict[tuple[int, ...], list[Token]]
) -> Iterator[Trio]:
    """Run three nodes; a test that ends one leaves it to the next to start it again."""
    directory = tmp_path_factory.mktemp("trio")
    with network(3) as between, running_cluster(directory, 3, measured_hardware, between.prefixes) as cluster:
        between.begin(cluster.nodes)
        yield Trio(cluster, between, wanted)
