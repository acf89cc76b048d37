"""rebalance shows who would hold what, the speed and the bytes, and moves the model only if it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cli import rebalance as command
from cluster.client import Wanted
from cluster.placement import Placement, Rebalance, StagePlacement, Standby


def placed(*layers: tuple[str, int, int], context_tokens: int = 8192) -> Placement:
    stages = tuple(StagePlacement(node_id, range(start, stop)) for node_id, start, stop in layers)
    return Placement("/models/demo", "hash", stages, context_tokens, 1, 9000, {})


BEFORE = placed(("a", 0, 2), ("b", 2, 6))
AFTER = placed(("a", 0, 2), ("c", 2, 6))


class Node:
    """A node that serves a model in one placement and knows a better one."""

    def __init__(self, found: Rebalance) -> None:
        self.found = found
        self.moved = 0

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None: ...

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(name=lambda node_id: f"mac-{node_id}")

    def rebalance(self, *, dry_run: bool) -> Rebalance:
        self.moved += not dry_run
        return self.found

    def load(self, wanted: Wanted) -> Iterator[SimpleNamespace]:
        assert wanted == Wanted("/models/demo")
        yield SimpleNamespace(nodes=(), serving=SimpleNamespace(load_s=2.5))


def run(monkeypatch: pytest.MonkeyPatch, found: Rebalance, *, dry_run: bool = False, yes: bool = False) -> Node:
    node = Node(found)
    monkeypatch.setattr(command.OwnNode, "connect", lambda _home: node)
    command.rebalance(dry_run=dry_run, yes=yes)
    return node


FASTER = Rebalance(BEFORE, AFTER, 5.0, 7.25, {"c": 4_000_000})


def test_it_shows_holders_speed_and_bytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, FASTER, dry_run=True).moved == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mac-a", "layers", "0-1", "layers", "0-1"] in lines
    assert ["mac-b", "layers", "2-5"] in lines
    assert ["mac-c", "layers", "2-5", "4.0", "MB"] in lines
    assert ["predicted", "for", "one", "user:", "5.00", "tok/s,", "then", "7.25", "tok/s"] in lines


def test_it_moves_with_a_yes_and_not_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, FASTER).moved == 0
    assert "nothing was moved; --yes does it" in capsys.readouterr().out
    assert run(monkeypatch, FASTER, yes=True).moved == 1
    assert "demo is moved, in 2.5 s" in capsys.readouterr().out


def test_room_that_fits_again_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    smaller = placed(("a", 0, 2), ("b", 2, 6), context_tokens=2048)
    run(monkeypatch, Rebalance(smaller, AFTER, 5.0, 5.0, {}), dry_run=True)
    assert "room: 1 x 2k tokens, then 1 x 8k tokens" in capsys.readouterr().out


def test_what_is_best_already_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, Rebalance(BEFORE, BEFORE, 5.0, 5.0, {}), yes=True).moved == 0
    assert capsys.readouterr().out == "demo is placed as well as it can be\n"


def test_up_on_a_served_model_says_if_it_could_be_placed_better() -> None:
    assert command.hint(Node(FASTER)) == (  # type: ignore[arg-type]
        "the nodes that are here allow a better placement, 5.00 tok/s, then 7.25 tok/s: moe-cluster rebalance"
    )
    assert command.hint(Node(Rebalance(BEFORE, AFTER, 5.0, 5.5, {}))) == ""  # type: ignore[arg-type]
    spared = replace(BEFORE, standby=Standby("c", range(2, 6)))
    assert "with a spare copy of a stage" in command.hint(Node(Rebalance(BEFORE, spared, 5.0, 5.0, {})))  # type: ignore[arg-type]
