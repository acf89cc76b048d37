"""The one error tree of the project.

    MoeClusterError
    ├── InvalidRequestError      what the person or client asked for cannot be served as asked
    ├── CheckpointError          the model's files are missing, damaged or contradict each other
    │   ├── UnsupportedModelError    sound files of a kind this version does not run
    │   └── TemplateError            the chat template failed, or would not stop
    ├── InsufficientMemoryError  the shard or the KV cache does not fit the memory budget
    ├── FrameError               a frame that may not run: a hole, a wrong shape or dtype
    └── NumericsError            NaN or Inf where numbers should be; names the node and the layer

Every message says what happened, to whom, with which numbers, and what to do.
"""


class MoeClusterError(Exception):
    """Any failure a caller may want to catch; `code` is stable and meant for machines."""

    code = "error"


class InvalidRequestError(MoeClusterError):
    """A request refused before any work: too long, empty, out of range."""

    code = "invalid_request"


class CheckpointError(MoeClusterError):
    """A model directory that must not be served from."""

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


class FrameError(MoeClusterError):
    """A frame that a stage refuses."""

    code = "bad_frame"


class NumericsError(MoeClusterError):
    """Hidden states or logits that are not finite."""

    code = "not_finite"
