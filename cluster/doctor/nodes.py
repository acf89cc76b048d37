"""Nodes: whether this machine's node answers, its port, and how clocks and versions of the cluster's nodes differ."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cluster.client import ClusterStatus, NodeAbout, ServingState
from cluster.doctor.finding import Finding, Remark, State, finding
from cluster.errors import ClusterError
from cluster.membership.listening import Listening
from mlx_moe.units import bytes_text

FAR_S = 10.0
TOO_FAR_S = 24 * 3600.0
"""Clocks that differ by more than a day: a new certificate is not valid yet, see `cluster.trust.authority`."""

SET_CLOCK = "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "sudo timedatectl set-ntp true"

LESS_MEMORY = "load the model with a smaller --context or fewer --users, or on more nodes"

SLOW_ANSWER_S = 1.0
SLEPT_S = 60.0

_SHOWN = ("moe-cluster", "python", "mlx", "grpcio", "system")
_SAME = ("mlx", "moe-cluster")
"""Packages whose versions should be the same on all nodes; those of others matter to no other node."""


@dataclass(frozen=True, slots=True)
class OwnNodeState:
    """This machine's node: its status, None if it does not run or answer, and what it was asked for about others."""

    runs: bool
    status: ClusterStatus | None = None
    answered_s: float = 0.0
    error: str = ""
    pid: int = 0
    abouts: Sequence[NodeAbout] = ()


def node_finding(node: OwnNodeState) -> Finding:
    """Judge whether this machine's node runs and answers."""
    return finding("node", _node_remarks(node))


def _node_remarks(node: OwnNodeState) -> Iterator[Remark]:
    if not node.runs:
        yield Remark("none runs on this machine; moe-cluster up starts one")
        return
    if node.status is None:
        kill = f"kill {node.pid}; moe-cluster up" if node.pid else "moe-cluster down; moe-cluster up"
        yield Remark(f"it runs, but {node.error}", State.PROBLEM, kill)
        return
    status, slow = node.status, node.answered_s > SLOW_ANSWER_S
    name = f"{status.own.shown_name} answers in {node.answered_s * 1e3:.0f} ms"
    yield Remark(f"{name}{', which is slow' * slow}", State.WARNING if slow else State.OK)
    if status.insecure:
        yield Remark(
            "it trusts everybody on the network (--insecure)", State.WARNING, "moe-cluster down; moe-cluster up --new"
        )
    for reason in status.refused:
        yield Remark(f"it refuses a node: {reason}", State.WARNING)
    serving = status.serving
    if serving is not None and serving.state is ServingState.FAILED:
        yield Remark(f"{serving.model} failed: {serving.failure}", State.PROBLEM, "moe-cluster logs")


def memory_finding(status: ClusterStatus) -> Finding:
    """Judge how much of their memory the workers of all nodes use."""
    return finding("memory of workers", _memory_remarks(status))


def _memory_remarks(status: ClusterStatus) -> Iterator[Remark]:
    holders = [(node, node.holding) for node in status.nodes if node.is_here and node.holding is not None]
    if not holders:
        yield Remark("no model is loaded")
    for node, holding in holders:
        used, offered = holding.stats.used_memory_bytes, node.info.offered_bytes
        text = f"{node.shown_name} uses {bytes_text(used)} of {bytes_text(offered)} offered"
        if holding.stats.memory == "out":
            yield Remark(f"{text}: answers give way", State.PROBLEM, LESS_MEMORY)
        elif holding.stats.memory == "short":
            yield Remark(f"{text}: new requests are refused", State.WARNING, LESS_MEMORY)
        else:
            yield Remark(text)


def port_finding(node: OwnNodeState, host: str, port: int, enrols: bool) -> Finding:
    """Judge whether the ports that the next `up` would open are free; with a running node, tell its own."""
    return finding("port", _port_remarks(node, host, port, enrols))


def _port_remarks(node: OwnNodeState, host: str, port: int, enrols: bool) -> Iterator[Remark]:
    if node.runs:
        addresses = node.status.own.info.addresses if node.status else ()
        yield Remark(f"this machine's node listens at {', '.join(addresses)}" if addresses else "its node has it")
        return
    wanted = [port] + [port + 1] * enrols
    try:
        Listening.at(host).require_free(*wanted)
    except ClusterError as error:
        yield Remark(str(error), State.PROBLEM, "moe-cluster up --port 0")
        return
    yield Remark(
        f"{' and '.join(map(str, wanted))} {'are' if enrols else 'is'} free" if port else "any free one is taken"
    )


def clocks_finding(node: OwnNodeState, names: Mapping[str, str], slept_s: float) -> Finding:
    """Judge how far the clocks of other nodes are from this one's, and tell how long this machine slept."""
    return finding("clocks", _clock_remarks(node.abouts[1:], names, slept_s))


def _clock_remarks(others: Sequence[NodeAbout], names: Mapping[str, str], slept_s: float) -> Iterator[Remark]:
    if not others:
        yield Remark("there is no other node to compare with")
    for other in others:
        apart = max(0.0, abs(other.ahead_s) - other.ahead_error_s)
        name = names.get(other.node_id, other.node_id)
        if apart < FAR_S:
            yield Remark(f"{name} {other.ahead_s:+.2f} s, give or take {other.ahead_error_s:.2f} s")
            continue
        side = "ahead of" if other.ahead_s > 0 else "behind"
        yield Remark(
            f"{name} is {abs(other.ahead_s):,.0f} s {side} this machine",
            State.PROBLEM if apart > TOO_FAR_S else State.WARNING,
            f"{SET_CLOCK}  # on the one that is wrong",
        )
    if slept_s > SLEPT_S:
        yield Remark(f"this machine slept for {slept_s / 3600:.1f} h since its start")


def slept_s() -> float:
    """Return how long this machine has slept since its start: one clock stops in sleep, another does not."""
    awake, always = (
        ("CLOCK_UPTIME_RAW", "CLOCK_MONOTONIC_RAW")
        if sys.platform == "darwin"
        else (
            "CLOCK_MONOTONIC",
            "CLOCK_BOOTTIME",
        )
    )
    return max(0.0, time.clock_gettime(getattr(time, always)) - time.clock_gettime(getattr(time, awake)))


def versions_finding(own: Mapping[str, str], abouts: Sequence[NodeAbout], names: Mapping[str, str]) -> Finding:
    """Judge whether all nodes run the same versions."""
    return finding("versions", _version_remarks(own, abouts, names))


def _version_remarks(own: Mapping[str, str], abouts: Sequence[NodeAbout], names: Mapping[str, str]) -> Iterator[Remark]:
    yield Remark(", ".join(f"{package} {version}" for package, version in own.items() if package in _SHOWN))
    if abouts and (running := abouts[0].versions.get("moe-cluster")) != own.get("moe-cluster"):
        yield Remark(
            f"this machine's node still runs moe-cluster {running}", State.WARNING, "moe-cluster down; moe-cluster up"
        )
    for other in abouts[1:]:
        name = names.get(other.node_id, other.node_id)
        for package in _SAME:
            theirs, ours = other.versions.get(package, "?"), own.get(package, "?")
            if theirs != ours:
                major = package == "moe-cluster" and theirs.partition(".")[0] != ours.partition(".")[0]
                yield Remark(
                    f"{name} has {package} {theirs}",
                    State.PROBLEM if major else State.WARNING,
                    "install the same version on all nodes, and start them again",
                )
