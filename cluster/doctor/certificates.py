"""Certificates: how long this node's membership is valid, and where the cluster's authority is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from cluster.doctor.finding import Finding, Remark, State, finding
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.node.tokens import holds_authority, is_member
from cluster.trust import NodeIdentity

SOON = timedelta(days=14)

REJOIN = "moe-cluster leave --yes; moe-cluster up --join -"


@dataclass(frozen=True, slots=True)
class Membership:
    """What a home has: the ends of the node's and the authority's certificates, and whether the authority is here."""

    is_member: bool
    node_ends: datetime | None = None
    authority_ends: datetime | None = None
    has_authority: bool = False
    error: str = ""


def membership_finding(membership: Membership, now: datetime) -> Finding:
    """Judge the certificates of a home."""
    return finding("certificates", _remarks(membership, now))


def _remarks(membership: Membership, now: datetime) -> Iterator[Remark]:
    if membership.error:
        yield Remark(membership.error, State.PROBLEM, REJOIN)
        return
    if not membership.is_member:
        yield Remark("this machine is in no cluster yet")
        return
    for whose, ends in (
        ("this node's certificate", membership.node_ends),
        ("the authority's", membership.authority_ends),
    ):
        assert ends is not None  # a member has both
        days = (ends - now) / timedelta(days=1)
        if days < 0:
            yield Remark(f"{whose} ended {-days:.0f} days ago", State.PROBLEM, REJOIN)
        else:
            soon = ends - now < SOON
            yield Remark(f"{whose} is valid for {days:,.0f} days", State.WARNING if soon else State.OK)
    yield Remark(
        "the authority's key is on this node" if membership.has_authority else "the authority is on another node"
    )


def read_membership(home: Home) -> Membership:
    """Read the certificates of a home."""
    if not is_member(home):
        return Membership(False)
    try:
        identity = NodeIdentity.load(home.identity)
    except ClusterError as error:
        return Membership(True, error=str(error))
    ends = [
        x509.load_pem_x509_certificate(pem).not_valid_after_utc.astimezone(UTC)
        for pem in (identity.certificate, identity.ca_certificate)
    ]
    return Membership(True, ends[0], ends[1], holds_authority(home))
