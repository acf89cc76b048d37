"""Reconfigure: a model that is placed in another way answers the same; its workers read what they lack, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

import mlx_moe
from cluster.client.status import LoadStatus, ServingState
from cluster.client.status_message import load_status
from cluster.client.wanted import Wanted
from cluster.placement import Placement
from cluster.trust import MutualTLS, NodeKey
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from cluster.worker.role import Role
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sampling import SamplingParams
from tests.cluster.running import Cluster, RunningNode, answer
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

N_EXPERTS, MOE_LAYERS = 16, range(1, 6)


def request(max_tokens: int | None = 8) -> Request:
    greedy = SamplingParams(temperature=0.0)
    return Request(tuple(range(30, 90)), greedy, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def wanted() -> list[Token]:
    model = mlx_moe.load(library.DEMO, chunks=DEFAULT_RULE)
    tokens = list(model.generate(request()))
    model.close()
    return tokens


def place(cluster: Cluster, layers: tuple[int, ...], owners: tuple[int, ...] = ()) -> Placement:
    return cluster.place(library.DEMO, layers, owners, n_experts=N_EXPERTS, moe_layers=MOE_LAYERS)


def load(cluster: Cluster, placement: Placement, draft: str = "none") -> LoadStatus:
    """Load, in place of what is loaded; return how that ended."""
    return list(cluster.own.load(Wanted(library.DEMO, placement, draft=draft)))[-1]


def answered(cluster: Cluster) -> list[Token]:
    with closing(cluster.own.model(cluster.own.status())) as model:
        return answer(model, request())


def pieces(placement: Placement, node_id: str) -> set[Piece]:
    """Return what a node reads of the files for its part of a placement."""
    if node_id not in placement.node_ids:
        return set()
    role = Role.of(placement, node_id)
    with Checkpoint.open(library.locate(library.DEMO)) as checkpoint:
        config = families.config_of(checkpoint)
        spec = role.shard_spec()
        parameters = spec.parameters(config) if role.leads else spec.expert_parameters(config)
        if role.coordinates:
            parameters += families.head_parameters(config)
        return {piece for s in find(checkpoint, parameters) for array in s.arrays for piece in array.pieces}


def missing_bytes(cluster: Cluster, before: Placement, after: Placement) -> dict[str, int]:
    """Return what each node has to read when one placement takes the place of another, by name; nothing is left out."""
    lacking = {node: pieces(after, node.node_id) - pieces(before, node.node_id) for node in cluster.nodes}
    return {node.name: sum(piece.nbytes for piece in lacking[node]) for node in cluster.nodes if lacking[node]}


def pids(cluster: Cluster) -> dict[str, int]:
    return {node.name: worker.pid for node in cluster.nodes for worker in node.workers()}


def swapped(placement: Placement) -> Placement:
    """Return a placement on two nodes in which each has the part of the other."""
    one, two = placement.stages
    return replace(placement, stages=(replace(one, node_id=two.node_id), replace(two, node_id=one.node_id)))


@contextmanager
def node_service(node: RunningNode) -> Iterator[node_pb2_grpc.NodeStub]:
    """Ask a node what only nodes ask each other."""
    credentials = MutualTLS(NodeKey.load(node.home.identity).identity())
    with credentials.channel(node.address, node.node_id) as channel:
        yield node_pb2_grpc.NodeStub(channel)


def deploy(cluster: Cluster, status: LoadStatus, placement: Placement) -> LoadStatus:
    """Place the model that node 1 has deployed in another way, whoever is answered; return how that ended."""
    assert status.placement is not None
    assert status.serving is not None
    asked = pb.DeployRequest(
        placement=json.dumps(replace(placement, content_hash=status.placement.content_hash).to_json()),
        epoch=status.serving.epoch + 1,
        draft="none",
        context_tokens=status.serving.context_tokens,
    )
    with node_service(cluster.nodes[0]) as stub:
        stub.Deploy(asked, timeout=PATIENCE_S)
        followed = stub.FollowLoad(pb.FollowRequest(epoch=asked.epoch), timeout=PATIENCE_S)
        return [load_status(message) for message in followed][-1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (((2, 4), ()), ((4, 2), ())),
        (((3, 3), ()), ((2, 2, 2), ())),
        (((2, 2, 2), ()), ((6,), ())),
        (((6,), (2,)), ((6,), (4,))),
        (((6,), (4,)), ((6,), (2,))),
        (((3, 3), (2, 1)), ((2, 4), (1, 3))),
        (((2, 4), ()), ((2, 4), ())),
    ],
    ids=str,
)
def test_other_layers_and_experts_give_the_same_tokens_and_only_what_was_missing_is_read(
    five_nodes: Cluster, wanted: list[Token], before: tuple[tuple[int, ...], ...], after: tuple[tuple[int, ...], ...]
) -> None:
    five_nodes.unload()
    first, second = place(five_nodes, *before), place(five_nodes, *after)
    load(five_nodes, first)
    assert answered(five_nodes) == wanted
    running = pids(five_nodes)
    status = load(five_nodes, second)
    assert {node.name: node.total_bytes for node in status.nodes} == missing_bytes(five_nodes, first, second)
    assert all(node.done_bytes == node.total_bytes for node in status.nodes)
    assert answered(five_nodes) == wanted
    stay = {node.name for node in five_nodes.nodes if node.node_id in second.node_ids}
    until(lambda: pids(five_nodes).keys() == stay)
    assert {name: pid for name, pid in pids(five_nodes).items() if name in running} == {
        name: pid for name, pid in running.items() if name in stay
    }


def test_the_coordinator_may_move_to_a_node_that_then_reads_embedding_and_lm_head(
    five_nodes: Cluster, wanted: list[Token]
) -> None:
    five_nodes.unload()
    first = place(five_nodes, (2, 4))
    status = load(five_nodes, first)
    running = pids(five_nodes)
    second = swapped(first)
    status = deploy(five_nodes, status, second)
    assert status.serving is not None
    assert status.serving.coordinator == second.coordinator
    assert {node.name: node.total_bytes for node in status.nodes} == missing_bytes(five_nodes, first, second)
    until(lambda: five_nodes.own.status().serving == status.serving)
    assert answered(five_nodes) == wanted
    assert pids(five_nodes) == running


def test_an_answer_that_is_written_meanwhile_continues(five_nodes: Cluster, wanted: list[Token]) -> None:
    five_nodes.unload()
    status = load(five_nodes, place(five_nodes, (2, 2, 2)))
    with closing(five_nodes.own.model(five_nodes.own.status())) as model:
        undisturbed = answer(model, request(max_tokens=100))
        written = model.new_conversation().answer(request(max_tokens=100))
        tokens = [next(written) for _ in range(3)]
        status = deploy(five_nodes, status, place(five_nodes, (4, 2)))
        assert tokens + list(written) == undisturbed
        assert written.stats.waited_for == "demo was placed on the nodes in another way"
    assert status.serving is not None
    assert status.serving.state is ServingState.READY
    assert answered(five_nodes) == wanted


def test_an_answer_goes_on_where_another_node_coordinates(five_nodes: Cluster) -> None:
    five_nodes.unload()
    status = load(five_nodes, place(five_nodes, (2, 4)))
    with closing(five_nodes.own.model(five_nodes.own.status())) as model:
        wanted = list(model.new_conversation().answer(request(max_tokens=300)))
        written = model.new_conversation().answer(request(max_tokens=300))
        tokens = [next(written) for _ in range(3)]
        deploy(five_nodes, status, swapped(place(five_nodes, (2, 4))))
        tokens.extend(written)
    assert tokens == wanted


def test_a_model_whose_drafts_change_keeps_what_it_holds(five_nodes: Cluster) -> None:
    five_nodes.unload()
    placement = place(five_nodes, (2, 4))
    load(five_nodes, placement)
    running = pids(five_nodes)
    status = load(five_nodes, placement, "mtp")
    assert [node.name for node in status.nodes] == ["mac-1"]  # the MTP layer, where the coordinator is
    assert pids(five_nodes) == running
    five_nodes.unload()
