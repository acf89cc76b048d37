"""Multicast: whether questions by multicast DNS leave this machine, come back to it, and are answered."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cluster.doctor.finding import Finding, Remark, State, finding
from cluster.membership.address import is_loopback, join
from cluster.membership.discovery import SERVICE

GROUP, PORT = "224.0.0.251", 5353

LISTEN_S = 1.3
"""How long to listen: answers to many are delayed by up to 120 ms, and by a second if they were sent just before."""

ASK_AGAIN_S = 0.4

_PTR, _IN = 12, 1
_IS_RESPONSE = 0x80
HEADER_BYTES = 12

PRIVACY_MACOS = (15, 0)
"""The first macOS that asks before a program may use the local network."""

PEER = "name a node of the other machines: moe-cluster up --peer HOST:PORT"


@dataclass(slots=True)
class Heard:
    """What was heard at one address: an error in sending (errno, 0: none), the question itself, and who answered."""

    ip: str
    error: int = 0
    echo: bool = False
    answered: set[str] = field(default_factory=set)


def multicast_finding(heard: Sequence[Heard], own_ips: Sequence[str], *, announces: bool) -> Finding:
    """Judge whether nodes find each other. `announces`: a node runs here and announces itself."""
    return finding("multicast", _remarks(heard, own_ips, announces))


def _remarks(heard: Sequence[Heard], own_ips: Sequence[str], announces: bool) -> Iterator[Remark]:
    if not heard:
        yield Remark("this machine has no IPv4 network for it", State.WARNING, PEER)
        return
    for each in heard:
        if each.error:
            yield Remark(f"{each.ip} cannot send: {os.strerror(each.error)}", State.WARNING, PEER)
        elif not each.echo:
            yield Remark(f"{each.ip} does not hear its own question: something drops it", State.WARNING, PEER)
        else:
            yield Remark(f"{each.ip} hears its own question")
    answered = set().union(*(each.answered for each in heard))
    own = {ip for ip in answered if ip in own_ips or is_loopback(join(ip, 0))}
    if announces and not own:
        yield Remark("this machine's node does not answer it", State.WARNING, "moe-cluster down; moe-cluster up")
    others = len(answered - own)
    yield Remark(f"{others} other machine{'s' * (others != 1)} with nodes answered")


def privacy_finding(version: str, heard: Sequence[Heard], program: str) -> Finding:
    """Judge whether macOS lets this program use the local network. No Mac has run this yet."""
    return finding("local network", _privacy(version, heard, program))


def _privacy(version: str, heard: Sequence[Heard], program: str) -> Iterator[Remark]:
    numbers = tuple(map(int, version.strip().split(".")[:2]))
    if numbers < PRIVACY_MACOS:
        yield Remark(f"macOS {version.strip()} asks for no permission")
    elif any(each.error == errno.EHOSTUNREACH for each in heard):
        yield Remark(
            f"macOS does not let {program or 'this program'} use the local network (No route to host)",
            State.PROBLEM,
            "open 'x-apple.systempreferences:com.apple.preference.security?Privacy_LocalNetwork'",
        )
    else:
        yield Remark(
            f"macOS {version.strip()} lets this program use it: Terminal, SSH and services may; of others that start a "
            "node it asks on the screen"
        )


def question(unique: str) -> bytes:
    """Return an mDNS message that asks for all nodes, and for a name that nobody has, to recognize the message by."""
    questions = b"".join(_name(name) + struct.pack("!HH", _PTR, _IN) for name in (SERVICE, f"{unique}.{SERVICE}"))
    return struct.pack("!6H", 0, 0, 2, 0, 0, 0) + questions


def _name(name: str) -> bytes:
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def note(heard: Heard, data: bytes, sender: str, unique: str) -> None:
    """Record a message that came from `sender`."""
    if len(data) < HEADER_BYTES or SERVICE.partition(".")[0].encode() not in data:
        return
    if data[2] & _IS_RESPONSE:
        heard.answered.add(sender)
    elif unique.encode() in data:
        heard.echo = True


async def listen(ips: Sequence[str], enough: int) -> list[Heard]:
    """Ask at each IPv4 address, and listen for LISTEN_S, or until all hear themselves and `enough` have answered."""
    everything = [Heard(ip) for ip in ips if ":" not in ip]
    await asyncio.gather(*(_listen(heard, everything, enough) for heard in everything))
    return everything


async def _listen(heard: Heard, everything: Sequence[Heard], enough: int) -> None:
    loop, unique = asyncio.get_running_loop(), f"doctor-{secrets.token_hex(4)}"
    try:
        with _socket(heard.ip) as speaker, suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                sent_at = 0.0
                while not _is_enough(everything, enough):
                    if loop.time() - sent_at > ASK_AGAIN_S:
                        speaker.sendto(question(unique), (GROUP, PORT))
                        sent_at = loop.time()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN_S / 4):
                            data, (sender, _) = await loop.sock_recvfrom(speaker, 9000)
                            note(heard, data, sender, unique)
    except OSError as error:
        heard.error = error.errno or errno.EIO


def _is_enough(everything: Sequence[Heard], enough: int) -> bool:
    answered = set().union(*(heard.answered for heard in everything))
    return all(heard.echo or heard.error for heard in everything) and len(answered) >= enough


def _socket(ip: str) -> socket.socket:
    """Return a socket that speaks and hears multicast DNS on the network of an address. Raises OSError."""
    speaker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        speaker.setblocking(False)
        speaker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            with suppress(OSError):
                speaker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        speaker.bind(("", PORT))
        own = socket.inet_aton(ip)
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    except OSError:
        speaker.close()
        raise
    return speaker
