"""Ballot: whoever is cut off, restarted, late or gone, an epoch has one owner, and a part without a quorum has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.membership.ballot import MAX_STEP, Ballot, Term, undecided

NODES = "abcde"


def term(epoch: int, owner: str, electorate: str) -> Term:
    return Term(epoch, owner, frozenset(electorate))


def elected(former: Term, votes: str, left: str = "") -> bool:
    ballots = dict.fromkeys(votes, Ballot(former))
    return undecided(term(2, votes[0], votes), ballots[votes[0]], ballots, dict.fromkeys(left, former.epoch)) is None


def test_more_than_half_of_the_electorate_decides_or_half_with_the_owner() -> None:
    three, two, one = term(1, "a", "abc"), term(1, "a", "ab"), term(1, "a", "a")
    assert elected(three, "bc")
    assert not elected(three, "b")
    assert not elected(three, "a")
    assert elected(two, "a")
    assert not elected(two, "b")
    assert elected(one, "a")
    assert not elected(one, "b")


def test_a_node_that_left_is_not_missed() -> None:
    assert elected(term(1, "a", "ab"), "b", left="a")
    assert elected(term(1, "a", "abc"), "bc", left="a")
    assert not elected(term(1, "a", "abc"), "b", left="a")


def test_a_node_that_left_has_no_vote_when_it_is_back() -> None:
    former = term(1, "a", "abcd")
    votes = {"c": Ballot(former), "a": Ballot(former).resign(), "b": Ballot(former).resign()}
    assert undecided(term(2, "c", "c"), votes["c"], votes, {}) == former
    assert undecided(term(2, "c", "c"), votes["c"], votes | {"d": Ballot(former)}, {}) is None


def test_an_epoch_is_granted_once_and_not_far_ahead() -> None:
    ballot = Ballot(term(4, "a", "ab")).grant(term(5, "b", "ab"))
    assert ballot.refuses(term(5, "a", "ab"))
    assert ballot.refuses(term(4, "a", "ab"))
    assert not ballot.refuses(term(5 + MAX_STEP, "a", "ab"))
    assert ballot.refuses(term(6 + MAX_STEP, "a", "ab"))
    assert ballot.refuses(term(2**32 - 1, "a", "ab"))


def test_what_another_node_had_granted_gives_nobody_a_right_here() -> None:
    first = Ballot().grant(term(1, "a", "abc"))
    inherited = first.inherit(Ballot().grant(term(2, "x", "x")))
    assert inherited.newest.owner == "x"
    assert not inherited.has_granted("x", 2)
    assert inherited.has_granted("a", 1)
    assert not inherited.has_granted("a", 2)
    assert inherited.grant(term(2, "x", "x")).has_granted("x", 2)


def test_a_candidate_that_missed_a_decision_needs_the_electorate_of_that() -> None:
    former, missed = term(1, "a", "abc"), term(2, "a", "ab")
    b, c = Ballot(former).grant(missed), Ballot(former)
    assert undecided(term(3, "c", "c"), c, {"b": b, "c": c}, {}) == missed
    assert undecided(term(3, "b", "b"), b, {"b": b, "c": c}, {"a": 2}) is None


def test_an_epoch_of_a_node_that_left_is_granted_only_where_nobody_else_has_it() -> None:
    former, mine, theirs = term(1, "a", "ab"), term(2, "a", "ab"), term(2, "e", "e")
    gone = Ballot(former).grant(theirs).resign()
    assert not Ballot(former).inherit(gone).refuses(theirs)
    assert Ballot(former).grant(mine).inherit(gone).refuses(theirs)
    assert Ballot(former).inherit(gone).grant(theirs).refuses(mine)


@dataclass
class Campaign:
    """A candidate that asks for a term; requests and replies arrive whenever they arrive, or never."""

    term: Term
    own: Ballot
    votes: dict[str, Ballot]


@dataclass
class World:
    """Nodes that ask for terms at any time and for no reason; nothing is lost at a restart but their campaigns."""

    ballots: dict[str, Ballot] = field(default_factory=lambda: dict.fromkeys(NODES, Ballot()))
    campaigns: list[Campaign] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    left: dict[str, dict[str, int]] = field(default_factory=lambda: {node: {} for node in NODES})
    away: set[str] = field(default_factory=set)

    def stand(self, node: str, electorate: frozenset[str]) -> None:
        self.campaigns = [c for c in self.campaigns if c.term.owner != node]  # one at a time
        own = self.ballots[node]
        wanted = Term(own.newest.epoch + 1, node, electorate | {node})
        self.ballots[node] = own.grant(wanted)
        self.campaigns.append(Campaign(wanted, own, {node: own}))

    def ask(self, campaign: Campaign, voter: str) -> None:
        before = self.ballots[voter]
        if voter not in self.away and voter not in campaign.votes and not before.refuses(campaign.term):
            self.ballots[voter] = before.grant(campaign.term)
            campaign.votes[voter] = before

    def count(self, campaign: Campaign) -> None:
        wanted, owner = campaign.term, campaign.term.owner
        if owner not in self.away and undecided(wanted, campaign.own, campaign.votes, self.left[owner]) is None:
            assert self.owners.setdefault(wanted.epoch, owner) == owner
            self.ballots[owner] = self.ballots[owner].decide(wanted)

    def leave(self, node: str, hearers: frozenset[str]) -> None:
        self.campaigns = [c for c in self.campaigns if c.term.owner != node]
        self.ballots[node] = self.ballots[node].resign()
        self.away.add(node)
        for other in hearers - self.away:
            self.ballots[other] = self.ballots[other].inherit(self.ballots[node])
            self.left[other][node] = self.ballots[node].resigned


VERBS = ["stand", "ask", "ask", "ask", "count", "count", "told", "leave", "back", "restart"]


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_no_epoch_ever_has_two_owners(seed: int, n_electors: int) -> None:
    for nth in range(10):
        play(Random(seed + nth), n_electors)


def play(draw: Random, n_electors: int) -> None:
    """Let anything happen; `World` looks for a second owner."""
    world = World()
    begun = Term(1, "a", frozenset(draw.sample(NODES, n_electors)) | {"a"})
    world.ballots = dict.fromkeys(NODES, Ballot(begun))
    for _ in range(40):
        verb, node = draw.choice(VERBS), draw.choice(NODES)
        some = frozenset(draw.sample(NODES, draw.randint(0, 5)))
        campaign = draw.choice(world.campaigns[-4:]) if world.campaigns else None
        match verb:
            case "stand" if node not in world.away:
                world.stand(node, some)
            case "restart":
                world.campaigns = [c for c in world.campaigns if c.term.owner != node]
            case "leave" if node not in world.away:
                world.leave(node, some - {node})
            case "back":
                world.away.discard(node)
            case "ask" if campaign is not None:
                for voter in sorted(some):
                    world.ask(campaign, voter)
            case "count" if campaign is not None:
                world.count(campaign)
            case "told" if campaign is not None and world.owners.get(campaign.term.epoch) == campaign.term.owner:
                for one in some - world.away:
                    world.ballots[one] = world.ballots[one].decide(campaign.term)
