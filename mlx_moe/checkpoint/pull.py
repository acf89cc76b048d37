"""Pull: fetches ranges of weight files from a source into a share, several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Lock

from mlx_moe.checkpoint.byte_ranges import ByteRanges
from mlx_moe.checkpoint.share import SYNC_S, Share
from mlx_moe.checkpoint.source import WeightSource

CHUNK_BYTES = 8 << 20
"""Most bytes of one read: what a kill loses of each stream."""

MAX_GAP_BYTES = 64 << 10
MAX_GAPS_SHARE = 0.05
"""Gaps between ranges are fetched too, rather than asked around, up to this size and this share of what is needed."""

STREAMS = 8


def missing_bytes(share: Share, wanted: Mapping[str, Sequence[range]]) -> int:
    """Return how many bytes of the wanted ranges, by file, a share lacks."""
    return sum(len(gap) for file, spans in wanted.items() for span in spans for gap in share.missing(file, span))


def pull(
    share: Share,
    source: WeightSource,
    wanted: Mapping[str, Sequence[range]],
    on_stored: Callable[[int], object] = lambda _: None,
    streams: int = STREAMS,
) -> None:
    """Fetch what a share lacks of ranges of files, and record it. `on_stored` gets the bytes of each stored chunk.

    What was stored before an error, or a kill, is kept.

    Raises:
        CheckpointError: another process writes this share, or the disk has no room.
        SourceError: the source does not deliver.
    """
    share.begin()
    share.require_room(missing_bytes(share, wanted))

    def fetch(file: str, chunk: range) -> None:
        memory = memoryview(bytearray(len(chunk)))
        source.read_into(file, [chunk], memory)
        share.write(file, chunk.start, memory)
        on_stored(len(chunk))

    with ThreadPoolExecutor(streams, thread_name_prefix="pull") as threads:
        fetched = [threads.submit(fetch, file, chunk) for file, chunk in _chunks(share, wanted)]
        try:
            left = set(fetched)
            while left:
                done, left = wait(left, SYNC_S, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                share.sync()  # slow streams write too seldom for the share's own rule
        finally:
            threads.shutdown(cancel_futures=True)
            share.sync()


def counted(progress: Callable[[int, int], None], total_bytes: int) -> Callable[[int], None]:
    """Return an `on_stored` that calls `progress` with the bytes that are stored so far, and the total."""
    done_bytes, counting = 0, Lock()

    def on_stored(nbytes: int) -> None:
        nonlocal done_bytes
        with counting:
            done_bytes = min(done_bytes + nbytes, total_bytes)  # gaps that are fetched too are not counted
            progress(done_bytes, total_bytes)

    return on_stored


def _chunks(share: Share, wanted: Mapping[str, Sequence[range]]) -> list[tuple[str, range]]:
    """Return what to fetch, in pieces of CHUNK_BYTES, in the order of the files and their bytes."""
    chunks = []
    for file, spans in sorted(wanted.items()):
        gaps = ByteRanges(gap for span in spans for gap in share.missing(file, span))
        gaps.bridge(MAX_GAP_BYTES, int(MAX_GAPS_SHARE * gaps.nbytes))
        chunks += [(file, gap[i : i + CHUNK_BYTES]) for gap in gaps for i in range(0, len(gap), CHUNK_BYTES)]
    return chunks
