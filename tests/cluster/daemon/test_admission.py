"""Admission: which cluster a node belongs to, decided before it says anything to anybody."""

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.daemon import admission as module
from cluster.daemon.admission import Admission, admit, is_member, keeper
from cluster.errors import ClusterError, TrustError
from cluster.home import Home
from cluster.membership.discovery import Announcement
from cluster.trust import Authority, JoinToken, NodeIdentity, NodeKey, TokenStore, enrolment


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Announcement]:
    """Stand in for what is announced on the network."""
    announcements: list[Announcement] = []

    async def look(_seconds: float, _enough: Callable[[Announcement], bool]) -> tuple[Announcement, ...]:
        return tuple(announcements)

    monkeypatch.setattr(module, "look", look)
    return announcements


def admitted(home: Path, token: str | None = None, peers: tuple[str, ...] = (), *, new: bool = False) -> Admission:
    admission = asyncio.run(admit(Home(home), token, peers, insecure=False, new=new))
    admission.keep()
    return admission


def announcement(cluster_id: str, address: str = "10.0.0.1:7420", *, enrols: bool = True) -> Announcement:
    return Announcement("1" * 16, "mac-1", cluster_id, "0.1.0", (address,), enrols)


def token_of(home: Path) -> JoinToken:
    home_ = Home(home)
    return TokenStore(home_.tokens, Authority.load(home_.authority).key_hash).create()


def test_the_first_node_begins_a_cluster_and_is_in_it_ever_after(tmp_path: Path) -> None:
    first = admitted(tmp_path / "a")
    assert first.is_new
    assert first.authority is not None
    again = admitted(tmp_path / "a")
    assert (again.node_id, again.cluster_id, again.is_new) == (first.node_id, first.cluster_id, False)
    assert again.authority is not None


def test_a_cluster_begins_when_its_first_node_is_up_and_not_before(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    failed = asyncio.run(admit(home, None, (), insecure=False, new=True))
    assert failed.is_new
    assert not is_member(home)
    assert not home.authority.exists()
    admitted(home.path)
    assert is_member(home)


def test_a_first_node_that_lost_its_certificate_is_in_its_cluster_again(
    tmp_path: Path, heard: list[Announcement]
) -> None:
    first = admitted(tmp_path / "a")
    shutil.rmtree(Home(tmp_path / "a").identity)
    heard.append(announcement(first.cluster_id))
    assert admitted(tmp_path / "a").cluster_id == first.cluster_id


def test_where_a_cluster_is_a_node_without_a_token_begins_none_unless_told_to(
    tmp_path: Path, heard: list[Announcement]
) -> None:
    heard.append(announcement("c" * 16))
    with pytest.raises(ClusterError, match=r"mac-1 \(10.0.0.1:7420\) already runs a cluster in this network"):
        admitted(tmp_path / "a")
    assert not Home(tmp_path / "a").authority.exists()
    assert admitted(tmp_path / "a", new=True).is_new


@pytest.mark.parametrize("named", [True, False], ids=["by peer", "as announced"])
def test_a_token_lets_a_node_in_where_its_cluster_enrols(
    tmp_path: Path, heard: list[Announcement], named: bool
) -> None:
    first = admitted(tmp_path / "a")
    token = token_of(tmp_path / "a")

    async def join() -> Admission:
        home = Home(tmp_path / "a")
        assert first.authority is not None
        assert first.removed is not None
        tokens = TokenStore(home.tokens, first.authority.key_hash)
        async with enrolment.serve(first.authority, tokens, first.removed, ["127.0.0.1:0"]) as port:
            address = f"127.0.0.1:{port - 1}"
            heard.append(announcement("d" * 16, "127.0.0.1:1"))
            heard.append(announcement(first.cluster_id, address))
            peers = (address,) if named else ()
            return await admit(Home(tmp_path / "b"), token.text, peers, insecure=False, new=False)

    second = asyncio.run(join())
    assert second.cluster_id == first.cluster_id
    assert (second.authority, second.is_new) == (None, False)
    assert admitted(tmp_path / "b").node_id == second.node_id


def test_a_token_whose_cluster_nobody_announces_says_whom_was_heard(tmp_path: Path, heard: list[Announcement]) -> None:
    first = admitted(tmp_path / "a")
    heard += [announcement("d" * 16), announcement(first.cluster_id, enrols=False)]
    with pytest.raises(
        ClusterError, match=rf"cluster {first.cluster_id} was found .*only nodes of dddddddddddddddd.*--peer"
    ):
        admitted(tmp_path / "b", token_of(tmp_path / "a").text)


def test_the_first_node_is_named_where_it_is_heard_of(tmp_path: Path, heard: list[Announcement]) -> None:
    first = admitted(tmp_path / "a")
    identity = NodeIdentity.load(Home(tmp_path / "a").identity)
    heard.append(announcement(first.cluster_id, "10.0.0.2:7420", enrols=False))
    assert asyncio.run(keeper(identity)) == ""
    heard.append(announcement(first.cluster_id))
    assert asyncio.run(keeper(identity)) == "mac-1 (10.0.0.1:7420)"


def test_a_member_is_not_taken_into_another_cluster(tmp_path: Path) -> None:
    admitted(tmp_path / "a")
    admitted(tmp_path / "b")
    with pytest.raises(TrustError, match=r"belongs to cluster .* moe-cluster leave first"):
        admitted(tmp_path / "b", token_of(tmp_path / "a").text)
    assert admitted(tmp_path / "a", token_of(tmp_path / "a").text).authority is not None


def certified(home: Path, age: timedelta) -> Admission:
    """Give the first node a certificate that was issued some time ago; return its admission before."""
    first = admitted(home)
    past = Authority.load(Home(home).authority, lambda: datetime.now(UTC) - age)
    key = NodeKey.load(Home(home).identity)
    key.adopt(past.certify(key.private_key.public_key()), past.certificate)
    return first


def test_a_keeper_whose_certificate_has_ended_renews_it_at_the_start(tmp_path: Path) -> None:
    first = certified(tmp_path / "a", timedelta(days=500))
    assert admitted(tmp_path / "a").node_id == first.node_id
    assert NodeIdentity.load(Home(tmp_path / "a").identity).ends_at > datetime.now(UTC)


def test_without_a_keeper_an_ended_certificate_is_an_error_with_both_cures(tmp_path: Path) -> None:
    certified(tmp_path / "a", timedelta(days=400))
    shutil.rmtree(Home(tmp_path / "a").authority)
    with pytest.raises(TrustError, match=r"certificate ended on 20.* is not renewed: .* Check the date.*up --join -"):
        admitted(tmp_path / "a")


def test_a_clock_that_is_before_the_certificate_is_named(tmp_path: Path) -> None:
    certified(tmp_path / "a", timedelta(days=-30))
    with pytest.raises(TrustError, match=r"this machine's clock says 20.* valid from 20.*: set the clock"):
        admitted(tmp_path / "a")


def test_a_node_that_was_removed_is_told_so_before_it_says_anything(tmp_path: Path) -> None:
    first = admitted(tmp_path / "a")
    assert first.authority is not None
    assert first.removed is not None
    first.removed.add([first.authority.remove(first.node_id, "mac-1")])
    with pytest.raises(TrustError, match=r"node mac-1 was removed from the cluster on 20.*moe-cluster leave"):
        admitted(tmp_path / "a")
