"""Stage: a running shard. It runs frames in order and keeps each sequence's caches, one per layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx

from mlx_moe.errors import FrameError, MoeClusterError, NumericsError, RewindError
from mlx_moe.layers.cache import LayerCache, rewind_all
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.expert_load import Counts
from mlx_moe.layers.steps import Steps, finish
from mlx_moe.pipeline.frame import Frame, FrameKind, Refused, Returned
from mlx_moe.pipeline.shard import Shard

LONG_CHUNK = 32
"""From this many positions on, each layer is evaluated before the next is built: only its temporaries are alive."""


@dataclass(slots=True)
class StageCounts:
    """Counts of a stage since it was created. `decode_batches` has the number of decode steps by their sequences."""

    frames: int = 0
    positions: int = 0
    decode_batches: Counter[int] = field(default_factory=Counter)

    def add(self, *frames: Frame) -> None:
        """Count frames that ran at the same time."""
        self.frames += len(frames)
        self.positions += sum(frame.hidden_states.shape[0] for frame in frames)
        if frames[0].kind is not FrameKind.PREFILL:
            self.decode_batches[len(frames)] += 1


class Stage:
    """Runs frames through a shard's layers on node `node`."""

    def __init__(self, shard: Shard, node: str) -> None:
        self.shard = shard
        self.node = node
        self.counts = StageCounts()
        self._caches: dict[str, list[LayerCache]] = {}

    def run(self, frame: Frame) -> Frame:
        """Return the frame with the hidden states after the shard's last layer. Raises as `steps`."""
        return finish(self.steps(frame))

    def steps(self, frame: Frame) -> Steps[Frame]:
        """Run a frame. Long computations are started and their Wait is yielded; after it other frames may run.

        Closing it rewinds the caches to the frame's position.

        A prefill frame is evaluated here, so that at most one chunk's activations are in memory; a decode frame is
        returned lazy, with its evaluation started.

        Raises:
            FrameError: a wrong shape or dtype; nothing changed.
            RewindError: fewer positions than the frame's are kept, or the caches cannot rewind to it.
            NumericsError: NaN or Inf; names the node and the layer.
        """
        self._check(frame)
        caches = self._caches_of(frame.sequence_id)
        self._require(frame.position, rewind_all(caches, frame.position))
        try:
            hidden_states = yield from self._layers(frame, caches)
            if frame.kind is FrameKind.PREFILL:
                is_finite = yield from self._settle(hidden_states, caches)
                if not is_finite and not frame.checked:
                    self.run(replace(frame, checked=True))
        except GeneratorExit:
            rewind_all(caches, frame.position)
            raise
        self.counts.add(frame)
        end = frame.position + frame.hidden_states.shape[0]
        return replace(frame, position=end - hidden_states.shape[0], hidden_states=hidden_states)

    def together(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """Run steps of different sequences as one batch, each with the bits that it has alone.

        If one of them fails, all are run alone, so that only this one is refused.
        """
        try:
            return (yield from self._batch(frames))
        except (FrameError, RewindError, NumericsError):
            returned: list[Returned] = []
            for frame in frames:
                try:
                    returned.append((yield from self.steps(frame)))
                except (FrameError, RewindError, NumericsError) as error:
                    returned.append(Refused(frame.sequence_id, frame.serial, error))
            return returned

    def fork(self, source_id: str, sequence_id: str, positions: int) -> None:
        """Replace a sequence's caches by the first `positions` of another's.

        If a cache no longer has the state at that position, they get fewer; the next frame's RewindError says how many.

        Raises:
            FrameError: the other keeps fewer positions; nothing changed.
        """
        kept = self._kept(source_id)
        if positions > kept or not kept:
            raise FrameError(f"node {self.node}: a fork of {positions} positions, but only {kept} are kept")
        forks = [cache.fork(positions) for cache in self._caches[source_id]]
        self._caches[sequence_id] = forks
        rewind_all(forks, self._kept(sequence_id))

    def release(self, sequence_id: str) -> None:
        """Free a sequence's caches."""
        self._caches.pop(sequence_id, None)

    def expert_load(self) -> Mapping[int, Counts]:
        """Return by layer how often each expert was chosen `[E]` in a sample of the frames."""
        return self.shard.expert_load.counts()

    @property
    def kv_bytes(self) -> int:
        """Bytes of all caches."""
        return sum(cache.nbytes for caches in self._caches.values() for cache in caches)

    @property
    def kv_positions(self) -> int:
        """Number of positions that all sequences keep."""
        return sum(self._kept(sequence_id) for sequence_id in self._caches)

    def _batch(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """Run a batch. Raises as `steps`; the caches are rewound then."""
        caches = []
        for frame in frames:
            self._check(frame)
            caches.append(self._caches_of(frame.sequence_id))
            self._require(frame.position, rewind_all(caches[-1], frame.position))
        hidden_states = mx.concatenate([frame.hidden_states for frame in frames])
        try:
            for layer, of_layer in zip(self.shard.layers, zip(*caches, strict=True), strict=True):
                hidden_states = yield from layer.together(hidden_states, of_layer)
                mx.async_eval(hidden_states)
        except (GeneratorExit, MoeClusterError):
            for frame, kept in zip(frames, caches, strict=True):
                rewind_all(kept, frame.position)
            raise
        self.counts.add(*frames)
        rows = mx.split(hidden_states, len(frames))
        return [replace(frame, hidden_states=row) for frame, row in zip(frames, rows, strict=True)]

    def _layers(self, frame: Frame, caches: list[LayerCache]) -> Steps[mx.array]:
        hidden_states = frame.hidden_states
        last = self.shard.config.num_hidden_layers - 1
        for index, layer, cache in zip(self.shard.spec.layers, self.shard.layers, caches, strict=True):
            if index == last and frame.outputs is None and hidden_states.shape[0] > 1:
                hidden_states = yield from self._all_outputs(layer, hidden_states, cache)
            else:
                hidden_states = yield from layer.steps(hidden_states, cache, frame.outputs if index == last else None)
            mx.async_eval(hidden_states)  # the next layer is built while this one is computed
            if frame.kind is FrameKind.PREFILL and frame.hidden_states.shape[0] >= LONG_CHUNK:
                yield partial(mx.eval, hidden_states)
            if frame.checked and not mx.isfinite(hidden_states).all().item():
                raise NumericsError(f"node {self.node}, layer {index}: hidden states are not finite")
        return hidden_states

    def _kept(self, sequence_id: str) -> int:
        caches = self._caches.get(sequence_id)
        return min(cache.length for cache in caches) if caches else 0

    def _caches_of(self, sequence_id: str) -> list[LayerCache]:
        if sequence_id not in self._caches:
            self._caches[sequence_id] = [layer.new_cache() for layer in self.shard.layers]
        return self._caches[sequence_id]

    def _require(self, position: int, reached: int) -> None:
        if reached < position:
            raise RewindError(
                f"node {self.node}: the caches cannot rewind to position {position}, they stand at {reached}: send "
                f"the positions from there again",
                reached=reached,
            )

    def _check(self, frame: Frame) -> None:
        shape, dtype = frame.hidden_states.shape, frame.hidden_states.dtype
        width, room = self.shard.config.hidden_size, self.shard.config.context.longest
        if len(shape) != 2 or shape[0] < 1 or shape[1] != width or dtype != self.shard.dtype:
            raise FrameError(
                f"node {self.node}: a frame must be {self.shard.dtype} [positions, {width}], got {dtype} {list(shape)}"
            )
        if frame.outputs is not None and not 1 <= frame.outputs <= shape[0]:
            raise FrameError(f"node {self.node}: a frame of {shape[0]} positions asks for {frame.outputs} outputs")
        kept = self._kept(frame.sequence_id)
        if not 0 <= frame.position <= kept:
            raise RewindError(
                f"node {self.node}: a frame starts at position {frame.position}, but only {kept} positions are kept",
                reached=kept,
            )
        if frame.position + shape[0] > room:
            raise FrameError(
                f"node {self.node}: a frame ends at position {frame.position + shape[0]}, the model has {room}"
            )

    def _all_outputs(self, layer: DecoderLayer, hidden_states: mx.array, cache: LayerCache) -> Steps[mx.array]:
        """Return all positions' outputs; the last is computed alone too, so its bits do not depend on `outputs`.

        This costs one more position of one layer.
        """
        start = cache.length
        asked_alone = yield from layer.steps(hidden_states, cache, outputs=1)
        cache.rewind(start)
        outputs = yield from layer.steps(hidden_states, cache)
        return mx.concatenate([outputs[:-1], asked_alone])

    def _settle(self, hidden_states: mx.array, caches: list[LayerCache]) -> Steps[bool]:
        """Evaluate a chunk and its caches, release temporaries, and return whether the chunk is finite."""
        finite = mx.isfinite(hidden_states).all()
        arrays = [finite, hidden_states, *(cache.arrays for cache in caches)]
        mx.async_eval(arrays)
        yield partial(mx.eval, arrays)
        mx.clear_cache()
        return bool(finite.item())
