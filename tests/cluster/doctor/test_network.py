"""Links, multicast and the local network: on recorded outputs, and on this machine's own network."""

from __future__ import annotations

import asyncio
import errno

import pytest

from cluster.doctor import links, multicast
from cluster.doctor.finding import Finding, State
from cluster.doctor.links import Interface, Kind
from cluster.doctor.multicast import Heard
from cluster.membership.address import own_ips
from cluster.membership.discovery import SERVICE

PORTS = """
Hardware Port: Ethernet
Device: en0
Ethernet Address: a4:83:e7:01:02:03

Hardware Port: Wi-Fi
Device: en1
Ethernet Address: a4:83:e7:01:02:04

Hardware Port: Thunderbolt 1
Device: en2
Ethernet Address: 36:f1:1a:01:02:05

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 36:f1:1a:01:02:06

Hardware Port: USB 10/100/1000 LAN
Device: en7
Ethernet Address: 00:e0:4c:01:02:07

VLAN Configurations
===================
"""
IFCONFIG = """lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\tinet 127.0.0.1 netmask 0xff000000
en2: flags=8963<UP,BROADCAST,SMART,RUNNING,PROMISC,SIMPLEX,MULTICAST> mtu 1500
\tmedia: autoselect <full-duplex>
\tstatus: active
en3: flags=8963<UP,BROADCAST,SMART,RUNNING,PROMISC,SIMPLEX,MULTICAST> mtu 1500
\tmedia: autoselect <full-duplex>
\tstatus: active
en4: flags=8963<UP,BROADCAST,SMART,RUNNING,PROMISC,SIMPLEX,MULTICAST> mtu 1500
\tstatus: inactive
bridge0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tmember: en2 flags=3<LEARNING,DISCOVER>
\t        ifmaxaddr 0 port 10 priority 0 path cost 0
\tmember: en3 flags=3<LEARNING,DISCOVER>
\tmember: en4 flags=3<LEARNING,DISCOVER>
\tstatus: active
"""

WIFI = Interface("en1", Kind.WIFI, ("10.0.0.7",), 1500)
ETHERNET = Interface("en0", Kind.WIRED, ("10.0.0.8", "fd00::8"), 1500, 10_000)
BRIDGE = Interface("bridge0", Kind.THUNDERBOLT, ("169.254.10.2",), 1500, members=1)
VPN = Interface("utun3", Kind.VPN, ("100.64.0.2",), 1280)


def test_a_mac_tells_what_its_ports_are() -> None:
    assert links.kinds_of_ports(PORTS) == {
        "en0": Kind.WIRED,
        "en1": Kind.WIFI,
        "en2": Kind.THUNDERBOLT,
        "bridge0": Kind.THUNDERBOLT,
        "en7": Kind.WIRED,
    }
    assert links.active_members(IFCONFIG) == {"bridge0": 2}
    assert links.active_members("") == {}


@pytest.mark.parametrize(
    ("interfaces", "state", "said"),
    [
        ([ETHERNET], State.OK, "en0 wired 10 Gbit/s MTU 1500: 10.0.0.8, fd00::8"),
        ([BRIDGE], State.OK, "bridge0 Thunderbolt MTU 1500 self-assigned: 169.254.10.2"),
        ([WIFI], State.WARNING, "only Wi-Fi"),
        ([WIFI, ETHERNET, VPN], State.OK, "utun3 VPN"),
        ([VPN], State.PROBLEM, "no other machine can reach this one"),
        ([], State.PROBLEM, "no other machine can reach this one"),
        ([Interface("bridge0", Kind.THUNDERBOLT, ("169.254.10.2",), 1500, members=2)], State.WARNING, "in a ring"),
    ],
)
def test_interfaces_are_judged(interfaces: list[Interface], state: State, said: str) -> None:
    found = links.interfaces_finding(interfaces)
    assert found.state is state
    assert said in "\n".join(found.found)


def test_the_interfaces_of_this_machine_are_read() -> None:
    found = asyncio.run(links.own_interfaces())
    assert not isinstance(found, Finding), found
    outward = {ip for each in found for ip in each.ips}
    assert {ip for ip in own_ips() if not ip.startswith(("127.", "::1", "fe80"))} <= outward


def test_a_question_is_a_sound_message_and_is_recognized() -> None:
    message = multicast.question("doctor-1")
    assert message.count(b"_moe-cluster") == 2
    heard = Heard("10.0.0.7")
    multicast.note(heard, message, "10.0.0.7", "doctor-2")
    assert not heard.echo  # of another doctor
    multicast.note(heard, message, "10.0.0.7", "doctor-1")
    assert heard.echo
    answer = b"\0\0\x84\0" + message[4:]
    for data, sender in (
        (answer, "10.0.0.8"),
        (answer.replace(b"_moe-cluster", b"_airplay-abc"), "10.0.0.9"),
        (b"", "x"),
    ):
        multicast.note(heard, data, sender, "doctor-1")
    assert heard.answered == {"10.0.0.8"}
    assert SERVICE.startswith("_moe-cluster.")


@pytest.mark.parametrize(
    ("heard", "announces", "state", "said"),
    [
        ([Heard("10.0.0.7", 0, True, {"10.0.0.8"})], False, State.OK, "1 other machine with nodes answered"),
        ([Heard("10.0.0.7", 0, True, {"10.0.0.7"})], True, State.OK, "0 other machines with nodes answered"),
        ([Heard("10.0.0.7", 0, True, {"127.0.0.1"})], False, State.OK, "0 other machines with nodes answered"),
        ([Heard("10.0.0.7", 0, True)], True, State.WARNING, "this machine's node does not answer it"),
        ([Heard("10.0.0.7")], False, State.WARNING, "10.0.0.7 does not hear its own question"),
        ([Heard("10.0.0.7", errno.ENETUNREACH)], False, State.WARNING, "10.0.0.7 cannot send: Network is unreachable"),
        ([], False, State.WARNING, "no IPv4 network"),
    ],
)
def test_multicast_is_judged(heard: list[Heard], announces: bool, state: State, said: str) -> None:
    found = multicast.multicast_finding(heard, ["10.0.0.7"], announces=announces)
    assert found.state is state
    assert said in "\n".join(found.found)
    assert (state is State.OK) or found.cures


@pytest.mark.parametrize(
    ("version", "error", "state"),
    [
        ("14.7.1\n", errno.EHOSTUNREACH, State.OK),
        ("15.0\n", 0, State.OK),
        ("26.1\n", errno.EHOSTUNREACH, State.PROBLEM),
        ("26.1\n", errno.ENETUNREACH, State.OK),
    ],
)
def test_a_mac_that_keeps_a_program_from_the_local_network_is_told(version: str, error: int, state: State) -> None:
    found = multicast.privacy_finding(version, [Heard("10.0.0.7", error)], "iTerm.app")
    assert found.state is state
    assert ("iTerm.app" in found.found[0]) == (state is State.PROBLEM)


def test_this_machine_hears_its_own_question_or_says_why_not() -> None:
    for heard in asyncio.run(multicast.listen(own_ips(), enough=0)):
        assert heard.echo or heard.error
