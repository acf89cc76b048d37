"""The engine's part of the error tree; the whole tree, with the cluster's classes, is drawn in `cluster.errors`.

    MoeClusterError
    ├── InvalidRequestError          the request is invalid, or cannot be served
    ├── CheckpointError              the model's files are missing, damaged or contradict each other
    │   ├── UnsupportedModelError    sound files of a kind this version does not run
    │   └── TemplateError            the chat template failed, or would not stop
    ├── InsufficientMemoryError      the shard or the KV cache does not fit the memory budget
    │   ├── TooLargeError            one request needs more KV cache than exists
    │   ├── BusyError                other requests have the KV cache now                           retryable
    │   ├── EvictedError             an older request took the KV cache of this one                 retryable
    │   └── PressureError            a node has too little memory left for a request or an answer   retryable
    ├── FrameError                   a frame that may not run: a hole, a wrong shape or dtype       retryable
    │   └── RewindError              the state of a frame's position is gone; says what is left      retryable
    └── NumericsError                NaN or Inf where numbers should be; names the node and the layer

Every message says what happened, to whom, with which numbers, and what to do.
"""

from __future__ import annotations

import copy
from typing import Self


class MoeClusterError(Exception):
    """Any failure a caller may want to catch.

    `code` is stable and meant for machines. `retryable` tells whether the same request, sent again unchanged, may
    succeed. `node_id`, `sequence_id` and `request_id` say what the error is about, where that is known.
    """

    code = "error"
    retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        node_id: str | None = None,
        sequence_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.sequence_id = sequence_id
        self.request_id = request_id

    def about(self, **ids: str) -> Self:
        """Return a copy with ids that this one lacks, such as `request_id`."""
        copied = copy.copy(self)
        vars(copied).update({name: value for name, value in ids.items() if vars(self)[name] is None})
        return copied


class InvalidRequestError(MoeClusterError):
    """A request refused before any work: too long, empty, out of range."""

    code = "invalid_request"


class CheckpointError(MoeClusterError):
    """A model directory that cannot be used."""

    code = "bad_checkpoint"


class UnsupportedModelError(CheckpointError):
    """A sound checkpoint of a family, dtype or quantization that this version does not run."""

    code = "unsupported_model"


class TemplateError(CheckpointError):
    """A chat template that is invalid, too large, or was stopped at its limits."""

    code = "bad_template"


class InsufficientMemoryError(MoeClusterError):
    """Weights or KV cache that would exceed the memory budget."""

    code = "insufficient_memory"


class TooLargeError(InsufficientMemoryError):
    """A request that needs more KV cache than there is, even alone: shorten it, or give it more memory."""

    code = "too_large"


class BusyError(InsufficientMemoryError):
    """A request that found no room in the KV cache: other requests have it until they end."""

    code = "busy"
    retryable = True


class EvictedError(InsufficientMemoryError):
    """An answer that was ended because an older request needed its room in the KV cache."""

    code = "evicted"
    retryable = True


class PressureError(InsufficientMemoryError):
    """A request that is refused, or an answer that ended, because a node has too little memory left."""

    code = "memory_pressure"
    retryable = True


class FrameError(MoeClusterError):
    """A frame that a stage refuses: damaged or lost on its way, whatever the request."""

    code = "bad_frame"
    retryable = True


class RewindError(FrameError):
    """A stage's caches cannot rewind to a frame's position: all are at `reached`, where the next frame may start.

    Nothing else has changed.
    """

    code = "cannot_rewind"

    def __init__(self, message: str = "", *, reached: int = 0, **about: str | None) -> None:
        super().__init__(message, **about)
        self.reached = reached


class NumericsError(MoeClusterError):
    """Hidden states or logits that are not finite."""

    code = "not_finite"
