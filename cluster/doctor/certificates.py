"""Certificates: how long this node's certificate is valid, and which nodes keep the cluster's authority."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.client import ClusterStatus
from cluster.doctor.finding import Finding, Remark, State, finding
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.node.tokens import holds_authority, is_member
from cluster.trust import NodeIdentity
from cluster.trust.authority import CLOCK_SLACK, RENEWABLE

LATE = timedelta(days=7)
"""A certificate that is due for renewal for so long was not renewed."""

REJOIN = "moe-cluster leave --yes; moe-cluster up --join -"
RENEW = "moe-cluster up  # on a node that keeps the authority, then here"


@dataclass(frozen=True, slots=True)
class Membership:
    """What a home has: when the node's certificate is due and ends, and whether the authority's key is here."""

    is_member: bool
    due: datetime | None = None
    ends: datetime | None = None
    keeps_authority: bool = False
    error: str = ""


def membership_finding(membership: Membership, status: ClusterStatus | None, now: datetime) -> Finding:
    """Judge a node's certificate, and which nodes keep the cluster's authority."""
    return finding("certificates", _remarks(membership, status, now))


def _remarks(membership: Membership, status: ClusterStatus | None, now: datetime) -> Iterator[Remark]:
    if membership.error:
        yield Remark(membership.error, State.PROBLEM, REJOIN)
        return
    if membership.due is None or membership.ends is None:
        yield Remark("this machine is in no cluster yet")
        return
    yield _of_certificate(membership.due, membership.ends, now)
    if status is None:
        here = "this node" if membership.keeps_authority else "other nodes alone"
        yield Remark(f"the cluster's authority is kept by {here}")
        return
    keepers = [node.shown_name for node in status.nodes if node.is_here and node.keeps_authority]
    if keepers:
        yield Remark(f"the cluster's authority is kept by {', '.join(keepers)}")
    else:
        yield Remark(
            "no node that keeps the cluster's authority is here: none can join, no certificate is renewed",
            State.WARNING,
            RENEW,
        )


def _of_certificate(due: datetime, ends: datetime, now: datetime) -> Remark:
    days = abs(ends - now) / timedelta(days=1)
    if now < due + LATE:
        return Remark(f"this node's certificate is valid for {days:,.0f} days, and renewed before")
    if now < ends:
        return Remark(f"this node's certificate ends in {days:.0f} days, and is not renewed", State.WARNING, RENEW)
    cure = RENEW if now < ends + RENEWABLE else REJOIN
    return Remark(f"this node's certificate ended {days:.0f} days ago", State.PROBLEM, cure)


def read_membership(home: Home) -> Membership:
    """Read the certificate of a home."""
    if not is_member(home):
        return Membership(False)
    try:
        identity = NodeIdentity.load(home.identity)
    except ClusterError as error:
        return Membership(True, error=str(error))
    return Membership(True, identity.renewal_at(CLOCK_SLACK), identity.ends_at, holds_authority(home))
