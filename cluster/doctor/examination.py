"""Examination: reads all that the checks need, at the same time, and returns their findings. Takes up to 3 seconds."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime

import psutil

from cluster import software
from cluster.client import NodeClient, is_running
from cluster.doctor import certificates, links, linux, macos, multicast, nodes, storage
from cluster.doctor.check import Command, UnreadError, read
from cluster.doctor.finding import Finding, not_checked
from cluster.doctor.nodes import OwnNodeState
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.membership.address import is_loopback, own_ips
from cluster.node.options import NodeOptions
from cluster.node.running import Settings
from cluster.node.tokens import holds_authority
from mlx_moe.checkpoint import hub_cache
from mlx_moe.errors import MoeClusterError

ANSWER_S = 1.5
LIMIT_S = 8.0
"""Time limit of each group of checks, such as the reading of directories on a disk that does not answer."""

VERSION: Command = ("sw_vers", "-productVersion")


async def examine(home: Home) -> list[Finding]:
    """Return all findings: of the machine, its network, its disks, its node, and the cluster."""
    options = _options(home)
    port = Settings("").port if options.port is None else options.port
    state = await _own_node(home)
    groups = await asyncio.gather(
        _within("machine", _machine(port)),
        _within("network", _network(state)),
        _within("disk", asyncio.to_thread(_storage, home)),
        _within("cluster", asyncio.to_thread(_cluster, home, state, options.host or "", port)),
    )
    return [finding for group in groups for finding in group]


async def _within(name: str, group: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(LIMIT_S):
            return await group
    except TimeoutError:
        return [not_checked(name, f"took longer than {LIMIT_S:g} s")]


def _options(home: Home) -> NodeOptions:
    with suppress(ClusterError):  # `up` says so
        return NodeOptions.read(home.options)
    return NodeOptions()


async def _machine(port: int) -> list[Finding]:
    """Check what the system tells about itself."""
    if sys.platform == "darwin":
        local = datetime.now().astimezone().replace(tzinfo=UTC)  # reports of jetsam are named by local time
        checks = macos.checks(psutil.Process().exe(), local)
    else:
        checks = linux.checks(port)
    return list(await asyncio.gather(*(check.run() for check in checks)))


async def _network(state: OwnNodeState) -> list[Finding]:
    interfaces = await links.own_interfaces()
    found = [interfaces if isinstance(interfaces, Finding) else links.interfaces_finding(interfaces)]
    announces = state.status is not None and not all(map(is_loopback, state.status.own.info.addresses))
    others = len(state.status.here) - 1 if state.status else 0
    heard = await multicast.listen(own_ips(), enough=others + announces)
    if sys.platform == "darwin":
        version = await read(VERSION)
        if isinstance(version, UnreadError):
            found.append(not_checked("local network", str(version)))
        else:
            found.append(multicast.privacy_finding(version, heard, os.environ.get("TERM_PROGRAM", "")))
    found.append(multicast.multicast_finding(heard, own_ips(), announces=announces))
    if state.status is not None:
        found.append(links.nodes_finding(state.status))
    return found


def _storage(home: Home) -> list[Finding]:
    cache = hub_cache.directory()
    own = storage.read_content(home.path, is_private=True)
    own.open_to_others += storage.private_files(home)
    contents = [own, storage.read_content(cache)]
    return [storage.disks_finding(storage.read_disks((cache, home.models))), storage.directories_finding(contents)]


def _cluster(home: Home, state: OwnNodeState, host: str, port: int) -> list[Finding]:
    names = {node.info.node_id: node.shown_name for node in state.status.nodes} if state.status else {}
    membership = certificates.read_membership(home)
    memory = [nodes.memory_finding(state.status)] if state.status else []
    return [
        nodes.node_finding(state),
        *memory,
        nodes.port_finding(state, host, port, holds_authority(home)),
        certificates.membership_finding(membership, state.status, datetime.now(UTC)),
        nodes.clocks_finding(state, names, nodes.slept_s()),
        nodes.versions_finding(software.versions(), state.abouts, names),
    ]


async def _own_node(home: Home) -> OwnNodeState:
    """Ask this machine's node."""
    if not is_running(home):
        return OwnNodeState(False)
    began = time.monotonic()
    try:
        async with await NodeClient.connect(home) as node:
            status = await node.status(ANSWER_S)
            answered_s = time.monotonic() - began
            return OwnNodeState(True, status, answered_s, abouts=await node.about())
    except NoClusterError as error:
        return OwnNodeState(True, error=str(error))
    except MoeClusterError as error:
        return OwnNodeState(True, error=str(error), pid=_pid(home))


def _pid(home: Home) -> int:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return int(json.loads(home.daemon.read_text())["pid"])
    return 0
