"""HubSource: reads byte ranges of the weight files of a commit on the hub, over HTTP.

The hub answers with a redirect to a signed address of its storage, which is asked for again when it has expired. What
fails for a moment is repeated from where it stopped. Only the size of an answer can be checked here, not its content:
that needs the SHA-256 of a whole file (`PartialFile.finish`) or the checkpoint's content hash.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from mlx_moe.checkpoint import hub_cache, hub_errors, hub_retry
from mlx_moe.checkpoint.byte_ranges import ByteRanges
from mlx_moe.checkpoint.hub_retry import MomentaryError, Patience, Tries
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.source import SourceError

MAX_GAP_BYTES = 64 << 10
MAX_GAPS_SHARE = 0.05
"""Gaps between ranges are fetched too, rather than asked around, up to this size and this share of what is needed."""

REQUEST_BYTES = 32 << 20
"""Most bytes of a request. Larger ranges are fetched by several requests at once."""

EXPIRED = frozenset({400, 401, 403, 404, 410})
"""Statuses with which storage answers to an address whose signature has expired."""

LIBRARY_NAME = "moe-cluster"

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


@dataclass(frozen=True, slots=True)
class Request:
    """A span of a file to fetch, and the parts of memory that it fills, in order of their ranges."""

    span: range
    targets: Sequence[tuple[range, memoryview]]

    def receive(self, offset: int, data: bytes) -> None:
        """Copy received bytes to where they are needed."""
        for span, memory in self.targets:
            start, stop = max(span.start, offset), min(span.stop, offset + len(data))
            if start < stop:
                memory[start - span.start : stop - span.start] = data[start - offset : stop - offset]


class HubSource:
    """The weight files of a commit, as a source. Several threads may read at the same time.

    `on_received` is called, by any thread, with the number of bytes of each answer as it comes.
    """

    def __init__(
        self,
        origin: Origin,
        on_received: Callable[[int], object] = lambda _: None,
        patience: Patience = Patience(),  # noqa: B008 (a value)
        streams: int = 8,
    ) -> None:
        self._origin, self._on_received, self._patience = origin, on_received, patience
        self._endpoint = hub_cache.endpoint()
        self._host = urlsplit(self._endpoint).netloc
        self._locations: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="hub")
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        """The hub's host."""
        return self._host

    def present(self, file: str, span: range) -> list[range]:
        """Return the part of a span that is within the file's size."""
        if file not in self._origin.files:
            return []
        within = range(span.start, min(span.stop, self._origin.files[file].size))
        return [within] if within else []

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        planned = requests(ranges, memory)
        if len(planned) == 1:
            self._fetch(file, planned[0])
            return
        futures = [self._threads.submit(self._fetch, file, request) for request in planned]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # they write into the caller's memory

    def read(self, file: str, span: range) -> bytes:
        """Return the bytes of a span. Raises SourceError as `read_into`."""
        memory = bytearray(len(span))
        self.read_into(file, [span], memoryview(memory))
        return bytes(memory)

    def close(self) -> None:
        """End the waits between tries, and wait for the threads."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _fetch(self, file: str, request: Request) -> None:
        """Fetch a request, continued after each failure from where it stopped."""
        what = f"{self._origin.repo_id}: {self._host} does not deliver {file}"
        tries = Tries(what, self._patience, self._closed)
        at = request.span.start
        while at < request.span.stop:
            try:
                with hub_errors.translated(self._origin.repo_id, self._host):
                    for data in self._answer(file, range(at, request.span.stop)):
                        if self._closed.is_set():
                            raise SourceError(f"{self._origin.repo_id}: the download of {file} was stopped")
                        request.receive(at, data)
                        at += len(data)
                        self._on_received(len(data))
                        tries.progressed()
            except MomentaryError as error:
                tries.failed(error)

    def _answer(self, file: str, span: range) -> Iterator[bytes]:
        """Ask once for a span; yield what is received, in order: all of it, or less than that."""
        url = self._location(file)
        is_hub = _site(url) == _site(self._endpoint)
        headers = {
            **build_hf_headers(token=None if is_hub else False, library_name=LIBRARY_NAME),
            "Range": f"bytes={span.start}-{span.stop - 1}",
            "Accept-Encoding": "identity",
        }
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with hub_retry.momentary(), get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hub_retry.check_status(response)
            if response.status_code in EXPIRED and not is_hub:
                self._locations.pop(file, None)
                raise MomentaryError(f"its storage answers {response.status_code}")
            hf_raise_for_status(response)
            length = self._length(file, span, response)
            for data in response.iter_raw():
                if len(data) > length:
                    raise MomentaryError("it sends more than it says")
                length -= len(data)
                yield data
            if length:
                raise MomentaryError("the answer ended early")

    def _location(self, file: str) -> str:
        """Return the address of a file in the hub's storage."""
        if hub_cache.is_offline():
            raise OfflineModeIsEnabled
        location = self._locations.get(file)
        if location is None:
            url = hf_hub_url(self._origin.repo_id, file, revision=self._origin.commit, endpoint=self._endpoint)
            with hub_retry.momentary():
                metadata = get_hf_file_metadata(url, library_name=LIBRARY_NAME, endpoint=self._endpoint)
            location = self._locations[file] = metadata.location
        return location

    def _length(self, file: str, span: range, response: httpx2.Response) -> int:
        """Check which bytes an answer has; return how many of the span these are."""
        size = self._origin.files[file].size
        if response.status_code == 200 and span == range(size):
            return size
        content_range = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(content_range)
        if response.status_code != 206 or not match:
            raise MomentaryError(f"it answers {response.status_code} instead of a range")
        start, last, total = int(match[1]), int(match[2]), int(match[3])
        if total != size:
            raise SourceError(
                f"{self._origin.repo_id}: {file} has {total:,} bytes on {self._host}, but {size:,} in commit "
                f"{self._origin.commit}: pull the model again"
            )
        if start != span.start or not start <= last < span.stop:
            raise MomentaryError(f"it answers with the range {content_range[:80]!r}")
        return last + 1 - start


def requests(ranges: Sequence[range], memory: memoryview) -> list[Request]:
    """Plan requests for ranges, which fill memory in order: near ranges in one request, long ones in several."""
    starts = [0]
    for span in ranges:
        starts.append(starts[-1] + len(span))
    targets = sorted(
        ((span, memory[start : start + len(span)]) for span, start in zip(ranges, starts, strict=False) if span),
        key=lambda target: target[0].start,
    )
    joined = ByteRanges(ranges)
    joined.bridge(MAX_GAP_BYTES, int(MAX_GAPS_SHARE * memory.nbytes))
    return [
        Request(part, [target for target in targets if target[0].start < part.stop and part.start < target[0].stop])
        for span in joined
        for start in range(span.start, span.stop, REQUEST_BYTES)
        for part in [range(start, min(start + REQUEST_BYTES, span.stop))]
    ]


def _site(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
