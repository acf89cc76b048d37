"""Anthropic's shape of errors."""

from __future__ import annotations

from typing import Any

from cluster.gateway.failures import Failure

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def error_body(failure: Failure) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _TYPES.get(failure.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": failure.message}}
