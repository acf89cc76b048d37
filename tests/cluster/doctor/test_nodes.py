"""What the doctor says of nodes, clocks, versions, ports and certificates."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.client import (
    ClusterStatus,
    Holding,
    NodeAbout,
    NodeState,
    NodeStatus,
    ServingState,
    ServingStatus,
    WorkerStats,
)
from cluster.doctor import certificates, links, nodes
from cluster.doctor.finding import State
from cluster.doctor.nodes import OwnNodeState
from cluster.home import Home
from cluster.membership.hardware import Hardware
from cluster.membership.membership import LinkSpeed
from cluster.membership.node_info import NodeInfo
from cluster.trust import Authority, NodeKey

HARDWARE = Hardware("Apple M4 Pro", "metal", "bfloat16", 64 << 30, 48 << 30, 273.0, 7.5, "macOS-26.1", "0.32.4", 1.0)
NAMES = {f"{n:016x}": f"mac-{n}" for n in range(4)}
VERSIONS = {"moe-cluster": "0.1.0", "mlx": "0.32.4", "python": "3.12.4"}


def node(n: int, state: NodeState = NodeState.PRESENT, link: LinkSpeed | None = None) -> NodeStatus:
    info = NodeInfo(f"{n:016x}", f"mac-{n}", (f"10.0.0.{n}:7420",), "0.1.0", 1, 40 << 30, HARDWARE)
    return NodeStatus(info, f"mac-{n}", state, link, None, {})


def status(*others: NodeStatus, failure: str = "", refused: tuple[str, ...] = ()) -> ClusterStatus:
    serving = ServingStatus("demo", 1, ServingState.FAILED, "", failure, (), 0.0, 0, 0) if failure else None
    return ClusterStatus("c" * 16, False, (node(0), *others), serving, "", refused)


def about(n: int, ahead_s: float = 0.0, **versions: str) -> NodeAbout:
    return NodeAbout(f"{n:016x}", VERSIONS | {name.replace("_", "-"): v for name, v in versions.items()}, ahead_s, 0.01)


@pytest.mark.parametrize(
    ("own", "state", "said"),
    [
        (OwnNodeState(False), State.OK, "none runs on this machine"),
        (OwnNodeState(True, status(), 0.004), State.OK, "mac-0 answers in 4 ms"),
        (OwnNodeState(True, status(), 1.4), State.WARNING, "which is slow"),
        (OwnNodeState(True, error="it is silent", pid=7), State.PROBLEM, "it runs, but it is silent"),
        (OwnNodeState(True, status(refused=("mac-9 has version 2",)), 0.01), State.WARNING, "refuses a node: mac-9"),
        (OwnNodeState(True, status(failure="mac-1 is gone"), 0.01), State.PROBLEM, "demo failed: mac-1 is gone"),
    ],
)
def test_the_own_node_is_judged(own: OwnNodeState, state: State, said: str) -> None:
    found = nodes.node_finding(own)
    assert found.state is state
    assert said in "\n".join(found.found)


@pytest.mark.parametrize(("memory", "state"), [("", State.OK), ("short", State.WARNING), ("out", State.PROBLEM)])
def test_a_worker_that_is_short_of_memory_is_told(memory: str, state: State) -> None:
    stats = WorkerStats(used_memory_bytes=40 * 10**9, memory=memory)
    holding = Holding("demo", 1, 0, range(4), 8, True, True, 30 * 10**9, stats)
    found = nodes.memory_finding(status(replace(node(1), holding=holding), node(2)))
    assert (found.state, bool(found.cures)) == (state, bool(memory))
    assert found.found[0].startswith("mac-1 uses 40.0 GB of 42.9 GB offered")
    assert nodes.memory_finding(status(node(1))).found == ("no model is loaded",)


def test_a_node_that_does_not_answer_can_be_ended_by_its_process() -> None:
    assert nodes.node_finding(OwnNodeState(True, error="timed out", pid=7)).cures == ("kill 7; moe-cluster up",)


@pytest.mark.parametrize(
    ("other", "state", "said"),
    [
        (node(1, link=LinkSpeed(0.0003, 1.1e9)), State.OK, "mac-1 0.30 ms 1.10 GB/s"),
        (node(1, link=LinkSpeed(0.02, 1.1e9)), State.WARNING, "20.00 ms 1.10 GB/s: over 5 ms is slow"),
        (node(1, link=LinkSpeed(0.0003, 1e6)), State.WARNING, "under 0.05 GB/s is slow"),
        (node(1), State.OK, "mac-1 is not measured yet"),
        (node(1, NodeState.LOST), State.WARNING, "mac-1 is lost"),
    ],
)
def test_links_to_nodes_are_judged(other: NodeStatus, state: State, said: str) -> None:
    found = links.nodes_finding(status(other))
    assert (found.state, said in "\n".join(found.found)) == (state, True)


@pytest.mark.parametrize(
    ("ahead_s", "state"), [(0.0, State.OK), (-3.0, State.OK), (3600.0, State.WARNING), (-200000.0, State.PROBLEM)]
)
def test_clocks_are_compared(ahead_s: float, state: State) -> None:
    found = nodes.clocks_finding(OwnNodeState(True, abouts=[about(0), about(1, ahead_s)]), NAMES, 0.0)
    assert found.state is state
    assert "mac-1" in found.found[0]


def test_the_time_that_a_machine_slept_is_told() -> None:
    assert nodes.clocks_finding(OwnNodeState(False), {}, 7200.0).found[-1].startswith("this machine slept for 2.0 h")
    assert nodes.slept_s() >= 0


@pytest.mark.parametrize(
    ("other", "state", "said"),
    [
        ({}, State.OK, ""),
        ({"python": "3.11.7"}, State.OK, ""),
        ({"mlx": "0.31.0"}, State.WARNING, "mac-1 has mlx 0.31.0"),
        ({"moe_cluster": "0.2.0"}, State.WARNING, "mac-1 has moe-cluster 0.2.0"),
        ({"moe_cluster": "1.0.0"}, State.PROBLEM, "mac-1 has moe-cluster 1.0.0"),
    ],
)
def test_versions_are_compared(other: dict[str, str], state: State, said: str) -> None:
    found = nodes.versions_finding(VERSIONS, [about(0), about(1, **other)], NAMES)
    assert (found.state, said in "\n".join(found.found)) == (state, True)


def test_a_node_that_was_started_before_an_update_is_told() -> None:
    found = nodes.versions_finding(VERSIONS, [about(0, moe_cluster="0.0.9")], NAMES)
    assert (found.state, found.found[-1]) == (State.WARNING, "this machine's node still runs moe-cluster 0.0.9")


def test_a_port_that_is_taken_names_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = nodes.port_finding(OwnNodeState(False), "127.0.0.1", port, enrols=False)
        assert found.state is State.PROBLEM
        assert f"port {port}" in found.found[0]
        assert found.cures == ("moe-cluster up --port 0",)
    assert nodes.port_finding(OwnNodeState(False), "127.0.0.1", port, enrols=False).found == (f"{port} is free",)
    assert nodes.port_finding(OwnNodeState(True, status()), "", port, enrols=True).found == (
        "this machine's node listens at 10.0.0.0:7420",
    )


def test_a_certificate_is_told_with_the_days_that_are_left(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert certificates.read_membership(home).is_member is False
    authority = Authority.create(home.authority)
    key = NodeKey.open(home.identity)
    key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)
    membership = certificates.read_membership(home)
    assert membership.ends is not None
    for days, state, cure in (
        (-300, State.OK, ""),
        (-60, State.WARNING, certificates.RENEW),
        (3, State.PROBLEM, certificates.RENEW),
        (90, State.PROBLEM, certificates.REJOIN),
    ):
        found = certificates.membership_finding(membership, None, membership.ends + timedelta(days=days))
        assert (found.state, "".join(found.cures)) == (state, cure)
    assert found.found[-1] == "the cluster's authority is kept by this node"
    (home.identity / "node.key").chmod(0o644)
    damaged = certificates.read_membership(home)
    assert certificates.membership_finding(damaged, None, datetime.now(UTC)).state is State.PROBLEM


@pytest.mark.parametrize("keeps", [True, False])
def test_who_keeps_the_authority_is_told_and_missed(keeps: bool) -> None:
    now = datetime.now(UTC)
    membership = certificates.Membership(True, now + timedelta(days=200), now + timedelta(days=300))
    lost = replace(node(2, NodeState.LOST), keeps_authority=True)
    known = status(replace(node(1), keeps_authority=keeps), lost)
    found = certificates.membership_finding(membership, known, now)
    assert found.state is (State.OK if keeps else State.WARNING)
    assert ("kept by mac-1" in found.found[-1]) == keeps
