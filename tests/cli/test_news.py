"""News: how others are told to join."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.news import News
from cluster.trust import JoinToken

TOKEN = JoinToken("a" * 64, "b" * 32)


@pytest.mark.parametrize(
    ("address", "host", "told"),
    [
        ("192.0.2.2:7420", None, ["On each other machine", "moe-cluster up --join -", "add --peer 192.0.2.2:7420"]),
        ("127.0.0.1:7420", None, ["cannot reach this node; connect it to a network", "another node on this machine"]),
        ("127.0.0.1:7420", "127.0.0.1", ["cannot reach", "up --host ::", "--port 0 --peer 127.0.0.1:7420"]),
    ],
)
def test_only_who_can_reach_a_node_is_told_to_join_it(address: str, host: str | None, told: list[str]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=200)
    News(console).how_to_join(TOKEN, address, host)
    text = " ".join(file.getvalue().split())
    assert all(part in text for part in (*told, TOKEN.text))
    assert ("other machine, type" in text) == (not address.startswith("127."))
