"""Diagnosis: what nodes tell each other about themselves when a person looks for a fault.

Any member may ask. Nothing is computed for an answer, and its size is bounded.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from cluster import log_files
from cluster.daemon.state import NodeState
from cluster.errors import NodeLostError
from cluster.home import VARIABLE, Home
from cluster.redaction import Redaction
from cluster.rpc_errors import translated
from cluster.software import versions
from cluster.wire import node_pb2 as pb
from cluster.wire.node_pb2_grpc import NodeStub

ASK_S = 2.0


def about(node_id: str) -> pb.AboutNode:
    """Return what this node tells about itself."""
    return pb.AboutNode(node_id=node_id, clock_s=time.time(), versions=versions())


async def ask_about(stub: NodeStub) -> pb.AboutNode:
    """Return what another node tells, and how far its clock is ahead: it was read between request and reply."""
    began_s, began = time.time(), time.monotonic()
    told: pb.AboutNode = await stub.About(pb.AboutRequest(), timeout=ASK_S)
    took_s = time.monotonic() - began
    told.ahead_s = told.clock_s - (began_s + took_s / 2)
    told.ahead_error_s = took_s / 2
    return told


async def read_log(home: Home, request: pb.ReadLogRequest) -> pb.LogLines:
    """Return lines of this node's logs for another node. Raises InvalidRequestError for an invalid cursor."""
    return await asyncio.to_thread(_read, home, request)


async def ask_log(state: NodeState, node_id: str, stub: NodeStub, request: pb.ReadLogRequest) -> pb.LogLines:
    """Return lines of another node's logs. Raises NodeLostError."""
    with translated(f"node {state.name(node_id)}", node_id):
        lines: pb.LogLines = await stub.ReadLog(request, timeout=ASK_S)
        return lines


def node_named(state: NodeState, name: str) -> str:
    """Return the id of the present node with a shown name or id. Raises NodeLostError if there is none."""
    here = {node_id: state.name(node_id) for node_id in (state.own.node_id, *state.present)}
    for node_id, shown in here.items():
        if name in (node_id, shown):
            return node_id
    raise NodeLostError(f"node {name[:80]!r} is not here; present are {', '.join(sorted(here.values()))}")


def _read(home: Home, request: pb.ReadLogRequest) -> pb.LogLines:
    if request.cursor:
        lines, cursor = log_files.following(home.logs, log_files.Cursor.parse(request.cursor))
    else:
        lines, cursor = log_files.last(home.logs, request.lines)
    redaction = Redaction({str(home.path): f"${VARIABLE}", str(Path.home()): "~"}, psutil.Process().username())
    return pb.LogLines(lines=[redaction.text(line) for line in lines], cursor=str(cursor))
