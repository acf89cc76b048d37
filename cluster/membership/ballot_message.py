"""Ballot messages: ballots to and from the wire. Those of other nodes are checked here, once."""

from __future__ import annotations

from cluster.errors import ClusterError
from cluster.membership.ballot import Ballot, Term
from cluster.membership.membership import MAX_MEMBERS
from cluster.membership.node_info import is_node_id
from cluster.wire import node_pb2 as pb

MAX_LATER = 1024
MAX_ELECTORATE = 2 * MAX_MEMBERS


def term_to_message(term: Term) -> pb.Term:
    """Return a term as it is sent."""
    return pb.Term(epoch=term.epoch, owner=term.owner, electorate=sorted(term.electorate))


def term_from_message(message: pb.Term) -> Term:
    """Return the term of a message. Raises ClusterError for one that cannot be."""
    term = Term(message.epoch, message.owner, frozenset(message.electorate[:MAX_ELECTORATE]))
    named = {*term.electorate, term.owner} - {""}
    if not all(map(is_node_id, named)) or (term.epoch > 0) != (term.owner in term.electorate):
        raise ClusterError(f"a term of epoch {term.epoch} that cannot be")
    return term


def to_message(ballot: Ballot) -> pb.Ballot:
    """Return a ballot as it is sent."""
    return pb.Ballot(
        decided=term_to_message(ballot.decided),
        later=map(term_to_message, ballot.later),
        resigned=ballot.resigned,
        granted=term_to_message(ballot.granted),
    )


def from_message(message: pb.Ballot) -> Ballot:
    """Return the ballot of a message. Raises ClusterError for one that cannot be."""
    decided = term_from_message(message.decided)
    later = tuple(term_from_message(term) for term in message.later[:MAX_LATER])
    if any(term.epoch <= decided.epoch for term in later):
        raise ClusterError("a ballot that cannot be")
    later = tuple(sorted(later, key=lambda term: (term.epoch, term.owner)))
    return Ballot(decided, later, message.resigned, term_from_message(message.granted))
