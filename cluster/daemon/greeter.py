"""Greeter: greets the other nodes every second, and measures the link to each node that has joined."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

import grpc

from cluster.daemon.authority_message import removal_messages, removals_from
from cluster.daemon.channels import Channels
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, NodeLostError
from cluster.membership import ballot_message
from cluster.membership.address import MAX_ADDRESSES, is_ip, is_loopback, join, resolve, split
from cluster.membership.contacts import HEARTBEAT_S, MAX_DIALS, Target
from cluster.membership.greeting import Greeting, parsed
from cluster.membership.membership import NO_LINK, Answered, Failed, Hinted, LinkSpeed, Measured, Sent, Tick
from cluster.membership.node_message import links_to_messages, to_message
from cluster.rpc_errors import details_of
from cluster.rpc_words import NOBODY_LISTENS
from cluster.trust.identity import ANY_NODE
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc

log = logging.getLogger(__name__)

ECHO_METHOD = "/moe_cluster.v1.Node/Echo"
GREETING_S = 2.0

HEAD_START_S = 0.5
"""Delay before a node's other addresses are tried, so that the one that answered last is kept while it works."""

NO_ANSWER = "no answer"

TICK_S = 0.25
LEAVING_S = 1.0

LINKS_S = 3.0
"""How long a placement waits for the links of nodes that have just joined."""

ECHOES = 8
ECHO_BYTES = 1 << 20
"""Bytes sent one way to measure a link's rate: below gRPC's default limit, and few for a slow link."""


class Greeter:
    """Sends greetings. Both sides of a greeting say what their node holds and serves."""

    def __init__(self, state: NodeState, channels: Channels) -> None:
        self._state = state
        self._channels = channels
        self._dials: set[asyncio.Task[None]] = set()  # greetings to contacts that are not proven

    async def run(self) -> None:
        """Greet until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_links())
            while True:
                room = MAX_DIALS - len(self._dials)
                for target in self._state.membership.whom_to_greet(time.monotonic(), room):
                    self._state.apply(Sent(target))
                    greeting = tasks.create_task(self._greet(target))
                    if not self._state.membership.contacts.by_target[target].is_proven:
                        self._dials.add(greeting)
                        greeting.add_done_callback(self._dials.discard)
                self._state.apply(Tick())
                await asyncio.sleep(TICK_S)

    async def ask_all(self) -> None:
        """Ask all other nodes what they hold and serve: their last greeting may be a second old."""
        await asyncio.gather(*(self._ask_again(node_id) for node_id in self._state.present))

    async def wait_for_links(self) -> None:
        """Wait until all links are measured, at most LINKS_S: two nodes may not reach each other."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINKS_S):
                while not self._state.knows_all_links:
                    await asyncio.sleep(TICK_S)

    async def asked(self, node_id: str, timeout_s: float) -> Greeting | None:
        """Return what a node says now; None if it does not answer, or was removed."""
        if node_id in self._state.membership.removed:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                greeting, _, _ = await self._ask(node_id, self._state.target(node_id))
        except (NodeLostError, TimeoutError):
            return None
        return greeting

    async def leave(self, *, for_good: bool = False) -> None:
        """Tell all other nodes that this one leaves; `for_good`: it will not come back to the cluster."""
        await asyncio.gather(*(self._say_goodbye(node_id, for_good) for node_id in self._state.present))

    def greeting(self, to: str, refusal: str = "") -> pb.Greeting:
        """Return this node's greeting for a node at an address. Loopback addresses are sent only to loopback."""
        state = self._state
        if refusal:  # a node that may not join, or was removed, learns no more
            return pb.Greeting(info=to_message(state.own), refusal=refusal, removed=removal_messages(state.removals))
        known = {
            node_id: [at for at in member.info.addresses if is_loopback(to) or not is_loopback(at)]
            for node_id, member in state.present.items()
        }
        return pb.Greeting(
            info=to_message(state.own),
            refusal=refusal,
            known=[pb.Acquaintance(node_id=i, addresses=addresses) for i, addresses in known.items() if addresses],
            holding=state.holding,
            serving=state.own_serving,
            links=links_to_messages({**state.links_of(state.own.node_id), **dict.fromkeys(state.lost, NO_LINK)}),
            free_disk_bytes=state.free_disk_bytes,
            ballot=ballot_message.to_message(state.ballot),
            is_placing=state.is_placing,
            removed=removal_messages(state.removals),
            keeps_authority=state.keeps_authority,
        )

    def hear(self, greeting: Greeting) -> None:
        """Process a greeting of a member, or its answer to one."""
        node_id = greeting.info.node_id
        if node_id not in self._state.membership.members:
            return
        self._state.hear(node_id, greeting)
        for target in greeting.known:
            if target.node_id != self._state.own.node_id:
                self._state.apply(Hinted(target, source=node_id))

    def hear_removals(self, greeting: Greeting) -> None:
        """Record which nodes were removed, whoever says it: the authority has signed it. Their channels close."""
        for node_id in self._state.hear_removals(removals_from(greeting.removed)):
            self._channels.forget(node_id)

    async def _greet(self, target: Target) -> None:
        try:
            greeting, at, rtt_s = await self._first_answer(target)
        except NodeLostError as exc:
            self._state.apply(Failed(target, str(exc), is_refused=str(exc) == NOBODY_LISTENS))
            return
        info = greeting.info
        self._state.apply(Answered(target, info, rtt_s, greeting.refusal))
        self.hear_removals(greeting)
        if info.node_id in self._state.membership.members and info.node_id not in self._state.membership.refused:
            self._state.reached(info.node_id, at)
            self.hear(greeting)

    async def _first_answer(self, target: Target) -> tuple[Greeting, str, float]:
        """Greet all addresses of a target, starting with the last one that answered.

        Returns:
            The first answer, its address, and the round-trip seconds.

        Raises:
            NodeLostError: no address answers.
        """
        failure = NO_ANSWER
        attempts: list[asyncio.Task[tuple[Greeting, str, float]]] = []
        try:
            addresses = await _resolved(target.addresses)
            last = self._state.reached_at(self._state.membership.contacts.node_at(target))
            for at in addresses:
                wait_s = HEAD_START_S if last in addresses and at != last else 0.0
                attempts.append(asyncio.create_task(self._ask(target.node_id, at, wait_s)))
            for attempt in asyncio.as_completed(attempts):
                try:
                    greeting, at, rtt_s = await attempt
                except NodeLostError as exc:
                    failure = str(exc) if failure in (NO_ANSWER, NOBODY_LISTENS) else failure
                else:
                    if target.node_id in ("", greeting.info.node_id):
                        return greeting, at, rtt_s
                    failure = f"{at} is {greeting.info.name}"  # one of several machines, without certificates
        except OSError as exc:
            failure = f"its name is not known here: {exc}"
        finally:
            for task in attempts:
                task.cancel()
        raise NodeLostError(failure)

    async def _ask(self, node_id: str, at: str, wait_s: float = 0.0) -> tuple[Greeting, str, float]:
        await asyncio.sleep(wait_s)
        if not node_id:  # any member may answer, and say to be any other: the one that it says to be has to answer
            node_id = (await self._exchange(ANY_NODE, at)).info.node_id
        started = time.perf_counter()
        return await self._exchange(node_id, at), at, time.perf_counter() - started

    async def _exchange(self, node_id: str, at: str) -> Greeting:
        """Greet a node; return its answer. Raises NodeLostError."""
        try:
            async with self._channels.attempt(node_id, at) as channel:
                return parsed(await node_pb2_grpc.NodeStub(channel).Greet(self.greeting(at), timeout=GREETING_S), at)
        except grpc.RpcError as exc:
            failure = details_of(exc)
        except ClusterError as exc:
            failure = str(exc)
        # Without the cause: its traceback keeps the call, and with it the connection, until garbage is collected
        raise NodeLostError(failure)

    async def _ask_again(self, node_id: str) -> None:
        with suppress(NodeLostError):  # only heartbeats decide that a node is lost
            greeting, _, _ = await self._ask(node_id, self._state.target(node_id))
            if greeting.info.node_id == node_id:
                self.hear(greeting)
                self.hear_removals(greeting)

    async def _say_goodbye(self, node_id: str, for_good: bool) -> None:
        try:
            stub = node_pb2_grpc.NodeStub(self._channels.get(node_id, self._state.target(node_id)))
            farewell = pb.Farewell(ballot=ballot_message.to_message(self._state.ballot), for_good=for_good)
            await stub.Leave(farewell, timeout=LEAVING_S)
        except (grpc.RpcError, ClusterError) as exc:
            log.debug("event=goodbye_unheard node=%s error=%s", node_id, exc)

    async def _measure_links(self) -> None:
        while True:
            for node_id, member in self._state.present.items():
                if member.link is None:
                    try:
                        self._state.apply(Measured(node_id, await self._measure(node_id)))
                    except (grpc.RpcError, ClusterError) as exc:
                        log.debug("event=unmeasured node=%s error=%s", node_id, exc)
            await asyncio.sleep(HEARTBEAT_S)

    async def _measure(self, node_id: str) -> LinkSpeed:
        """Measure a link by its fastest round trips."""
        channel = self._channels.get(node_id, self._state.target(node_id))
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO_METHOD)

        async def fastest(payload: bytes) -> float:
            times = []
            for _ in range(ECHOES):
                started = time.perf_counter()
                await echo(payload, timeout=GREETING_S)
                times.append(time.perf_counter() - started)
            return min(times)

        return link_speed(await fastest(b""), await fastest(bytes(ECHO_BYTES)))


def link_speed(empty_s: float, full_s: float) -> LinkSpeed:
    """Return a link's speed from the seconds of its fastest round trips: without payload, and with ECHO_BYTES one way.

    On a busy machine the empty round trip may take as long as the full one, and their difference says nothing. So at
    least half of the full one's time is counted, and the rate is at most twice the observed one.
    """
    return LinkSpeed(latency_s=empty_s / 2, bytes_per_s=ECHO_BYTES / max(full_s - empty_s, full_s / 2))


async def _resolved(addresses: Sequence[str]) -> list[str]:
    """Return addresses with names replaced by IP addresses by the system's resolver; gRPC does not resolve `.local`.

    Raises:
        OSError: a name is unknown.
    """
    found = []
    for host, port in map(split, addresses):
        ips = [host] if is_ip(host) else await asyncio.to_thread(resolve, host)
        found += [join(ip, port) for ip in ips]
    return found[:MAX_ADDRESSES]
