"""The authority outlives its first node: further nodes keep it, let others in, and remove them for good."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from cluster.client import NodeState, OwnNode
from cluster.errors import ClusterError, NoClusterError, TrustError
from cluster.node import leaving
from cluster.node.tokens import join_tokens
from cluster.trust import Authority, MutualTLS, NodeIdentity
from cluster.wire import coordinator_pb2, coordinator_pb2_grpc, node_pb2_grpc
from cluster.wire import node_pb2 as pb
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.cluster.test_losses import request
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    """Run four nodes; each test takes one of them out. The last joined as a guest."""
    with running_cluster(tmp_path_factory.mktemp("keepers"), 3, measured_hardware) as running:
        guest = another(running, "guest", measured_hardware)
        token = join_tokens(running.nodes[0].home).create(guest=True).text
        guest.start("--join", token, "--peer", running.nodes[0].address)
        running.nodes.append(guest)
        running.wait_for_all()
        yield running


def another(cluster: Cluster, name: str, hardware: Path) -> RunningNode:
    node = RunningNode(cluster.directory / name, name)
    node.home.path.mkdir(parents=True)
    shutil.copy(hardware, node.home.hardware)
    return node


def keepers(node: RunningNode) -> set[str]:
    with OwnNode.connect(node.home) as own:
        return {status.shown_name for status in own.status().nodes if status.keeps_authority}


def states(node: RunningNode) -> dict[str, NodeState]:
    with OwnNode.connect(node.home) as own:
        return {status.shown_name: status.state for status in own.status().nodes}


def removed(node: RunningNode) -> set[str]:
    with OwnNode.connect(node.home) as own:
        return {one.name for one in own.status().removed}


def served_by(node: RunningNode) -> set[str]:
    with OwnNode.connect(node.home) as own:
        ready = own.status().ready
    return set() if ready is None else set(ready.node_ids)


def test_the_first_two_that_join_keep_the_authority_too_and_a_guest_does_not(cluster: Cluster) -> None:
    first, second, third, guest = cluster.nodes
    until(lambda: keepers(guest) == {"mac-1", "mac-2", "mac-3"})
    keys = {Authority.load(node.home.authority).key_hash for node in (first, second, third)}
    assert keys == {NodeIdentity.load(guest.home.identity).authority_key_hash}
    assert not guest.home.authority.exists()
    assert (second.home.authority / "authority.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ClusterError, match="only nodes that keep the cluster's authority make tokens"):
        join_tokens(guest.home)


def test_a_token_of_one_keeper_is_known_to_all_with_who_used_it(cluster: Cluster) -> None:
    second, third = cluster.nodes[1:3]
    token = join_tokens(second.home).create()
    until(lambda: join_tokens(third.home).tokens == join_tokens(second.home).tokens)
    join_tokens(third.home).revoke(join_tokens(third.home).tokens[-1].token_id)
    until(lambda: any(t.revoked for t in join_tokens(second.home).tokens))
    with pytest.raises(TrustError, match="revoked"):
        join_tokens(second.home).redeem(token.secret, "a" * 16)


def test_a_copy_of_another_clusters_authority_is_refused_and_nothing_changes(cluster: Cluster) -> None:
    second, guest = cluster.nodes[1], cluster.nodes[3]
    before = join_tokens(second.home).issued
    with MutualTLS(NodeIdentity.load(guest.home.identity)).channel(second.address, second.node_id) as channel:
        copy = pb.AuthorityCopy(authority=Authority.new().pem, keepers=[guest.node_id])
        with pytest.raises(grpc.RpcError, match="authority of another cluster"):
            node_pb2_grpc.NodeStub(channel).KeepAuthority(copy, timeout=PATIENCE_S)
    assert join_tokens(second.home).issued == before


def test_a_node_that_is_removed_is_refused_everywhere_and_told_the_cure(cluster: Cluster) -> None:
    first, second, _, guest = cluster.nodes
    model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    identity = NodeIdentity.load(guest.home.identity)
    with OwnNode.connect(guest.home) as own, pytest.raises(ClusterError, match="type it on mac-1 or mac-2 or mac-3"):
        own.remove("mac-3")
    with OwnNode.connect(second.home) as own:
        assert own.remove("guest") == ("guest", False)
        assert own.status().removed[0].node_id == guest.node_id
    assert guest.process.wait(PATIENCE_S) == 1
    assert "was removed from the cluster" in guest.said
    assert "moe-cluster leave" in guest.said
    with pytest.raises(NoClusterError, match="no node runs on this machine: node guest was removed"):
        OwnNode.connect(guest.home)
    until(lambda: removed(first) == {"guest"})
    coordinator = cluster.own.status().coordinator_address
    with MutualTLS(identity).channel(first.address, first.node_id) as channel:
        for call in (node_pb2_grpc.NodeStub(channel).ListModels, node_pb2_grpc.NodeStub(channel).Inspect):
            with pytest.raises(grpc.RpcError, match="was removed from the cluster"):
                call(pb.ListModelsRequest(), timeout=PATIENCE_S)
    with MutualTLS(identity).channel(coordinator, first.node_id) as channel:
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        with pytest.raises(grpc.RpcError, match="was removed from the cluster"):
            stub.Describe(coordinator_pb2.DescribeRequest(), timeout=PATIENCE_S)
    assert len(answer(model, request())) == 8
    guest.start()
    assert guest.process.wait(PATIENCE_S) == 1  # at the start now, before it greets anybody
    leaving.leave(guest.home)
    guest.start("--join", second.token(), "--peer", second.address)
    guest.wait_up()
    until(lambda: states(first).get("guest") is NodeState.PRESENT)
    guest.end()


def test_what_a_removed_node_holds_is_loaded_elsewhere_and_the_answer_goes_on(cluster: Cluster) -> None:
    first, second, third, _ = cluster.nodes
    model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    whole = answer(model, request())
    with OwnNode.connect(first.home) as own:
        assert own.remove("mac-3") == ("mac-3", True)
    assert third.process.wait(PATIENCE_S) == 1
    cluster.nodes.remove(third)
    until(
        lambda: (
            set(cluster.own.status().ready.node_ids if cluster.own.status().ready else ())
            == {first.node_id, second.node_id}
        )
    )
    assert answer(model, request()) == whole


def test_with_the_first_node_dead_others_join_and_leave(cluster: Cluster, measured_hardware: Path) -> None:
    first, second = cluster.nodes[:2]
    cluster.unload()
    first.kill()
    late = another(cluster, "late", measured_hardware)
    late.start("--join", second.token(), "--peer", second.address)
    late.wait_up()
    until(lambda: states(second).get("late") is NodeState.PRESENT)
    until(lambda: "late" in keepers(second))
    assert leaving.stranded(second.home) == 0
    leaving.leave(second.home)
    until(lambda: "mac-2" in removed(late))
    assert not second.home.authority.exists()
    assert late.end() == 0


def test_a_cluster_goes_on_through_the_end_of_its_first_certificates_and_the_removal_of_its_coordinator(
    tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path
) -> None:
    options = ("--lifetime", "8")
    with running_cluster(tmp_path_factory.mktemp("brief"), 3, measured_hardware, options=options) as cluster:
        model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
        whole = answer(model, request())
        identities = [NodeIdentity.load(node.home.identity) for node in cluster.nodes]
        until(lambda: all(datetime.now(UTC) > identity.ends_at for identity in identities))
        for node, first in zip(cluster.nodes, identities, strict=True):
            until(lambda node=node: NodeIdentity.load(node.home.identity).ends_at > datetime.now(UTC))
            assert NodeIdentity.load(node.home.identity).certificate != first.certificate
        assert answer(model, request()) == whole
        assert len(cluster.own.status().here) == 3
        with OwnNode.connect(cluster.nodes[1].home) as own:
            anew = own.model(own.status())  # channels that are made now, to ports that are open since the start
            assert answer(anew, request()) == whole
            anew.close()
        first, second, third = cluster.nodes
        with OwnNode.connect(second.home) as own:
            until(lambda: keepers(second) == {"mac-1", "mac-2", "mac-3"})
            own.remove("mac-1")
            assert first.process.wait(PATIENCE_S) == 1
            cluster.nodes.remove(first)
            until(lambda: served_by(second) == {second.node_id, third.node_id})
            anew = own.model(own.status())
            assert answer(anew, request()) == whole
            anew.close()
