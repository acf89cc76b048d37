"""Belief: a model is where the members of its placement say that it is, under an epoch that most nodes have granted."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.daemon.belief import Said, believed
from cluster.membership.ballot import Ballot, Term
from cluster.wire import node_pb2 as pb

A, B, C, LIAR = "abcx"
READY, LOADING = pb.Serving.READY, pb.Serving.LOADING


def serving(epoch: int, *node_ids: str, state: pb.Serving.State.ValueType = READY) -> pb.Serving:
    return pb.Serving(model="demo", epoch=epoch, state=state, coordinator=node_ids[0], node_ids=node_ids)


def holding(epoch: int, model: str = "demo") -> pb.Holding:
    return pb.Holding(model=model, epoch=epoch)


def granted(owner: str, epoch: int) -> Ballot:
    return Ballot().grant(Term(epoch, owner, frozenset(owner)))


HONEST = {
    A: Said(serving(3, A, B), holding(3), granted(A, 3)),
    B: Said(holding=holding(3), ballot=granted(A, 3)),
    C: Said(ballot=granted(A, 3)),
}


def test_what_most_nodes_granted_and_its_members_confirm_is_believed_everywhere() -> None:
    for own in HONEST:
        assert believed(own, HONEST) == (A, HONEST[A].serving)


@given(st.integers(1, 2**32 - 1), st.sampled_from([(LIAR,), (LIAR, A, B), (A,)]), st.sampled_from([READY, LOADING]))
def test_a_liar_is_believed_by_nobody_whatever_epoch_it_claims(
    epoch: int, node_ids: tuple[str, ...], state: pb.Serving.State.ValueType
) -> None:
    lie = Said(serving(epoch, *node_ids, state=state), holding(epoch), granted(LIAR, epoch))
    for own in HONEST:
        assert believed(own, HONEST | {LIAR: lie}) == (A, HONEST[A].serving)
    idle = {node_id: Said(ballot=one.ballot) for node_id, one in HONEST.items()}
    for own in HONEST:
        assert believed(own, idle | {LIAR: lie}) == ("", pb.Serving())


def test_a_liar_that_owns_an_epoch_cannot_name_others_as_its_stages() -> None:
    most = {node_id: Said(ballot=granted(LIAR, 4)) for node_id in (A, B, C)}
    alone = Said(serving(4, LIAR), holding(4), granted(LIAR, 4))
    assert believed(C, most | {LIAR: alone})[1].state == READY  # as a person there may load a model
    with_others = Said(serving(4, LIAR, A), holding(4), granted(LIAR, 4))
    assert believed(C, most | {LIAR: with_others})[1].state == LOADING
    with_others_and_an_old_part = most | {
        LIAR: with_others,
        A: Said(holding=holding(2, "other"), ballot=granted(LIAR, 4)),
    }
    assert believed(C, with_others_and_an_old_part)[1].state == LOADING


def test_a_node_that_joins_late_believes_the_others_and_itself() -> None:
    new = HONEST | {"n": Said(), LIAR: Said(serving(9, LIAR), holding(9), granted(LIAR, 9))}
    assert believed("n", new) == (A, HONEST[A].serving)
    own = Said(serving(5, "n"), holding(5), granted("n", 5))
    assert believed("n", HONEST | {"n": own}) == ("n", own.serving)


def test_of_two_halves_the_own_grant_decides() -> None:
    two = {A: HONEST[A], C: HONEST[C]}
    assert believed(C, two)[0] == A
    assert believed(C, two | {C: Said()}) == ("", pb.Serving())
