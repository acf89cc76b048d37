"""Stretched: a real model whose stages take at least a given time per frame, as those of a larger model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from cluster.emulation.drafters import WrongDrafter
from cluster.emulation.stage import Clock
from cluster.errors import ClusterError
from cluster.worker import loading
from cluster.worker.loading import LoadedExperts, LoadedShard
from cluster.worker.node_files import NodeFiles, Progress
from cluster.worker.role import Role
from mlx_moe.checkpoint.held import Held
from mlx_moe.layers.cache_costs import KEPT_ROWS
from mlx_moe.layers.steps import Steps
from mlx_moe.pipeline.frame import Frame, Returned
from mlx_moe.pipeline.shard import Shard
from mlx_moe.pipeline.stage import Past, Stage

KIND = "stretched"
"""The prefix of a stretched model's name; the seconds per frame and the model's name follow."""

WRONG = "wrong"
"""A further way to draft: always wrong."""

PADDING_ID = 0
"""A token of the demo model that no answer contains."""


def name(model: str, stage_s: float) -> str:
    """Return the name of a stretched model."""
    return f"{KIND}:{stage_s}:{model}"


def load(
    named: str, role: Role, progress: Progress, draft: str, held: Held | None = None
) -> StretchedShard | LoadedExperts:
    """Load a role's part of the real model; `draft` may also be WRONG. Raises as loading does, or ClusterError."""
    try:
        _, seconds, model = named.split(":", 2)
        stage_s = float(seconds)
    except ValueError as exc:
        raise ClusterError(f"{named!r} is not a stretched model's name, such as {name('demo', 0.02)}") from exc
    real = loading.load(NodeFiles(model), role, progress, "none" if draft == WRONG else draft, held)
    if isinstance(real, LoadedExperts):
        return real
    new_drafter = (lambda: WrongDrafter(PADDING_ID)) if draft == WRONG else real.new_drafter
    return StretchedShard(
        real.config, real.holding, real.tokenizer, real.defaults, new_drafter, real.remote_experts, stage_s
    )


@dataclass(frozen=True, slots=True)
class StretchedShard(LoadedShard):
    """A loaded part whose stage takes at least `stage_s` per frame."""

    stage_s: float

    def stage(self, node: str, past: Past | None = None) -> StretchedStage:
        """See LoadedStage."""
        return StretchedStage(self.holding.shard, node, self.stage_s, past)


class StretchedStage(Stage):
    """Computes a frame, then waits for the rest of the frame's time."""

    def __init__(self, shard: Shard, node: str, stage_s: float, past: Past | None) -> None:
        super().__init__(shard, node, KEPT_ROWS, past)
        self._stage_s = stage_s
        self._clock = Clock()

    def steps(self, frame: Frame) -> Steps[Frame]:
        """See Stage."""
        started = time.monotonic()
        result = yield from super().steps(frame)
        mx.eval(result.hidden_states)
        self._clock.work(self._stage_s, started)
        return result

    def together(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """See Stage. A batch takes as long as one frame."""
        started = time.monotonic()
        results = yield from super().together(frames)
        mx.eval([result.hidden_states for result in results if isinstance(result, Frame)])
        self._clock.work(self._stage_s, started)
        return results
