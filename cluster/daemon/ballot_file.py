"""Ballot file: what this node has granted, on its disk: a node that was restarted grants no epoch twice."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from cluster.errors import ClusterError
from cluster.membership.ballot import Ballot
from cluster.membership.ballot_message import from_message, to_message
from cluster.trust import private_file
from cluster.wire import node_pb2 as pb


def read(path: Path) -> Ballot:
    """Read a ballot from a file; a new one if there is none. Raises ClusterError if it cannot be read."""
    try:
        return from_message(json_format.Parse(path.read_text(), pb.Ballot()))
    except FileNotFoundError:
        return Ballot()
    except (OSError, ValueError, json_format.ParseError, ClusterError) as exc:
        raise ClusterError(
            f"{path}, which says whom this node allowed to serve a model, cannot be read ({exc}); if no other node of "
            f"the cluster serves one now, delete it: rm {path}"
        ) from exc


def write(path: Path, ballot: Ballot) -> None:
    """Write a ballot to a file. Raises ClusterError if the disk cannot be written."""
    private_file.write(path, json_format.MessageToJson(to_message(ballot)).encode())
