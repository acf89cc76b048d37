"""Inspection: checks, before anything is loaded, that no node of a placement has another copy of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

from cluster.daemon.copies import Copy, from_digests, home_path
from cluster.daemon.state import NodeState
from cluster.errors import NodeLostError
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe.errors import CheckpointError
from mlx_moe.manifest import differences

INSPECT_S = 300.0
"""Reading samples of the largest checkpoint takes seconds, or minutes from a slow disk."""

ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class _Found:
    """The copy that a node reports."""

    node_id: str
    copy: pb.ModelCopy


class Inspection:
    """An inspection for this node's copy of a model. `stub` returns the gRPC stub of a node."""

    def __init__(self, state: NodeState, stub: Callable[[str], node_pb2_grpc.NodeStub], model: str, own: Copy) -> None:
        self._state = state
        self._stub = stub
        self._model = model
        self._own = own

    async def holders(self, node_ids: Sequence[str], content_hash: str) -> list[str]:
        """Return which nodes have whole copies with a content, also nodes without a part if one of `node_ids` has none.

        Raises:
            CheckpointError: a node has another content, and no copy with this one; the message names the first tensor
                in which two copies differ.
            NodeLostError: a node does not answer.
        """
        wanted = pb.WantedModel(
            model=self._model,
            home_path=home_path(self._own.directory),
            content_hash=content_hash,
            config_hash=self._own.config_hash,
        )
        found = await asyncio.gather(*(self._ask(node_id, wanted) for node_id in node_ids))
        own = _Found(self._state.own.node_id, self._own.to_message())
        same = {f.node_id: f for f in (*found, own) if f.copy.content_hash == content_hash}
        if not same:
            raise CheckpointError(
                f"the plan is for another {self._model}, with the content {content_hash}; {self._have([own])} "
                f"{own.copy.content_hash} in {own.copy.path}: make the plan again with `moe-cluster plan --json`, "
                f"or give the nodes the files that it was made for"
            )
        if others := [f for f in found if f.copy.content_hash not in ("", content_hash)]:
            raise await self._difference(next(iter(same.values())), others)
        whole = [node_id for node_id, f in same.items() if not f.copy.is_outline]
        if set(node_ids) <= set(whole):
            return whole
        return whole + await self._others(set(self._state.present) - {*node_ids, *whole}, wanted)

    async def _others(self, node_ids: Collection[str], wanted: pb.WantedModel) -> list[str]:
        """Return which nodes without a part have whole copies too; of those that do not answer, none."""
        found = []
        for node_id in node_ids:
            with suppress(CheckpointError, NodeLostError):
                found.append(await self._ask(node_id, wanted))
        same = [f for f in found if f.copy.content_hash == wanted.content_hash and not f.copy.is_outline]
        return [f.node_id for f in same]

    async def _ask(self, node_id: str, wanted: pb.WantedModel) -> _Found:
        if node_id == self._state.own.node_id and wanted.content_hash == self._own.content_hash:
            return _Found(node_id, self._own.to_message())
        node = f"node {self._state.name(node_id)}"
        try:
            with translated(node):
                return _Found(node_id, await self._stub(node_id).Inspect(wanted, timeout=INSPECT_S))
        except CheckpointError as error:
            raise type(error)(f"{node}: {error}") from error

    async def _difference(self, one: _Found, others: Sequence[_Found]) -> CheckpointError:
        """Return the error that names the first difference between a copy and the first one of `others`."""
        other = others[0]
        digests = await asyncio.gather(self._digests(one), self._digests(other))
        name, *more = differences(*map(dict, digests))  # not empty: their contents are made of them
        tensors = await asyncio.gather(self._digests(one, name), self._digests(other, name))
        pairs = zip_longest(*tensors, fillvalue=(name, ABSENT))
        # A field of config.json has no tensors; those of a parameter are equal if a copy has changed since.
        same = [(name, dict(found).get(name, ABSENT)) for found in digests]
        of_one, of_other = next((pair for pair in pairs if pair[0][1] != pair[1][1]), same)
        return CheckpointError(
            f"{self._have(others)} another {self._model} than {self._state.name(one.node_id)}. "
            f"The first difference is {name}{f' (and {len(more)} more)' if more else ''}: "
            f"{self._told(one, *of_one)}, {self._told(other, *of_other)}. "
            f"Their contents are {one.copy.content_hash} and {other.copy.content_hash}; give all nodes the same files"
        )

    def _told(self, found: _Found, name: str, digest: str) -> str:
        return f"{name} is {digest} in {found.copy.path} on {self._state.name(found.node_id)}"

    async def _digests(self, found: _Found, parameter: str = "") -> list[tuple[str, str]]:
        asked = pb.ModelPart(content_hash=found.copy.content_hash, parameter=parameter)
        with translated(f"node {self._state.name(found.node_id)}"):
            return from_digests(await self._stub(found.node_id).InspectPart(asked, timeout=INSPECT_S))

    def _have(self, found: Sequence[_Found]) -> str:
        return f"{self._names([f.node_id for f in found])} {'have' if len(found) > 1 else 'has'}"

    def _names(self, node_ids: Sequence[str]) -> str:
        *first, last = sorted(self._state.name(node_id) for node_id in node_ids)
        return f"{', '.join(first)} and {last}" if first else last
