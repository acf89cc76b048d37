"""Discovery: the nodes that announce themselves by multicast DNS (`_moe-cluster._tcp`). A hint, never trusted.

A killed node stays listed for up to 1,120 seconds, and anyone on the network can announce anything; membership greets
the announced addresses to find out which nodes are there. Multicast uses IPv4, or IPv6 if there is no IPv4.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import zeroconf
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from cluster.membership.address import MAX_ADDRESSES, is_loopback, is_scoped, join, own_ips, split
from cluster.membership.node_info import are_addresses, is_name, is_node_id, is_version

SERVICE = "_moe-cluster._tcp.local."

CHECK_S = 1.0
"""How often a node checks whether its announcement (above all its addresses) changed, or multicast became possible."""

RESOLVE_MS = 3000
MAX_RESOLVING = 64
MAX_REMEMBERED = 256

_CLUSTER_ID = re.compile(r"(?:[0-9a-f]{16})?")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node announces. `cluster_id` is "" before it joins; `enrols`: it can admit nodes to its cluster."""

    node_id: str
    name: str
    cluster_id: str
    version: str
    addresses: tuple[str, ...]
    enrols: bool = False


async def discover(found: Callable[[Announcement], None], own: Callable[[], Announcement | None]) -> None:
    """Announce what `own` returns, if anything, and call `found` with what others announce, until cancelled.

    `found` is called again when an announcement changes, and when its node comes back. Uses the networks of the own
    addresses; starts again when anything in `own` changes. If multicast is not possible, finds nobody, logs that once
    and tries again.
    """
    is_told = False
    while True:
        try:
            await _discover(found, own)
            is_told = False
        except* (OSError, RuntimeError, zeroconf.Error) as failed:  # RuntimeError: an address has just been removed
            if not is_told:
                error = failed.exceptions[0]
                log.warning("nodes are not found by themselves, name them with --peer HOST:PORT: error=%s", error)
            is_told = True
            await asyncio.sleep(CHECK_S)


async def look(seconds: float, enough: Callable[[Announcement], bool]) -> tuple[Announcement, ...]:
    """Return what others announce within `seconds`, or until `enough` is true for one. Announces nothing."""
    found: dict[str, Announcement] = {}

    def hear(announcement: Announcement) -> None:
        if len(found) < MAX_REMEMBERED:
            found[announcement.node_id] = announcement
        if enough(announcement) and not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds) as limit:
            await discover(hear, lambda: None)
    return tuple(found.values())


async def _discover(found: Callable[[Announcement], None], own: Callable[[], Announcement | None]) -> None:
    """Announce and find until `own` changes. Raises OSError, RuntimeError or zeroconf.Error, or a group of them."""
    announced = own()
    service = None if announced is None else _service(announced)
    async with _open(announced) as speaker, asyncio.TaskGroup() as tasks:
        resolver = _Resolver(speaker.zeroconf, tasks, found, service)
        async with AsyncServiceBrowser(speaker.zeroconf, SERVICE, handlers=[resolver.on_change]):
            if service is not None:
                await speaker.async_register_service(service, allow_name_change=True)
            while own() == announced:
                await asyncio.sleep(CHECK_S)


class _Resolver:
    """Resolves the names that the browser hears to announcements."""

    def __init__(
        self,
        speaker: Zeroconf,
        tasks: asyncio.TaskGroup,
        found: Callable[[Announcement], None],
        own: AsyncServiceInfo | None,
    ) -> None:
        self._speaker = speaker
        self._tasks = tasks
        self._found = found
        self._own = own
        self._known: dict[str, Announcement] = {}
        self._n_resolving = 0

    def on_change(self, *, name: str, state_change: ServiceStateChange, **_: object) -> None:
        """Resolve a name that is new or has changed."""
        if state_change is ServiceStateChange.Removed:
            self._known.pop(name, None)
        elif self._n_resolving < MAX_RESOLVING:
            self._n_resolving += 1
            self._tasks.create_task(self._resolve(name))
        else:
            log.debug("announcement ignored: name=%r reason=%d are being resolved", name, self._n_resolving)

    async def _resolve(self, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        try:
            is_resolved = await info.async_request(self._speaker, RESOLVE_MS)
        finally:
            self._n_resolving -= 1
        announcement = _announcement(info) if is_resolved else None
        if announcement is None:
            log.debug("announcement ignored: name=%r resolved=%s", name, is_resolved)
        elif self._own is not None and info.server == self._own.server:
            log.debug("own announcement heard: name=%s", name)
        elif self._known.get(name) != announcement:
            self._known[name] = announcement
            if len(self._known) > MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._found(announcement)


def _open(announced: Announcement | None) -> AsyncZeroconf:
    """Open multicast sockets on the networks of the own addresses. Raises OSError or RuntimeError."""
    ips = own_ips() if announced is None else [split(address)[0] for address in announced.addresses]
    interfaces = [ip for ip in ips if ":" not in ip] or [ip for ip in ips if not is_loopback(join(ip, 0))]
    if not interfaces:
        raise OSError("IPv6 has no multicast over loopback")
    return AsyncZeroconf(interfaces=interfaces)


def _service(own: Announcement) -> AsyncServiceInfo:
    hosts, ports = zip(*(split(address) for address in own.addresses), strict=True)
    return AsyncServiceInfo(
        SERVICE,
        f"{own.node_id}.{SERVICE}",
        port=ports[0],
        properties={
            "id": own.node_id,
            "name": own.name,
            "cluster": own.cluster_id,
            "version": own.version,
            "enrol": "1" if own.enrols else "0",
        },
        # New at every start: otherwise others would add these addresses to the ones that they remember
        server=f"{own.node_id}-{secrets.token_hex(4)}.local.",
        parsed_addresses=list(hosts),
    )


def _announcement(info: AsyncServiceInfo) -> Announcement | None:
    """Return the announcement in a service record, None if it is not one that a node would make."""
    said = {key: value or "" for key, value in info.decoded_properties.items()}
    ips = [ip for ip in info.parsed_scoped_addresses(IPVersion.All) if "%" in ip or not is_scoped(ip)]
    announcement = Announcement(
        node_id=said.get("id", ""),
        name=said.get("name", ""),
        cluster_id=said.get("cluster", ""),
        version=said.get("version", ""),
        addresses=tuple(join(ip, info.port or 0) for ip in ips[:MAX_ADDRESSES]),
        enrols=said.get("enrol") == "1",
    )
    is_valid = (
        is_node_id(announcement.node_id)
        and is_name(announcement.name)
        and _CLUSTER_ID.fullmatch(announcement.cluster_id) is not None
        and is_version(announcement.version)
        and are_addresses(announcement.addresses)
    )
    return announcement if is_valid else None
