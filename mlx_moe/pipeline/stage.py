"""Stage: a running shard. It runs frames in order and keeps each sequence's caches, one per layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx

from mlx_moe.errors import FrameError, MoeClusterError, NumericsError, RewindError
from mlx_moe.layers.cache import LayerCache, rewind_all
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.expert_load import Counts
from mlx_moe.layers.steps import Steps, finish
from mlx_moe.pipeline.frame import Frame, FrameKind, Refused, Returned
from mlx_moe.pipeline.kept_frames import KeptFrames
from mlx_moe.pipeline.shard import Shard

LONG_CHUNK = 32
"""From this many positions on, each layer is evaluated before the next is built: only its temporaries are alive."""


@dataclass(slots=True)
class StageCounts:
    """Counts of a stage since it was created. `decode_batches` has the number of decode steps by their sequences.

    `recalled` positions had been run by a stage before, and were not computed again in its layers.
    """

    frames: int = 0
    positions: int = 0
    recalled: int = 0
    decode_batches: Counter[int] = field(default_factory=Counter)

    def add(self, *frames: Frame) -> None:
        """Count frames that ran at the same time."""
        self.frames += len(frames)
        self.positions += sum(frame.hidden_states.shape[0] for frame in frames)
        if frames[0].kind is not FrameKind.PREFILL:
            self.decode_batches[len(frames)] += 1


@dataclass(frozen=True, slots=True)
class Past:
    """What a stage leaves to the next one on its node: the caches of its layers, and the frames that it has run."""

    layers: range
    caches: Mapping[str, Sequence[LayerCache]]
    frames: KeptFrames

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return sum(cache.nbytes for caches in self.caches.values() for cache in caches)


class Stage:
    """Runs frames through a shard's layers on node `node`; keeps `kept_rows` of their results.

    With the `past` of a stage with some of its layers, it gives the same results as without, and refuses the same
    frames. But where a frame with the same input comes to the past layers at the same place again, it is not computed.
    """

    def __init__(self, shard: Shard, node: str, kept_rows: int = 0, past: Past | None = None) -> None:
        self.shard = shard
        self.node = node
        self.counts = StageCounts()
        self._caches: dict[str, list[LayerCache]] = {}
        self._frames = KeptFrames(kept_rows)
        self._past = slice(0, 0)  # the layers whose caches may be ahead
        self._past_frames = self._frames
        self._recalled: dict[str, int] = {}  # kept positions, of sequences whose caches are ahead in the past layers
        layers = shard.spec.layers
        if past is not None and past.layers and past.layers[0] in layers and past.layers[-1] in layers:
            self._continue(past)

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
        caches = self._rewound(frame)
        try:
            hidden_states = yield from self._layers(frame, caches)
            if frame.kind is FrameKind.PREFILL:
                is_finite = yield from self._settle(hidden_states, caches)
                if not is_finite and not frame.checked:
                    self.run(replace(frame, checked=True))
        except GeneratorExit:
            rewind_all(self._current(frame.sequence_id), frame.position)
            raise
        end = frame.position + frame.hidden_states.shape[0]
        is_recalled = frame.sequence_id in self._recalled
        if is_recalled:
            self._recalled[frame.sequence_id] = end
            self.counts.recalled += frame.hidden_states.shape[0]
        if not is_recalled or self._past_frames is not self._frames:
            self._frames.add(frame, hidden_states)
            self.counts.add(frame)
        return replace(frame, position=end - hidden_states.shape[0], hidden_states=hidden_states)

    def together(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """Run steps of different sequences as one batch, each with the bits that it has alone.

        If one of them fails, all are run alone, so that only this one is refused.
        """
        if not any(frame.sequence_id in self._recalled for frame in frames):
            with suppress(FrameError, RewindError, NumericsError):
                return (yield from self._batch(frames))
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
        self._leave_past(sequence_id)
        self._frames.fork(source_id, sequence_id, rewind_all(forks, min(cache.length for cache in forks)))

    def release(self, sequence_id: str) -> None:
        """Free a sequence's caches."""
        self._caches.pop(sequence_id, None)
        self._leave_past(sequence_id)
        self._frames.release(sequence_id)

    def retain(self, sequence_ids: Set[str]) -> None:
        """Free the caches of all other sequences."""
        for sequence_id in self._caches.keys() - sequence_ids:
            self.release(sequence_id)

    @property
    def past(self) -> Past:
        """What the next stage on this node can continue with; this one must not run any more."""
        return Past(self.shard.spec.layers, self._caches, self._frames)

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
            caches.append(self._rewound(frame))
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
        for frame, row in zip(frames, rows, strict=True):
            self._frames.add(frame, row)
        return [replace(frame, hidden_states=row) for frame, row in zip(frames, rows, strict=True)]

    def _continue(self, past: Past) -> None:
        """Keep the caches of a past stage, all of whose layers are here, of sequences whose frames are known."""
        start = past.layers.start - self.shard.spec.layers.start
        self._past = slice(start, start + len(past.layers))
        is_all = len(past.layers) == len(self.shard.layers)
        self._past_frames = past.frames
        if is_all:
            self._frames = past.frames
        for sequence_id, caches in past.caches.items():
            if sequence_id in past.frames:
                self._caches_of(sequence_id)[self._past] = caches
                self._recalled[sequence_id] = 0

    def _leave_past(self, sequence_id: str) -> None:
        """Compute all that follows of a sequence: its caches are ahead no longer, once they are rewound."""
        if self._recalled.pop(sequence_id, None) is not None and self._past_frames is not self._frames:
            self._past_frames.release(sequence_id)

    def _current(self, sequence_id: str) -> list[LayerCache]:
        """Return a sequence's caches without those that are ahead."""
        caches = self._caches_of(sequence_id)
        return caches[: self._past.start] + caches[self._past.stop :] if sequence_id in self._recalled else caches

    def _rewound(self, frame: Frame) -> list[LayerCache]:
        """Return the caches for a frame, rewound to its position. Raises RewindError."""
        sequence_id, position = frame.sequence_id, frame.position
        if frame.checked or position < self._recalled.get(sequence_id, 0):
            self._leave_past(sequence_id)
        reached = rewind_all(self._current(sequence_id), position)
        if reached < position:
            self._leave_past(sequence_id)
            reached = rewind_all(self._caches_of(sequence_id), reached)
        if sequence_id not in self._recalled:
            self._frames.rewind(sequence_id, reached)
        self._require(position, reached)
        return self._caches_of(sequence_id)

    def _recall(self, frame: Frame, hidden_states: mx.array, caches: list[LayerCache]) -> mx.array | None:
        """Return what the past layers gave for the same frame.

        If it was another one, its caches are rewound: they are ahead no longer. Raises RewindError.
        """
        result = self._past_frames.find(frame, hidden_states)
        if result is None:
            self._leave_past(frame.sequence_id)
            reached = rewind_all(caches[self._past], frame.position)
            if reached < frame.position:
                reached = rewind_all(caches, reached)
            self._frames.rewind(frame.sequence_id, reached)
            self._require(frame.position, reached)
        return result

    def _layers(self, frame: Frame, caches: list[LayerCache]) -> Steps[mx.array]:
        hidden_states, start, end = frame.hidden_states, 0, len(caches)
        if frame.sequence_id in self._recalled:
            start = self._past.start
            hidden_states = yield from self._span(frame, hidden_states, caches, range(start))
            if (recalled := self._recall(frame, hidden_states, caches)) is not None:
                hidden_states, start = recalled, self._past.stop
        return (yield from self._span(frame, hidden_states, caches, range(start, end)))

    def _span(self, frame: Frame, hidden_states: mx.array, caches: list[LayerCache], span: range) -> Steps[mx.array]:
        """Run some of the layers."""
        last = self.shard.config.num_hidden_layers - 1
        for i in span:
            index, layer, cache = self.shard.spec.layers[i], self.shard.layers[i], caches[i]
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
        if sequence_id in self._recalled:
            return self._recalled[sequence_id]
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
