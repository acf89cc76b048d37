"""Sources of a node: where it reads what an outline's directory lacks: nodes with a copy, and the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.trust.credentials import Credentials
from cluster.weights.peer_source import PeerSource, PeerSources
from cluster.wire import worker_pb2 as pb
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.source import WeightSource


def sources_of(
    directory: Path, peers: Sequence[pb.WeightPeer], content_hash: str, credentials: Credentials
) -> list[WeightSource]:
    """Return the sources in order: nodes with a whole copy, then the hub that the directory's origin.json names."""
    found: list[WeightSource] = []
    if peers:
        found.append(PeerSources([PeerSource(credentials, peer, content_hash) for peer in peers]))
    origin = Origin.of(directory)
    if origin.repo_id:
        from mlx_moe.checkpoint.hub_source import HubSource  # its import takes half a second

        found.append(HubSource(origin))
    return found
