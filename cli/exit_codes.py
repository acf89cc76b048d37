"""Exit codes: a stable interface for scripts."""

from __future__ import annotations

from enum import IntEnum

from cluster.errors import ClusterError, NoClusterError, NodeLostError, PlacementError, TrustError
from mlx_moe.errors import (
    CheckpointError,
    FrameError,
    InsufficientMemoryError,
    InvalidRequestError,
    NumericsError,
)


class ExitCode(IntEnum):
    """Stable across versions. Usage errors of the option parser are INVALID_REQUEST too; PROBLEMS is doctor's."""

    OK = 0
    INTERNAL = 1
    INVALID_REQUEST = 2
    CHECKPOINT = 3
    INSUFFICIENT_MEMORY = 4
    COMPUTATION = 5
    CLUSTER = 6
    UNTRUSTED = 7
    NODE_LOST = 8
    NO_CLUSTER = 9
    PROBLEMS = 10
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (InvalidRequestError, ExitCode.INVALID_REQUEST),
    (CheckpointError, ExitCode.CHECKPOINT),
    (InsufficientMemoryError, ExitCode.INSUFFICIENT_MEMORY),
    (FrameError, ExitCode.COMPUTATION),
    (NumericsError, ExitCode.COMPUTATION),
    (PlacementError, ExitCode.INSUFFICIENT_MEMORY),
    (TrustError, ExitCode.UNTRUSTED),
    (NodeLostError, ExitCode.NODE_LOST),
    (NoClusterError, ExitCode.NO_CLUSTER),
    (ClusterError, ExitCode.CLUSTER),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for `error`."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)
