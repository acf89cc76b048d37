"""Keeping: the cluster's authority on the nodes that keep it, so that the death of one of them stops nothing.

The first node makes it. The keeper that is first in their common list gives copies, over mutual TLS, to nodes that
joined with a token that was not for guests, until there are KEEPERS. All keepers open an enrolment port, and tell each
other which tokens they made and who used them. A keeper may certify anybody, and cannot be made to forget the key: who
is not trusted with that gets a guest's token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack

import grpc

from cluster.daemon.authority_message import copy_message, issued_from
from cluster.daemon.channels import Channels
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, TrustError
from cluster.home import Home
from cluster.rpc_errors import details_of
from cluster.trust import Authority, Issued, Removal, TokenStore, enrolment
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc

log = logging.getLogger(__name__)

KEEPERS = 3
"""With the first node: any one may die, and while it is gone, another one."""

CHECK_S = 0.5
CALL_S = 5.0

RETRY_S = 10.0
"""How long to wait before the enrolment port is tried again; another program may hold it."""


class Keeping:
    """This node's share in the authority: all of it, or none. `open_at` returns the addresses of an enrolment port."""

    def __init__(
        self,
        state: NodeState,
        channels: Channels,
        home: Home,
        authority: Authority | None,
        authority_key_hash: str,
        open_at: Callable[[], Sequence[str]],
    ) -> None:
        self._state = state
        self._channels = channels
        self._home = home
        self.authority = authority
        self._key_hash = authority_key_hash
        self._tokens = TokenStore(home.tokens, authority_key_hash)
        self._open_at = open_at
        self._port = AsyncExitStack()
        self._try_at = 0.0
        self._told: dict[str, tuple[int, Issued]] = {}

    async def __aenter__(self) -> Keeping:
        """Open the enrolment port, if this node keeps the authority already. Raises ClusterError if it is taken."""
        if self.authority is not None:
            await self._open(self.authority)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the port."""
        await self._port.aclose()

    async def run(self) -> None:
        """Keep the other keepers informed, until cancelled."""
        while True:
            if self.authority is not None:
                try:
                    await self._open_if_possible(self.authority)
                    await self._share(self.authority)
                except ClusterError as exc:
                    log.error("event=keeping_failed error=%s", exc)
                    await asyncio.sleep(RETRY_S)
            await asyncio.sleep(CHECK_S)

    async def receive(self, copy: pb.AuthorityCopy) -> pb.AuthorityCopy:
        """Take a copy of the authority, and what another keeper knows; return what this one knows then.

        Raises:
            TrustError: it is not this cluster's authority: only who has its key is a keeper.
        """
        try:
            received = Authority.read(copy.authority)
        except ValueError as exc:
            raise TrustError(f"a copy of an authority that cannot be read: {exc}") from exc
        if received.key_hash != self._key_hash:
            raise TrustError("a copy of the authority of another cluster")
        if self.authority is None:
            await asyncio.to_thread(received.keep, self._home.authority)
            self.authority = received
            log.info("event=keeps_authority")
        return copy_message(await asyncio.to_thread(self._tokens.merge, issued_from(copy)))

    def remove(self, node_id: str, name: str) -> Removal:
        """Remove a node from the cluster. Raises ClusterError if this node does not keep the authority."""
        if self._state.removed is None:
            raise ClusterError("an insecure cluster has no certificates that could be refused: nobody can be removed")
        if self.authority is None:
            raise ClusterError(
                f"only a node that keeps the cluster's authority can remove nodes: {self._keepers_words()}"
            )
        removal = self.authority.remove(node_id, name)
        self._state.hear_removals([removal])
        self._channels.forget(node_id)
        log.warning("event=removed node=%s name=%s", node_id, name)
        return removal

    async def was_keeper(self, node_id: str) -> bool:
        """Whether a node has ever kept the authority."""
        return node_id in (await asyncio.to_thread(lambda: self._tokens.issued)).keepers

    async def _open_if_possible(self, authority: Authority) -> None:
        """Open the enrolment port of a node that has become a keeper; try again later if another program holds it."""
        if self._state.keeps_authority or time.monotonic() < self._try_at:
            return
        try:
            await self._open(authority)
        except ClusterError as exc:
            self._try_at = time.monotonic() + RETRY_S
            log.warning("event=no_enrolment_port error=%s", exc)

    async def _open(self, authority: Authority) -> None:
        removed = self._state.removed
        assert removed is not None  # only an insecure cluster has no list, and no authority
        served = enrolment.serve(authority, self._tokens, removed, self._open_at())
        await self._port.enter_async_context(served)
        self._state.keeps_authority = True

    async def _share(self, authority: Authority) -> None:
        """Choose further keepers, and tell those that are here what changed here since they were told."""
        own, present = self._state.own.node_id, self._state.present
        issued = await asyncio.to_thread(lambda: self._tokens.issued)
        removed = self._state.membership.removed
        chosen = [own] if own not in issued.keepers else next_keepers(issued, removed, present, own)
        if chosen:
            issued = await asyncio.to_thread(self._tokens.merge, Issued(keepers=tuple(chosen)))
        for node_id in issued.keepers:
            if node_id == own or node_id not in present or node_id in removed:
                continue
            told = present[node_id].info.incarnation, issued
            if self._told.get(node_id) != told and await self._tell(node_id, authority, issued):
                self._told[node_id] = told

    async def _tell(self, node_id: str, authority: Authority, issued: Issued) -> bool:
        """Tell another keeper what this one knows, and merge what it knows; return whether it was heard."""
        stub = node_pb2_grpc.NodeStub(self._channels.get(node_id, self._state.target(node_id)))
        try:
            reply = await stub.KeepAuthority(copy_message(issued, authority.pem), timeout=CALL_S)
            await asyncio.to_thread(self._tokens.merge, issued_from(reply))
        except (grpc.RpcError, ClusterError) as exc:
            reason = details_of(exc) if isinstance(exc, grpc.RpcError) else exc
            log.debug("event=keeper_not_told node=%s error=%s", node_id, reason)
            return False
        return True

    def _keepers_words(self) -> str:
        names = sorted(self._state.name(node_id) for node_id in self._state.keepers)
        return f"type it on {' or '.join(names)}" if names else "none of them is here"


def next_keepers(issued: Issued, removed: Collection[str], present: Collection[str], own: str) -> list[str]:
    """Return the nodes that become keepers now: chosen by the first keeper that is here, among nodes that are here."""
    keepers = [node_id for node_id in issued.keepers if node_id not in removed]
    here = [node_id for node_id in keepers if node_id == own or node_id in present]
    if here[:1] != [own]:
        return []
    may = [i for i in issued.trusted if i in present and i not in keepers and i not in removed]
    return may[: max(0, KEEPERS - len(keepers))]
