"""Read bytes: how many bytes of weights a worker has read from its disk, from other nodes, and from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from cluster.weights.peer_source import PeerSources
from mlx_moe.checkpoint.source import WeightSource


class ReadBytes:
    """Counts over all loads of a worker."""

    def __init__(self) -> None:
        self.disk = self.peers = self.hub = 0
        self._last = ("", 0)
        self._elsewhere_before = 0
        self._counting = Lock()

    def counting(self, sources: Sequence[WeightSource]) -> list[WeightSource]:
        """Return sources that are counted here."""
        return [_Counted(source, self) for source in sources]

    def progress(self, source: str, total_bytes: int) -> None:
        """Note where the bytes come from that are loaded now ("": only from the disk)."""
        self._last = source, total_bytes

    def loaded(self) -> None:
        """Count what the load that has ended read from the disk."""
        source, total_bytes = self._last
        elsewhere = self.peers + self.hub
        self.disk += max(0, total_bytes - (elsewhere - self._elsewhere_before if source else 0))
        self._last, self._elsewhere_before = ("", 0), elsewhere

    def add(self, nbytes: int, *, is_peer: bool) -> None:
        """Count bytes from elsewhere; any thread may."""
        with self._counting:
            if is_peer:
                self.peers += nbytes
            else:
                self.hub += nbytes


class _Counted:
    """A source whose bytes are counted."""

    def __init__(self, source: WeightSource, read_bytes: ReadBytes) -> None:
        self._source = source
        self._read_bytes = read_bytes
        self._is_peer = isinstance(source, PeerSources)

    @property
    def name(self) -> str:
        """See WeightSource."""
        return self._source.name

    def present(self, file: str, span: range) -> Sequence[range]:
        """See WeightSource."""
        return self._source.present(file, span)

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        self._source.read_into(file, ranges, memory)
        self._read_bytes.add(memory.nbytes, is_peer=self._is_peer)

    def close(self) -> None:
        """See WeightSource."""
        self._source.close()
