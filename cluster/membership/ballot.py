"""Ballot: what one node has granted, so that an epoch belongs to one owner. Pure: nothing is sent or stored here.

The owner of an epoch is the node whose daemon deploys the cluster's model under it. It is elected by the nodes that the
last owner wrote down, its electorate: more than half of them, or exactly half with that owner. Two such halves share a
node, and a node grants an epoch once. So two parts of a divided cluster never elect two owners.

A node that was not told of a decision does not know the electorate that decides next. So a vote carries all terms that
may have been decided as far as its node knows, and each of their electorates must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

MAX_STEP = 1024
"""By how many epochs a node may have missed what the others decided; it grants none that is further ahead."""


@dataclass(frozen=True, slots=True)
class Term:
    """An epoch with its owner, and the electorate that decides on the next one. Without an electorate anybody does."""

    epoch: int = 0
    owner: str = ""
    electorate: frozenset[str] = frozenset()

    def has_quorum(self, nodes: Set[str], left: Set[str] = frozenset()) -> bool:
        """Whether `nodes` may decide: more than half of those that have not `left`, or half of them with the owner."""
        entitled = self.electorate - left
        agreed = len(entitled & nodes)
        return 2 * agreed + (self.owner in entitled & nodes) > len(entitled)


@dataclass(frozen=True, slots=True)
class Ballot:
    """A node's memory of terms. It must be on disk before a grant is sent.

    `decided` is the last term that is known to be decided. Each of the `later` ones was granted, here or by a node that
    left, and may have been decided. A node that left has no vote on what follows a term up to `resigned`. `granted` is
    the last one that was granted here: what others had granted counts in a vote, but gives nobody a right here.
    """

    decided: Term = Term()
    later: tuple[Term, ...] = ()
    resigned: int = 0
    granted: Term = Term()

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms that may be the last decided one."""
        return (self.decided, *self.later)

    def has_granted(self, owner: str, epoch: int) -> bool:
        """Whether this node itself has granted an epoch to a node last, or a later one."""
        return self.granted.owner == owner != "" and 0 < epoch <= self.granted.epoch

    @property
    def newest(self) -> Term:
        """A term with the highest epoch."""
        return self.terms[-1]

    def refuses(self, term: Term) -> bool:
        """Whether a term cannot be granted: its epoch or a later one was granted before, or it is too far ahead.

        The newest of the terms that a node had granted which left can be granted here too, if none of its epoch was.
        """
        if term in self.later and term.epoch == self.newest.epoch:
            return self.granted.epoch >= term.epoch and term != self.granted
        return not self.newest.epoch < term.epoch <= self.newest.epoch + MAX_STEP

    def grant(self, term: Term) -> Ballot:
        """Return the ballot after a grant that it does not refuse."""
        later = self.later if term in self.terms else (*self.later, term)
        return replace(self, later=later, granted=term)

    def decide(self, term: Term) -> Ballot:
        """Return the ballot after it became known that one of the later terms is decided."""
        if term not in self.later:
            return self
        return replace(self, decided=term, later=tuple(t for t in self.later if t.epoch > term.epoch))

    def resign(self) -> Ballot:
        """Return the ballot of a node that leaves."""
        return replace(self, resigned=self.newest.epoch)

    def inherit(self, ballot: Ballot) -> Ballot:
        """Return the ballot after a node left: what it had granted may have been decided."""
        epochs = range(self.decided.epoch + 1, self.newest.epoch + MAX_STEP + 1)
        later = {*self.later, *(term for term in ballot.terms if term.epoch in epochs)}
        return replace(self, later=tuple(sorted(later, key=lambda term: (term.epoch, term.owner))))


def undecided(wanted: Term, own: Ballot, votes: Mapping[str, Ballot], left: Mapping[str, int]) -> Term | None:
    """Return a former term whose electorate does not agree to a wanted one; None if this is decided.

    `votes` are the ballots, as they were before, of the nodes that granted it; that of the candidate itself is `own`.
    `left` has the epochs up to which nodes that left have resigned. Terms that the candidate itself did not get before
    do not count: only it could have decided them.
    """
    resigned = {node_id: ballot.resigned for node_id, ballot in votes.items()}
    resigned |= {node_id: until for node_id, until in left.items() if until < wanted.epoch}  # others may have its vote
    former, heard = set(own.terms), set[str]()
    while more := {i for t in former for i in t.electorate} & votes.keys() - heard:
        heard |= more
        former |= {t for i in more for t in votes[i].terms if t.epoch >= own.decided.epoch}
    former = {t for t in former if t.owner != wanted.owner or t == own.decided}
    for term in sorted(former, key=lambda t: t.epoch):
        without_vote = {node_id for node_id, until in resigned.items() if until >= term.epoch}
        if term.electorate and not term.has_quorum(votes.keys() - without_vote, without_vote):
            return term
    return None
