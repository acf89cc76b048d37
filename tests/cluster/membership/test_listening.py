"""Listening: a host as it is typed, and the three values that follow; ports that are taken."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cluster.errors import ClusterError
from cluster.membership import address, listening
from cluster.membership.address import is_address, is_loopback, is_own, join, of_caller, own_ips, split
from cluster.membership.listening import ALL, ALL_IPV4, Listening
from mlx_moe.errors import InvalidRequestError
from tests.patience import PATIENCE_S

EVERYWHERE = (ALL,) if socket.has_dualstack_ipv6() else (ALL_IPV4,)

needs_ipv6 = pytest.mark.skipif(not is_own("::1"), reason="this machine has no IPv6")


@pytest.fixture(autouse=True)
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have an address of each kind."""
    monkeypatch.setattr(listening, "own_ips", lambda: ("10.0.0.7", "fd00::7"))
    monkeypatch.setattr(listening, "is_own", lambda ip: ip in {"127.0.0.1", "::1", "10.0.0.7", "fd00::7"} or "%" in ip)
    monkeypatch.setattr(listening, "scoped_ips", lambda: ("10.0.0.7", "fd00::7", "fe80::7%lo"))


@pytest.mark.parametrize(
    ("host", "bound", "own", "announced"),
    [
        ("", EVERYWHERE, "127.0.0.1", ("10.0.0.7", "fd00::7")),
        ("::", EVERYWHERE, "127.0.0.1", ("10.0.0.7", "fd00::7")),
        ("0.0.0.0", (ALL_IPV4,), "127.0.0.1", ("10.0.0.7",)),
        ("127.0.0.1", ("127.0.0.1",), "127.0.0.1", ("127.0.0.1",)),
        ("10.0.0.7", ("10.0.0.7", "127.0.0.1"), "127.0.0.1", ("10.0.0.7",)),
        ("::ffff:10.0.0.7", ("10.0.0.7", "127.0.0.1"), "127.0.0.1", ("10.0.0.7",)),
        pytest.param("::1", ("::1",), "::1", ("::1",), marks=needs_ipv6),
        pytest.param("[fd00::7]", ("fd00::7", "127.0.0.1"), "127.0.0.1", ("fd00::7",), marks=needs_ipv6),
        pytest.param("fe80::7", ("fe80::7%lo", "127.0.0.1"), "127.0.0.1", ("fe80::7",), marks=needs_ipv6),
    ],
)
def test_a_host_is_bound_connected_to_and_announced_each_in_its_way(
    host: str, bound: tuple[str, ...], own: str, announced: tuple[str, ...]
) -> None:
    found = Listening.at(host).with_loopback(0)
    assert found.hosts == bound
    assert found.own_host == own
    assert found.announced() == announced


def test_a_name_is_all_its_addresses_of_this_machine_and_loopback_is_not_announced_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "resolve", lambda _: ["127.0.0.1", "10.0.0.7", "10.0.0.99"])
    found = Listening.at("mac-1.local")
    assert found.hosts == ("127.0.0.1", "10.0.0.7")
    assert found.announced() == ("10.0.0.7",)
    assert not found.is_private


def test_localhost_is_for_this_machine_alone() -> None:
    found = Listening.at("localhost")
    assert found.is_private
    assert found.own_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("10.9.9.9", r"--host 10.9.9.9 is not an address of this machine, which has 10.0.0.7, fd00::7; --host :: "),
        ("mac.elsewhere", r"--host mac.elsewhere \(10.9.9.9\) is not an address of this machine"),
        ("nosuch.invalid", "is neither an address nor a known host name .* 10.0.0.7, fd00::7; --host :: listens"),
        ("10.0.0.7:7420", r"without a port \(that is --port\)"),
        ("a" * 300, "is neither an address nor a known host name"),
        ("[", "is neither an address nor a known host name"),
        ("a b", "is neither an address nor a known host name"),
    ],
)
def test_what_is_no_host_of_this_machine_is_refused_with_those_it_has(
    host: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str) -> list[str]:
        if host in ("10.9.9.9", "mac.elsewhere"):
            return ["10.9.9.9"]
        if len(host) > 63:
            raise UnicodeError("label too long")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(listening, "resolve", resolve)
    with pytest.raises(InvalidRequestError, match=said):
        Listening.at(host)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_a_port_that_is_taken_names_who_has_it(taken: int) -> None:
    said = rf"cannot listen on 127.0.0.1:{taken}: .* \(process {os.getpid()}\) holds port {taken}; .* --port"
    with pytest.raises(ClusterError, match=said):
        Listening(("127.0.0.1",)).require_free(taken)


def test_loopback_is_left_to_who_has_the_port_already(taken: int) -> None:
    beside = Listening(("10.0.0.7",)).with_loopback(taken)
    assert beside.hosts == ("10.0.0.7",)
    assert beside.own_host == "10.0.0.7"


def test_what_starts_after_an_address_is_gone_listens_at_the_others() -> None:
    assert Listening(("10.9.9.9", "127.0.0.1")).now().hosts == ("127.0.0.1",)
    assert Listening(("10.9.9.9",)).now().hosts == ("10.9.9.9",)


def test_an_address_that_is_gone_is_named() -> None:
    with pytest.raises(ClusterError, match=r"cannot listen on 192\.0\.2\.200:0: .*; choose an address with --host"):
        Listening(("192.0.2.200",)).free_port()


def test_all_hosts_get_one_port() -> None:
    hosts = ("127.0.0.1", "::1") if is_own("::1") else ("127.0.0.1",)
    with ExitStack() as stack:

        def add_port(at: str) -> int:
            host, port = split(at)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = stack.enter_context(socket.create_server((host, port), family=family))
            return int(server.getsockname()[1])

        port = Listening(hosts).bind(add_port)
        for host in hosts:
            socket.create_connection((host, port), timeout=PATIENCE_S).close()


@pytest.mark.parametrize("ip", ["224.0.0.251", "255.255.255.255", "ff02::fb"])
def test_an_address_of_many_machines_is_not_this_ones(ip: str) -> None:
    assert not is_own(ip)


def test_own_addresses_can_be_listened_at() -> None:
    assert own_ips()
    for ip in own_ips():
        assert is_own(ip) or address.is_scoped(ip)


@pytest.mark.parametrize(
    ("peer", "at"),
    [
        ("ipv4:10.0.0.7:50000", "10.0.0.7:7420"),
        ("ipv6:%5Bfd00::7%5D:50000", "[fd00::7]:7420"),
        ("ipv6:%5Bfe80::7%25en0%5D:50000", "[fe80::7%en0]:7420"),
        ("ipv6:%5Bfe80::7%2525en0%5D:50000", "[fe80::7%en0]:7420"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_a_caller_may_be_at_the_address_it_called_from(peer: str, at: str) -> None:
    assert of_caller(peer, 7420) == at
    assert at == "" or is_address(at)


def test_loopback_is_known_by_address_and_name() -> None:
    assert all(is_loopback(join(host, 1)) for host in ("127.0.0.1", "127.0.1.1", "::1", "localhost"))
    assert not any(is_loopback(join(host, 1)) for host in ("10.0.0.7", "fe80::1%en0", "mac.local", "0.0.0.0"))
