"""Loading: reads byte ranges of a checkpoint into arrays in MLX memory.

Only the tensors of a shard are read, directly into the arrays that keep them: peak memory is the shard and one tensor.
What must be decoded or quantized is read a few rows at a time: peak memory is the shard and one matrix as it is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import islice
from threading import Semaphore
from types import TracebackType
from typing import cast

import mlx.core as mx

from mlx_moe import memory
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.decoded import in_memory
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.form import StoredArray
from mlx_moe.checkpoint.held import Arrays, Held, release
from mlx_moe.checkpoint.pages import populate
from mlx_moe.checkpoint.stored_parameter import Origin, StoredParameter, stored_dtype
from mlx_moe.errors import MoeClusterError
from mlx_moe.layers.weights import DenseWeight, LoadedParameters, LoadedWeight, QuantizedWeight, Weight

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read."""

_MX_FLOATS = {Dtype.F32: mx.float32, Dtype.F16: mx.float16, Dtype.BF16: mx.bfloat16}

RELEASE_S = 1.0
"""How long to wait until MLX's threads have released the files that they have read."""


def compute_dtype(stored: Iterable[StoredParameter]) -> mx.Dtype:
    """Return the dtype in which a checkpoint is computed on this machine."""
    return memory.compute_dtype(_MX_FLOATS[stored_dtype(stored)])


def load(
    checkpoint: Checkpoint,
    stored: Sequence[StoredParameter],
    dtype: mx.Dtype,
    progress: Progress | None = None,
    held: Held | None = None,
) -> LoadedParameters:
    """Read parameters into memory, decode and quantize them, and cast floats to `dtype` (or float32: see Parameter).

    `held` has the arrays of the same files that are in memory already; they are not read again. Unneeded ones are freed
    before anything is read, and changed stacks are built one by one, shrinking ones first. So the peak is the larger of
    the old and the new arrays, plus one stack with its missing matrices. Afterwards `held` has all loaded arrays.

    Raises:
        CheckpointError: a file cannot be read, changed since its header was checked, or has numbers that are not finite
            where they are decoded or quantized.
    """
    held = {} if held is None else held
    dtypes = {s.origin: mx.float32 if s.parameter.float32 else dtype for s in stored}
    restacked = release(held, dtypes)
    grown = {r.missing: r for r in restacked if r.missing is not None}
    for r in restacked:
        if r.missing is None:
            held[r.wanted] = r.stack(held.pop(r.source), None)
    lacking = dtypes.keys() - held.keys() - {r.wanted for r in restacked}
    reads = [(missing, dtypes[r.wanted]) for missing, r in grown.items()]
    reads += [(origin, kept) for origin, kept in dtypes.items() if origin in lacking]
    for (origin, _), arrays in zip(reads, read(checkpoint, reads, progress), strict=True):
        if (stack := grown.get(origin)) is not None:
            held[stack.wanted] = stack.stack(held.pop(stack.source), arrays)
        else:
            held[origin] = arrays
    return _parameters(stored, held)


def _parameters(stored: Sequence[StoredParameter], held: Held) -> LoadedParameters:
    """Return loaded parameters by name."""
    weights: dict[str, LoadedWeight] = {}
    vectors: dict[str, mx.array] = {}
    for s in stored:
        array, *others = held[s.origin]
        if not s.parameter.matrix:
            vectors[s.parameter.name] = array
            continue
        weight: Weight = DenseWeight(array)
        if s.quantization is not None:
            scales, biases = (*others, None)[:2]
            assert scales is not None  # every quantization has scales
            weight = QuantizedWeight(array, scales, biases, s.quantization)
        weights[s.parameter.name] = LoadedWeight(weight, s.transposed, s.origin.layout.alternating)
    return LoadedParameters(weights, vectors)


def read(
    checkpoint: Checkpoint, wanted: Sequence[tuple[Origin, mx.Dtype]], progress: Progress | None = None
) -> Iterator[Arrays]:
    """Yield the arrays of origins, with floats of a dtype, in order. A few arrays are read ahead.

    What is derived exists twice, and once more as floats, a cut at a time. Raises as `load`.
    """

    def reads() -> Iterator[StoredArray]:
        return (array for origin, _ in wanted for cut in origin.cut() for array in cut.arrays)

    with _Reader(checkpoint, sum(array.nbytes for array in reads()), progress) as reader:
        stored = reader.read(reads())
        for origin, dtype in wanted:
            cuts: list[Arrays] = []
            for cut in origin.cut():
                cuts.append(in_memory(checkpoint, cut, list(islice(stored, len(cut.arrays))), dtype))
                mx.eval(cuts[-1])
            yield _joined(cuts, origin.layout.shape[:-1])


def _joined(cuts: list[Arrays], rows: tuple[int, ...]) -> Arrays:
    """Return arrays with the rows of all cuts in order. An array's cuts are freed before the next one is joined."""
    if len(cuts) == 1:
        return tuple(array.reshape(*rows, -1) for array in cuts[0])
    columns = [list(column) for column in zip(*cuts, strict=True)]
    cuts.clear()
    arrays = []
    while columns:
        arrays.append(mx.concatenate(columns.pop(0)).reshape(*rows, -1))
        mx.eval(arrays[-1])
    return tuple(arrays)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Return the threads that read, the same for all loads: MLX keeps a thread of its own for each that computed."""
    return ThreadPoolExecutor(count, thread_name_prefix="read")


class _Reader:
    """Reads arrays from a checkpoint, several at a time.

    MLX allocates an array's memory and lets a file object fill it, so that the memory is written once. Allocating an
    array of zeros first would take half as long as reading files that the system has cached (page faults). `mx.load` of
    a file object returns when the array is full; it is called in threads, so that several arrays are read concurrently.
    """

    AT_ONCE = 4

    def __init__(self, checkpoint: Checkpoint, total_bytes: int, progress: Progress | None) -> None:
        self._checkpoint = checkpoint
        self._total_bytes = total_bytes
        self._progress = progress
        self._done_bytes = 0
        self._released = Semaphore(0)
        self._n_files = 0

    def read(self, wanted: Iterable[StoredArray]) -> Iterator[mx.array]:
        """Yield arrays in order."""
        reading: deque[Future[mx.array]] = deque()
        try:
            for stored in wanted:
                reading.append(_threads(self.AT_ONCE).submit(self._filled, self._file(stored)))
                if len(reading) > self.AT_ONCE:
                    yield self._settled(reading.popleft())
            while reading:
                yield self._settled(reading.popleft())
        finally:
            wait([future for future in reading if not future.cancel()])

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ends_at = time.monotonic() + RELEASE_S
        for _ in range(self._n_files):  # MLX's threads release files late; if the process exits before, it aborts
            self._released.acquire(timeout=max(0.0, ends_at - time.monotonic()))

    def _file(self, stored: StoredArray) -> _ArrayFile:
        self._n_files += 1
        return _ArrayFile(self._checkpoint, stored, self._released)

    @staticmethod
    def _filled(file: _ArrayFile) -> mx.array:
        array = cast(dict[str, mx.array], mx.load(file, format="safetensors"))[_ArrayFile.NAME]  # type: ignore[arg-type]
        mx.eval(array)
        if file.error is not None:
            raise file.error
        return array

    def _settled(self, reading: Future[mx.array]) -> mx.array:
        array = reading.result()
        self._done_bytes += array.nbytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
        return array


class _ArrayFile:
    """A file object that looks like a safetensors file of one array; its data are pieces of a checkpoint.

    MLX reads it in a thread of its own.
    """

    NAME = "array"

    def __init__(self, checkpoint: Checkpoint, stored: StoredArray, released: Semaphore) -> None:
        entry = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": (0, stored.nbytes)}
        header = json.dumps({self.NAME: entry}).encode()
        self._header = len(header).to_bytes(8, "little") + header
        self._checkpoint = checkpoint
        self._stored = stored
        self._released = released
        self._position = 0
        self.closed = False
        self.error: MoeClusterError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it."""
        end = len(self._header) + self._stored.nbytes
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, memory: memoryview) -> int:
        """Fill memory with a part of the header or with the whole array. MLX ignores exceptions: see `error`."""
        start, end = self._position, self._position + memory.nbytes
        if end <= len(self._header):
            memory.cast("B")[:] = self._header[start:end]
        else:
            try:
                populate(memory)
                self._checkpoint.read_into(self._stored.pieces, memory)
            except MoeClusterError as error:
                self.error = error
        self._position = end
        return memory.nbytes

    def __del__(self) -> None:
        self._released.release()
