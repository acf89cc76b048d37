"""NodeClient: calls this machine's node through its control socket. Asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from cluster import control_socket
from cluster.client import about
from cluster.client.about import NodeAbout
from cluster.client.gateway_options import GatewayOptions
from cluster.client.model import ModelClient, Place, described
from cluster.client.status import ClusterStatus, LoadStatus, NodeProgress, ServingState
from cluster.client.status_message import cluster_status, load_status, pull_status
from cluster.client.wanted import Wanted
from cluster.errors import ClusterError, NoClusterError, NodeLostError, TrustError
from cluster.home import Home
from cluster.lock import POLL_S, is_held
from cluster.model_list import ListedModel, from_message
from cluster.placement import Rebalance
from cluster.rebalance_message import from_message as from_rebalance
from cluster.rpc_errors import translated
from cluster.trust import CHANNEL_OPTIONS, Credentials, Insecure, MutualTLS, NodeIdentity, RemovedNodes, StoredIdentity
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe.errors import MoeClusterError

CALL_S = 30.0
"""Timeout of calls that only read."""

MOVE_S = 90.0
"""Timeout to find and begin another placement of a large model."""

STOP_S = 30.0
"""Timeout for a node to unload its model, tell the others, and end."""

LOOK_S = 0.05
"""How often the status is read while waiting for a condition."""

MEET_S = 2.0
"""After this time without a further node, a new node is assumed to know all others."""

SUCCESSOR_S = 15.0
"""How long to wait for a node that takes the place of a coordinator that was lost."""

DESCRIBE_S = 2.0
"""How long a coordinator may take to say that it is there."""

SETTLE_S = 10.0
"""Timeout for all nodes to report what they hold after a model was loaded."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a running daemon says of itself to its machine's command line: `control` is its socket."""

    pid: int
    node_id: str
    control: Path
    insecure: bool

    @classmethod
    def read(cls, home: Home) -> Announced:
        """Read it. Raises as `NodeClient.connect`."""
        if not is_running(home):
            raise NoClusterError(f"no node runs on this machine: {_removal_words(home) or 'moe-cluster up starts one'}")
        try:
            value = json.loads(home.daemon.read_text())
            return cls(value["pid"], value["node_id"], Path(value["control"]), value["insecure"])
        except FileNotFoundError as exc:
            raise NoClusterError("the node of this machine is starting or ending: try again in a moment") from exc
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
            raise ClusterError(
                f"{home.daemon} cannot be read ({exc}), and a node runs: end its process, and moe-cluster up again"
            ) from exc


class NodeClient:
    """The node daemon of this machine. Use the client in the event loop in which it was made, and close it."""

    def __init__(self, home: Home, announced: Announced) -> None:
        self._home = home
        self._open(announced)

    @classmethod
    async def connect(cls, home: Home) -> NodeClient:
        """Return the daemon of a home.

        Raises:
            NoClusterError: none runs, or it is not up yet.
            ClusterError: its address file cannot be read.
        """
        return cls(home, Announced.read(home))

    async def status(self, timeout_s: float = CALL_S) -> ClusterStatus:
        """Return the cluster's status as this node sees it. If the node was restarted, its new address is used.

        Raises:
            NoClusterError: the node does not run any more.
        """
        try:
            return await self._status(timeout_s)
        except NoClusterError:
            await self._follow()
        return await self._status(timeout_s)

    async def load(self, wanted: Wanted) -> AsyncGenerator[LoadStatus, None]:
        """Load a model; yield the progress until it is ready. Loading continues if the caller stops iterating.

        Raises:
            OccupiedError: another model is served, and `wanted.replace` is not set.
            DownloadError: weights must be downloaded, and `wanted.download` is not set.
            MoeClusterError: it cannot be loaded, or loading failed.
        """
        call = self._stub.Load(_load_request(wanted))
        try:
            with self._called():
                async for message in call:
                    yield load_status(message)
        finally:
            call.cancel()

    async def pull(
        self, wanted: Wanted, nodes: Sequence[str] = (), *, dry_run: bool = False
    ) -> AsyncGenerator[tuple[NodeProgress, ...], None]:
        """Copy a model to the disks of nodes: each its part, or the whole one to `nodes`; yield their progress.

        It continues if the caller stops iterating. `dry_run` yields once what is missing.

        Raises:
            MoeClusterError: there is no such model or node, no room on a disk, or the sources do not deliver.
        """
        call = self._stub.Pull(pb.PullRequest(load=_load_request(wanted), nodes=nodes, dry_run=dry_run))
        try:
            with self._called():
                async for message in call:
                    yield pull_status(message)
        finally:
            call.cancel()

    async def models(self) -> list[ListedModel]:
        """Return the models on the disks of all present nodes that answer, this one's first."""
        with self._called():
            return from_message(await self._stub.ListAllModels(pb.ListModelsRequest(), timeout=CALL_S))

    async def about(self) -> list[NodeAbout]:
        """Return what all present nodes that answer tell about themselves, this one first."""
        with self._called():
            reply = await self._stub.AboutNodes(pb.AboutRequest(), timeout=CALL_S)
        return [about.from_message(node) for node in reply.nodes]

    async def log_lines(self, node: str, n_lines: int, cursor: str = "") -> tuple[list[str], str]:
        """Return the last lines of a node's logs, or those after a cursor that an earlier call returned, and a cursor.

        Raises:
            NodeLostError: no such node is present, or it does not answer.
        """
        read = pb.ReadLogRequest(lines=n_lines, cursor=cursor)
        with self._called():
            reply = await self._stub.ReadNodeLog(pb.ReadNodeLogRequest(node=node, read=read), timeout=CALL_S)
        return list(reply.lines), reply.cursor

    async def unload(self, reason: str) -> str:
        """Unload the cluster's model; return its name, "" if there was none."""
        with self._called():
            reply = await self._stub.Unload(pb.UnloadRequest(reason=reason), timeout=CALL_S)
        return str(reply.model)

    async def rebalance(self, *, dry_run: bool) -> Rebalance:
        """Move the cluster's model to the best placement on the present nodes; `dry_run` only returns it.

        Loading is then followed by `load`.

        Raises:
            NoClusterError: no model is ready.
            MoeClusterError: no placement fits, or a node has none of what it would read.
        """
        with self._called():
            return from_rebalance(await self._stub.Rebalance(pb.RebalanceRequest(dry_run=dry_run), timeout=MOVE_S))

    async def serve(self, options: GatewayOptions) -> str:
        """Serve the HTTP APIs on this machine; return their URL. Raises ClusterError if the port is taken."""
        request = pb.ServeRequest(**dataclasses.asdict(options))
        with self._called():
            return str((await self._stub.Serve(request, timeout=CALL_S)).url)

    async def stop_serving(self) -> str:
        """End the HTTP APIs of this machine; return where they were, "" if there were none."""
        with self._called():
            return str((await self._stub.StopServing(pb.StopServingRequest(), timeout=CALL_S)).url)

    async def remove(self, name: str) -> tuple[str, bool]:
        """Remove a node from the cluster, by its shown name or its id; return its name, and whether it was a keeper.

        Raises:
            InvalidRequestError: there is no such node, or it is this one.
            ClusterError: this node does not keep the authority.
        """
        with self._called():
            reply = await self._stub.RemoveNode(pb.RemoveNodeRequest(name=name), timeout=CALL_S)
        return str(reply.name), bool(reply.kept_authority)

    async def stop(self, *, for_good: bool = False) -> None:
        """Stop the node and wait until it has ended; `for_good`: it leaves its cluster.

        Raises:
            NodeLostError: that takes longer than STOP_S.
        """
        with self._called():
            await self._stub.Stop(pb.StopRequest(for_good=for_good), timeout=CALL_S)
        deadline = time.monotonic() + STOP_S
        while is_held(self._home.lock):
            if time.monotonic() > deadline:
                raise NodeLostError(
                    f"the node was told to stop, but still runs after {STOP_S:g} s; see {self._home.logs}"
                )
            await asyncio.sleep(POLL_S)

    async def model(self, status: ClusterStatus) -> ModelClient:
        """Return the model that the cluster serves, called with this node's certificate.

        Raises:
            NoClusterError: it serves none.
            TrustError: the certificate cannot be read.
        """
        if status.serving is None or not status.coordinator_address:
            raise NoClusterError("no model is loaded; `moe-cluster chat MODEL` or `moe-cluster up MODEL` loads one")
        credentials, model = self._credentials(), status.serving.model

        async def find(error: MoeClusterError) -> Place:
            return await self._coordinator_of(model, credentials, error)

        return await ModelClient.connect(credentials, _place(status), find)

    async def _coordinator_of(self, model: str, credentials: Credentials, error: MoeClusterError) -> Place:
        """Return where a model is coordinated, once it is after a loss; raise `error` if nobody takes it over."""
        gives_up_at = time.monotonic() + SUCCESSOR_S
        while True:
            try:
                status = await self.status()
            except NoClusterError:
                raise error from None
            serving = status.serving
            if serving is not None and serving.model == model and status.coordinator_address:
                place = _place(status)
                with contextlib.suppress(NodeLostError):
                    await described(credentials, place, DESCRIBE_S)
                    return place
            elif serving is not None and serving.state is ServingState.FAILED:
                raise NodeLostError(serving.failure, node_id=error.node_id) from error
            elif serving is not None and serving.model == model and serving.state is ServingState.LOADING:
                gives_up_at = time.monotonic() + SUCCESSOR_S
            if time.monotonic() > gives_up_at:
                raise error
            await asyncio.sleep(4 * LOOK_S)

    async def settled(self) -> ClusterStatus:
        """Return the status once all nodes have reported what they hold, which they do some time after loading.

        Raises:
            NodeLostError: the model was lost while waiting.
        """

        def is_settled(status: ClusterStatus) -> bool:
            serving = status.serving
            if serving is None or serving.state is not ServingState.READY:
                model, failure = (serving.model, serving.failure) if serving else ("the model", "")
                raise NodeLostError(f"{model} is not served any more: {failure or 'unloaded'}")
            holdings = ((node.info.node_id, node.holding) for node in status.nodes)
            told = {i for i, h in holdings if h and h.epoch == serving.epoch and h.stats.peak_memory_bytes}
            return told >= set(serving.node_ids) and status.coordinator_address != ""

        return await self._wait(is_settled, SETTLE_S)

    async def meet_others(self) -> None:
        """Wait until no further node appears for MEET_S: a node that joins learns of the others one by one."""
        known = (await self.status()).here.keys()
        while (now := (await self.wait_for_another(known, MEET_S)).here.keys()) - known:
            known = now

    async def wait_for_another(self, known: Collection[str], within_s: float = math.inf) -> ClusterStatus:
        """Return the status once a node is present whose id is not in `known`, or after `within_s`."""
        return await self._wait(lambda status: bool(status.here.keys() - known), within_s)

    async def wait_for_nodes(self, count: int) -> ClusterStatus:
        """Return the status once `count` nodes are present."""
        return await self._wait(lambda status: len(status.here) >= count, math.inf)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> NodeClient:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _wait(self, is_so: Callable[[ClusterStatus], bool], within_s: float) -> ClusterStatus:
        """Return the first status that fulfils a condition, or the last one after `within_s`."""
        deadline = time.monotonic() + within_s
        while not is_so(status := await self.status()) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        return status

    async def _status(self, timeout_s: float) -> ClusterStatus:
        with self._called():
            return cluster_status(await self._stub.Status(pb.StatusRequest(), timeout=timeout_s))

    def _credentials(self) -> Credentials:
        if self._announced.insecure:
            return Insecure(self._announced.node_id)
        return MutualTLS(StoredIdentity(self._home.identity))

    def _open(self, announced: Announced) -> None:
        self._announced = announced
        control_socket.require_own(self._home, announced.control)
        self._channel = grpc.aio.insecure_channel(control_socket.target(announced.control), CHANNEL_OPTIONS)
        self._stub = node_pb2_grpc.ControlStub(self._channel)

    async def _follow(self) -> None:
        """Connect to the restarted node. Raises NoClusterError if none runs."""
        announced = Announced.read(self._home)
        await self._channel.close()
        self._open(announced)

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        """Translate the errors of a call within the block; raise NoClusterError if the node has ended."""
        try:
            with translated("this machine's node", self._announced.node_id):
                yield
        except NodeLostError as error:
            with contextlib.suppress(NoClusterError):
                if Announced.read(self._home) == self._announced:
                    raise
            raise NoClusterError("this machine's node has ended: moe-cluster up starts it again") from error


def _place(status: ClusterStatus) -> Place:
    """Return where the cluster's model is coordinated."""
    assert status.serving is not None
    coordinator = status.serving.coordinator
    return Place(coordinator, status.coordinator_address, f"node {status.name(coordinator)}, which coordinates,")


def _removal_words(home: Home) -> str:
    """Return why the node of a home cannot be started, if it was removed from its cluster; else ""."""
    with contextlib.suppress(TrustError):
        identity = NodeIdentity.load(home.identity)
        removal = RemovedNodes(home.removed, identity.ca_certificate).get(identity.node_id)
        return "" if removal is None else removal.words
    return ""


def _load_request(wanted: Wanted) -> pb.LoadRequest:
    return pb.LoadRequest(
        model=wanted.model,
        placement="" if wanted.plan is None else json.dumps(wanted.plan.to_json()),
        context_tokens=wanted.context_tokens,
        concurrency=wanted.users,
        draft=wanted.draft,
        replace=wanted.replace,
        chunk_length=wanted.chunk,
        latency_s=wanted.latency_s,
        download=wanted.download,
        keep=wanted.keep,
        bits=wanted.bits,
        mode=wanted.mode,
        standby=wanted.standby,
    )


def is_running(home: Home) -> bool:
    """Whether a node runs in a home, determined by its lock: its pid may belong to another process now."""
    return is_held(home.lock)
