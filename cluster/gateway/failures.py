"""Failures: the HTTP status of each error of the project. How an API words it is the API's own."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import NoClusterError, NotFoundError, OccupiedError, TooLongError, TrustError
from mlx_moe.errors import (
    InvalidRequestError,
    MoeClusterError,
    TemplateError,
    TooLargeError,
    UnsupportedModelError,
)

RETRY_AFTER_S = 2


_STATUS: tuple[tuple[type[MoeClusterError], int], ...] = (
    (NotFoundError, 404),
    (TooLongError, 413),
    (InvalidRequestError, 400),
    (TooLargeError, 400),
    (TemplateError, 400),
    (UnsupportedModelError, 400),
    (TrustError, 401),
    (OccupiedError, 503),
    (NoClusterError, 503),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a client sees it. `retry_after_s` is None if the same request would fail again."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    @classmethod
    def of(cls, error: MoeClusterError) -> Failure:
        """Return the failure of an error."""
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503 if error.retryable else 500)
        return cls(status, error.code, str(error), RETRY_AFTER_S if status == 503 else None)
