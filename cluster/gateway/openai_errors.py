"""OpenAI's shape of errors."""

from __future__ import annotations

from typing import Any

from cluster.gateway.failures import Failure

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit"}
_CODES = {"too_large": "context_length_exceeded", "not_found": "model_not_found", "untrusted": "invalid_api_key"}


def error_body(failure: Failure) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _TYPES.get(failure.status, "server_error")
    code = _CODES.get(failure.code, failure.code)
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}
