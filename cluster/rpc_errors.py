"""Errors over gRPC: the project's own travel with their code and come out as they went in; gRPC's are translated.

`cluster.rpc_words` has the words for what gRPC says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import grpc

from cluster.errors import NodeLostError, PlacementError, TrustError
from cluster.printable import MAX_ERROR, printable
from cluster.rpc_words import TOO_LARGE, in_words
from mlx_moe.errors import (
    CheckpointError,
    InsufficientMemoryError,
    InvalidRequestError,
    MoeClusterError,
    TooLargeError,
)

_CODE_KEY = "moe-cluster-code"
_ABOUT_KEYS = {
    "node_id": "moe-cluster-node-id",
    "sequence_id": "moe-cluster-sequence-id",
    "request_id": "moe-cluster-request-id",
}
"""Metadata that carries what an error is about, by its attribute."""


_STATUS: tuple[tuple[type[MoeClusterError], grpc.StatusCode], ...] = (
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (CheckpointError, grpc.StatusCode.FAILED_PRECONDITION),
    (PlacementError, grpc.StatusCode.FAILED_PRECONDITION),
    (TooLargeError, grpc.StatusCode.INVALID_ARGUMENT),
    (InsufficientMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TrustError, grpc.StatusCode.PERMISSION_DENIED),
    (NodeLostError, grpc.StatusCode.UNAVAILABLE),
)


@asynccontextmanager
async def reported(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Serve a call: what fails in the block is what the caller's `translated` raises."""
    try:
        yield
    except MoeClusterError as error:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), grpc.StatusCode.ABORTED)
        about = ((key, vars(error)[name]) for name, key in _ABOUT_KEYS.items())
        metadata = ((_CODE_KEY, error.code), *((key, value) for key, value in about if value is not None))
        await context.abort(status, str(error)[:MAX_ERROR], metadata)


@contextmanager
def translated(callee: str, node_id: str | None = None) -> Iterator[None]:
    """Make a call: a failure of it is raised as what `reported` caught, or as NodeLostError that names `callee`."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error, callee, node_id) from error


def error_of(error: grpc.RpcError, callee: str, node_id: str | None = None) -> MoeClusterError:
    """Return the failure of a call to a node."""
    details = details_of(error)
    metadata = dict(cast("Iterable[tuple[str, str]]", error.trailing_metadata() or ()))
    code = metadata.get(_CODE_KEY)
    if code is None and TOO_LARGE in (error.details() or ""):
        return InvalidRequestError(f"{callee} does not read so large a request: shorten it ({error.details()})")
    if code is None:
        return NodeLostError(f"{callee} does not answer: {details}", node_id=node_id)
    return error_named(code, details, **{name: metadata.get(key) for name, key in _ABOUT_KEYS.items()})


def is_reported(error: grpc.RpcError) -> bool:
    """Whether a failure was reported by the node that was called; else the node did not answer."""
    return _CODE_KEY in dict(cast("Iterable[tuple[str, str]]", error.trailing_metadata() or ()))


def details_of(error: grpc.RpcError) -> str:
    """Return why a call failed: what its callee reported, or what gRPC says, in words for a person."""
    details = printable(error.details() or error.code().name, MAX_ERROR)
    return details if is_reported(error) else in_words(details)


def error_named(code: str, message: str, **about: str | None) -> MoeClusterError:
    """Return the error of a code that was sent from elsewhere; `about` has its ids, as MoeClusterError takes them."""
    kinds = {kind.code: kind for kind in _descendants(MoeClusterError)}
    return kinds.get(code, MoeClusterError)(message, **about)


def _descendants(kind: type[MoeClusterError]) -> Iterator[type[MoeClusterError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descendants(child)
