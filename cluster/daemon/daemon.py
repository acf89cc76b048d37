"""Daemon: runs a node from `up` until `down`, Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc

from cluster import log_files, open_files
from cluster.daemon import callers
from cluster.daemon.admission import Admission
from cluster.daemon.channels import Channels
from cluster.daemon.control_service import ControlService, served
from cluster.daemon.gateway_process import GatewayProcess
from cluster.daemon.greeter import Greeter
from cluster.daemon.keeping import Keeping
from cluster.daemon.node_service import EchoService, NodeService
from cluster.daemon.pulling import Pulling
from cluster.daemon.quiet import DEFAULT_RULE, QuietRule
from cluster.daemon.rebalancing import Rebalancing
from cluster.daemon.renewing import keep_renewed
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.daemon.takeover import Takeover
from cluster.daemon.wakefulness import caffeinate, keep_awake
from cluster.daemon.worker_host import WorkerHost
from cluster.errors import ClusterError, HeldError, TrustError
from cluster.home import Home
from cluster.lock import held
from cluster.membership.address import join
from cluster.membership.contacts import Target
from cluster.membership.discovery import Announcement, discover
from cluster.membership.hardware import Hardware, hardware
from cluster.membership.listening import Listening
from cluster.membership.membership import Announced, Change, Hinted, Moved
from cluster.membership.node_info import NodeInfo
from cluster.trust import SERVER_OPTIONS, NodeKey, Removal, enrolment, private_file
from cluster.trust.call_rules import CallRules
from cluster.weights.pacer import Pacer
from cluster.weights.weights_service import WeightsService
from cluster.wire import node_pb2_grpc
from cluster.wire.worker_pb2 import WorkerCommand, WorkerEvent
from mlx_moe.checkpoint import durable_file

log = logging.getLogger(__name__)

MAX_CALLS = 512
GRACE_S = 1.0

ADDRESSES_S = 1.0
"""How often a node checks the addresses of its machine."""

LOCK_S = 0.5
"""How long to try: a process that checks whether the home's lock is held takes it for microseconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a node. `host` is as in `Listening.at`; with `port` 0, two consecutive free ports are used.

    `memory_bytes` limits the memory that it offers to models; `peers` are addresses to greet without discovery.
    `rebalance` says when it moves a model that it coordinates to a better placement; None: only by command.
    """

    name: str
    host: str = ""
    port: int = 7420
    memory_bytes: int | None = None
    peers: tuple[str, ...] = ()
    rebalance: QuietRule | None = DEFAULT_RULE


class Daemon:
    """A node. `on_up` is called when it can be reached, `on_change` with changes of other nodes."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        admission: Admission,
        on_up: Callable[[Daemon], None],
        on_change: Callable[[Change], None],
    ) -> None:
        self.home = home
        self.settings = settings
        self.admission = admission
        self.stopped = asyncio.Event()
        self._for_good = False
        self._on_up = on_up
        self._on_change = on_change

    async def run(self) -> None:
        """Run the node until `stopped` is set.

        Raises:
            ClusterError: a port is taken, a daemon runs in this home already, or the hardware cannot be measured.
            TrustError: the node was removed from its cluster.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(only_daemon_of(self.home))
            open_files.allow()
            measured = await hardware(self.home.hardware)
            credentials = self.admission.credentials
            asked = Listening.at(self.settings.host)
            port = self.settings.port or asked.free_port(neighbours=1)
            listening = asked.with_loopback(port)
            self.state = NodeState(self._info(asked, port, measured), self._on_change, self.admission.removed)
            allowed = CallRules(credentials, callers.rules(self.state))
            server = grpc.aio.server(interceptors=[allowed], options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
            listening.bind(lambda address: credentials.add_port(server, address), port)
            self.state.reached(self.state.own.node_id, join(listening.own_host, port))
            channels = Channels(credentials)
            stack.push_async_callback(channels.close)
            greeter = Greeter(self.state, channels)
            keeping = await stack.enter_async_context(self._keeping(channels, asked, port))

            def run_worker(commands: AsyncIterator[WorkerCommand]) -> AsyncGenerator[WorkerEvent, None]:
                return worker_host.run(commands, self.state.own.node_id)

            self.serving = Serving(self.state, greeter, channels, self.home, run_worker)
            self.serving.acquiring.forget()  # a daemon that was killed leaves its outlines
            stack.callback(self.serving.acquiring.forget)
            stack.callback(self.serving.copies.close)
            weights = WeightsService(self.serving.copies.source, Pacer(self.state.is_answering))
            rebalancing = Rebalancing(self.state, self.serving, self.settings.rebalance)
            worker_host = WorkerHost(self.state, self.serving, credentials, self.home, listening)
            node_service = NodeService(
                self.state, greeter, self.serving, rebalancing, keeping, credentials, self.home, worker_host
            )
            node_pb2_grpc.add_NodeServicer_to_server(node_service, server)
            server.add_generic_rpc_handlers((EchoService(), weights))
            pulling = Pulling(self.state, self.serving)
            gateway = GatewayProcess(self.home.path, self.home.logs / log_files.GATEWAY)
            stack.push_async_callback(gateway.stop)
            await server.start()
            stack.push_async_callback(server.stop, GRACE_S)
            control = ControlService(
                *(self.state, self.serving, rebalancing, pulling, gateway, keeping),
                *(self.admission.cluster_id, self._stop),
                insecure=credentials.insecure,
            )
            control_path = await stack.enter_async_context(served(self.home, control))
            self.admission.keep()
            stack.enter_context(_announced_to_cli(self.home, self.state, control_path, credentials.insecure))
            for peer in self.settings.peers:
                self.state.apply(Hinted(Target((peer,)), typed=True))
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(signum, self.stopped.set)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(greeter.run()),
                    tasks.create_task(self.serving.voting.run()),
                    tasks.create_task(keeping.run()),
                    tasks.create_task(self._keep_certified(keeping)),
                    tasks.create_task(self._end_if_removed()),
                    tasks.create_task(Takeover(self.state, greeter, self.serving, worker_host).run()),
                    tasks.create_task(discover(self._found, self._announcement)),
                    tasks.create_task(self._keep_addresses(asked, port)),
                    tasks.create_task(keep_awake(lambda: self.state.holding.epoch > 0, caffeinate())),
                    tasks.create_task(rebalancing.run()),
                ]
                log.info("event=up version=%s addresses=%s", self.state.own.version, ",".join(self.state.own.addresses))
                self._on_up(self)
                await self.stopped.wait()
                log.info("event=stopping")
                reason = f"node {self.settings.name} was stopped"
                await pulling.end()
                await gateway.stop()
                removal = None if self._for_good else self._own_removal()
                if removal is None:  # else the others take over what it serves, as if it had died
                    await self.serving.unload_own(reason)
                    await worker_host.end(reason)
                    self.serving.voting.resign()
                    await greeter.leave(for_good=self._for_good)
                for task in running:
                    task.cancel()
        if removal is not None:
            raise TrustError(removal.words)

    def _stop(self, for_good: bool) -> None:
        """Stop the node, as its command line wants; `for_good`: it leaves its cluster."""
        self._for_good = for_good
        self.stopped.set()

    def _keeping(self, channels: Channels, listening: Listening, port: int) -> Keeping:
        authority = self.admission.authority
        at = enrolment.enrolment_port(port)

        def open_at() -> list[str]:
            """Return where the enrolment port is. Raises ClusterError if it is taken."""
            listening.require_free(at)
            return [join(host, at) for host in listening.hosts]

        return Keeping(self.state, channels, self.home, authority, self.admission.authority_key_hash, open_at)

    async def _keep_certified(self, keeping: Keeping) -> None:
        """Renew the certificate in time; an insecure cluster has none."""
        if self.admission.credentials.insecure:
            return

        def keepers() -> list[str]:
            return [self.state.target(i) for i in self.state.keepers if i != self.state.own.node_id]

        await keep_renewed(NodeKey.load(self.home.identity), lambda: keeping.authority, keepers)

    async def _end_if_removed(self) -> None:
        await self.state.is_removed.wait()
        self.stopped.set()

    def _own_removal(self) -> Removal | None:
        removed = self.admission.removed
        return None if removed is None else removed.get(self.state.own.node_id)

    async def _keep_addresses(self, listening: Listening, port: int) -> None:
        """Apply `Moved` when this machine's addresses change, and read its free disk, so that other nodes are told."""
        while True:
            self.state.free_disk_bytes = durable_file.free_bytes(self.home.path)
            await asyncio.sleep(ADDRESSES_S)
            addresses = tuple(join(ip, port) for ip in listening.announced())
            if addresses != self.state.own.addresses:
                self.state.apply(Moved(addresses))

    def _info(self, listening: Listening, port: int, measured: Hardware) -> NodeInfo:
        offered = measured.budget_bytes
        if self.settings.memory_bytes is not None:
            offered = min(offered, self.settings.memory_bytes)
        return NodeInfo(
            node_id=self.admission.node_id,
            name=self.settings.name,
            addresses=tuple(join(ip, port) for ip in listening.announced()),
            version=version("moe-cluster"),
            incarnation=time.time_ns(),
            offered_bytes=offered,
            hardware=measured,
        )

    def _announcement(self) -> Announcement:
        own = self.state.own
        enrols = self.state.keeps_authority
        return Announcement(own.node_id, own.name, self.admission.cluster_id, own.version, own.addresses, enrols)

    def _found(self, announcement: Announcement) -> None:
        if announcement.cluster_id == self.admission.cluster_id:
            self.state.apply(Announced(Target(announcement.addresses, announcement.node_id)))


@contextmanager
def only_daemon_of(home: Home) -> Iterator[None]:
    """Hold the home's lock; remove the address file of a killed daemon. Raises ClusterError if a daemon is running."""
    try:
        with held(home.lock, LOCK_S):
            home.daemon.unlink(missing_ok=True)
            yield
    except HeldError as exc:
        raise ClusterError(
            f"a node runs on this machine already (in {home.path}): moe-cluster status shows it, down ends it"
        ) from exc


@contextmanager
def _announced_to_cli(home: Home, state: NodeState, control: Path, insecure: bool) -> Iterator[None]:
    """Write where the daemon is, for this machine's command line."""
    node_id = state.own.node_id
    value = {
        "pid": os.getpid(),
        "address": state.target(node_id),
        "control": str(control),
        "node_id": node_id,
        "insecure": insecure,
    }
    private_file.write(home.daemon, json.dumps(value).encode())
    try:
        yield
    finally:
        home.daemon.unlink(missing_ok=True)
