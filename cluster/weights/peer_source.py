"""PeerSource: a source of weights that reads another node's copy; PeerSources spreads reads over several."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import grpc

from cluster.rpc_errors import error_of
from cluster.trust.credentials import Credentials, max_message
from cluster.weights.pacer import CHUNK_BYTES
from cluster.weights.weights_service import MAX_RANGES, READ_METHOD
from cluster.wire import node_pb2 as pb
from cluster.wire import worker_pb2
from mlx_moe.checkpoint.source import SourceError

OPTIONS = max_message(2 * CHUNK_BYTES)

LEAST_S = 60.0
SLOWEST_BYTES_PER_S = 1e6
"""A read may take LEAST_S and its bytes at this rate. A node that is lost is detected earlier, by its pings."""


class PeerSource:
    """A node's whole copy of a content."""

    def __init__(self, credentials: Credentials, peer: worker_pb2.WeightPeer, content_hash: str) -> None:
        self.name = peer.name
        self.outstanding_bytes = 0
        self._node_id = peer.node_id
        self._content_hash = content_hash
        self._channel = credentials.channel(peer.target, peer.node_id, OPTIONS)
        self._read: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(READ_METHOD)

    def present(self, file: str, span: range) -> list[range]:  # noqa: ARG002
        """Return the whole span: the copy is whole."""
        return [span] if span else []

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        done = 0
        for first in range(0, len(ranges), MAX_RANGES):
            asked = ranges[first : first + MAX_RANGES]
            nbytes = sum(map(len, asked))
            self._read_ranges(file, asked, memory[done : done + nbytes])
            done += nbytes

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _read_ranges(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        request = pb.ReadWeights(
            content_hash=self._content_hash,
            file=file,
            starts=[span.start for span in ranges],
            sizes=[len(span) for span in ranges],
        )
        done = 0
        try:
            timeout_s = LEAST_S + memory.nbytes / SLOWEST_BYTES_PER_S
            for data in self._read(request.SerializeToString(), timeout=timeout_s):
                memory[done : done + len(data)] = data
                done += len(data)
        except (grpc.RpcError, ValueError) as exc:
            reason = error_of(exc, f"node {self.name}") if isinstance(exc, grpc.RpcError) else exc
            raise SourceError(f"{file} from node {self.name}: {reason}", node_id=self._node_id) from exc
        if done < memory.nbytes:
            raise SourceError(
                f"{file} from node {self.name}: {done} of {memory.nbytes} bytes arrived", node_id=self._node_id
            )


class PeerSources:
    """Several nodes with whole copies. Each read goes to the one with the fewest outstanding bytes.

    A node that fails is not asked again.
    """

    def __init__(self, peers: Sequence[PeerSource]) -> None:
        self._peers = list(peers)
        self._choosing = threading.Lock()

    @property
    def name(self) -> str:
        """The names of the nodes that have not failed."""
        return ", ".join(peer.name for peer in self._peers)

    def present(self, file: str, span: range) -> list[range]:
        """Return the whole span while there is a node."""
        return self._peers[0].present(file, span) if self._peers else []

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        error = SourceError(f"no node with a copy is left for {file}")
        while (peer := self._choose(memory.nbytes)) is not None:
            try:
                return peer.read_into(file, ranges, memory)
            except SourceError as exc:
                error = exc
                with self._choosing:
                    if peer in self._peers:
                        self._peers.remove(peer)
                peer.close()
            finally:
                with self._choosing:
                    peer.outstanding_bytes -= memory.nbytes
        raise error

    def close(self) -> None:
        """Close all channels."""
        for peer in self._peers:
            peer.close()

    def _choose(self, nbytes: int) -> PeerSource | None:
        with self._choosing:
            peer = min(self._peers, key=lambda p: p.outstanding_bytes, default=None)
            if peer is not None:
                peer.outstanding_bytes += nbytes
            return peer
