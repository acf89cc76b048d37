"""Links: the network interfaces of this machine, and the measured links to other nodes."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from cluster.client import ClusterStatus
from cluster.doctor.check import Command, UnreadError, read
from cluster.doctor.finding import Finding, Remark, State, finding, not_checked

PORTS: Command = ("networksetup", "-listallhardwareports")
IFCONFIG: Command = ("ifconfig",)
SYS = Path("/sys/class/net")

SLOW_BYTES_PER_S = 50e6
SLOW_LATENCY_S = 5e-3
FASTER = "connect the two by cable, and end what else uses machines and network"


class Kind(StrEnum):
    """What an interface is."""

    WIRED = "wired"
    WIFI = "Wi-Fi"
    THUNDERBOLT = "Thunderbolt"
    VPN = "VPN"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with IP addresses. `speed_mbps` is 0 if unknown; `members` are the active ports of a bridge."""

    name: str
    kind: Kind
    ips: tuple[str, ...]
    mtu: int
    speed_mbps: int = 0
    members: int = 0


def interfaces_finding(interfaces: Sequence[Interface]) -> Finding:
    """Judge over which interfaces this machine can be reached."""
    return finding("interfaces", _remarks(interfaces))


def _remarks(interfaces: Sequence[Interface]) -> Iterator[Remark]:
    for each in interfaces:
        yield Remark(_described(each))
        if each.kind is Kind.THUNDERBOLT and each.members > 1:
            yield Remark(
                f"{each.name} bridges {each.members} Thunderbolt ports: Macs that are cabled in a ring flood it",
                State.WARNING,
                "leave one cable of a ring out, or give each port its own network in System Settings > Network",
            )
    kinds = {each.kind for each in interfaces}
    if not kinds - {Kind.VPN}:
        yield Remark("no other machine can reach this one", State.PROBLEM, "connect it to a network")
    elif Kind.WIFI in kinds and not kinds & {Kind.WIRED, Kind.THUNDERBOLT}:
        yield Remark("only Wi-Fi, which costs milliseconds a token", State.WARNING, "connect the Macs by cable")


def _described(each: Interface) -> str:
    speed = f" {each.speed_mbps / 1000:g} Gbit/s" if each.speed_mbps else ""
    own = " self-assigned" if any(ipaddress.ip_address(ip).is_link_local and "." in ip for ip in each.ips) else ""
    return f"{each.name} {each.kind}{speed} MTU {each.mtu}{own}: {', '.join(each.ips)}"


def nodes_finding(status: ClusterStatus) -> Finding:
    """Judge the links to the other nodes, as they were measured."""
    return finding("links to nodes", _measured(status))


def _measured(status: ClusterStatus) -> Iterator[Remark]:
    others = status.nodes[1:]
    if not others:
        yield Remark("there is no other node")
    for node in others:
        if not node.is_here:
            yield Remark(
                f"{node.shown_name} is {node.state}", State.WARNING, f"on {node.shown_name}: moe-cluster doctor"
            )
        elif node.link is None:
            yield Remark(f"{node.shown_name} is not measured yet")
        else:
            link = node.link
            text = f"{node.shown_name} {link.latency_s * 1e3:.2f} ms {link.bytes_per_s / 1e9:.2f} GB/s"
            if link.latency_s > SLOW_LATENCY_S:
                yield Remark(f"{text}: over {SLOW_LATENCY_S * 1e3:g} ms is slow", State.WARNING, FASTER)
            elif link.bytes_per_s < SLOW_BYTES_PER_S:
                yield Remark(f"{text}: under {SLOW_BYTES_PER_S / 1e9:g} GB/s is slow", State.WARNING, FASTER)
            else:
                yield Remark(text)


def kinds_of_ports(ports: str) -> dict[str, Kind]:
    """Return the kind of each device in the output of networksetup."""
    found = re.findall(r"^Hardware Port: (.+)\nDevice: (\S+)$", ports, re.MULTILINE)
    return {device: _kind_of_port(port) for port, device in found}


def _kind_of_port(port: str) -> Kind:
    if "Wi-Fi" in port or "AirPort" in port:
        return Kind.WIFI
    if "Thunderbolt" in port and "Ethernet" not in port:
        return Kind.THUNDERBOLT
    return Kind.WIRED if re.search(r"Ethernet|LAN|Gig", port) else Kind.OTHER


def active_members(ifconfig: str) -> dict[str, int]:
    """Return how many ports of each bridge are active, by the output of ifconfig."""
    blocks = {block.partition(":")[0]: block for block in re.split(r"^(?=\S)", ifconfig, flags=re.MULTILINE) if block}
    active = {name for name, block in blocks.items() if "status: active" in block}
    members = {name: re.findall(r"member: (\S+)", block) for name, block in blocks.items()}
    return {name: len(active.intersection(ports)) for name, ports in members.items() if ports}


async def own_interfaces() -> list[Interface] | Finding:
    """Read the interfaces of this machine that are up and have addresses other than loopback's."""
    kinds: Mapping[str, Kind] = {}
    members: Mapping[str, int] = {}
    if sys.platform == "darwin":
        ports, ifconfig = await read(PORTS), await read(IFCONFIG)
        if isinstance(ports, UnreadError):
            return not_checked("interfaces", str(ports))
        kinds = kinds_of_ports(ports)
        members = {} if isinstance(ifconfig, UnreadError) else active_members(ifconfig)
    stats = psutil.net_if_stats()
    return [
        Interface(
            name, _kind(name, kinds, stats[name].flags), ips, stats[name].mtu, stats[name].speed, members.get(name, 0)
        )
        for name, ips in _addresses().items()
        if name in stats and stats[name].isup
    ]


def _addresses() -> dict[str, tuple[str, ...]]:
    found = {
        name: tuple(
            a.address for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6) and _leads_out(a.address)
        )
        for name, addresses in psutil.net_if_addrs().items()
    }
    return {name: ips for name, ips in found.items() if ips}


def _leads_out(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return not address.is_loopback and not (address.version == 6 and address.is_link_local)


def _kind(name: str, kinds: Mapping[str, Kind], flags: str) -> Kind:
    if name in kinds:
        return kinds[name]
    if "pointopoint" in flags or name.startswith(("utun", "tun", "wg", "tailscale", "ppp")):
        return Kind.VPN
    if (SYS / name / "wireless").exists():
        return Kind.WIFI
    if name.startswith("thunderbolt"):
        return Kind.THUNDERBOLT
    return Kind.WIRED if (SYS / name / "device").exists() else Kind.OTHER
