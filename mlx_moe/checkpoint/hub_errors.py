"""Hub errors: what huggingface_hub and its HTTP client raise, as errors that say the cure.

No message contains an address with a signature, a header or a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mlx_moe.checkpoint.source import SourceError

LOGIN = "log in on this machine with `hf auth login`, or set HF_TOKEN"


@contextmanager
def translated(repo_id: str, host: str) -> Iterator[None]:
    """Translate the errors of one exchange with the hub at `host` into SourceError."""
    try:
        yield
    except (httpx2.HTTPError, OfflineModeIsEnabled, HFValidationError) as exc:
        raise explain(repo_id, host, exc) from exc


def explain(repo_id: str, host: str, exc: Exception) -> SourceError:
    """Return the error for people."""
    match exc:
        case OfflineModeIsEnabled():
            return SourceError(f"{repo_id} cannot be fetched: HF_HUB_OFFLINE is set; `unset HF_HUB_OFFLINE` allows it")
        case HFValidationError():
            return SourceError(f"{repo_id!r} is not the name of a repository: give org/name")
        case GatedRepoError():
            return SourceError(
                f"{repo_id} is gated: accept its licence on https://{host}/{repo_id}, then {LOGIN} (of that account)"
            )
        case DisabledRepoError():
            return SourceError(f"{repo_id} was disabled on {host}: use another copy of the model")
        case RevisionNotFoundError():
            return SourceError(f"{repo_id} has no such revision: see https://{host}/{repo_id}/commits/main")
        case RemoteEntryNotFoundError():
            return SourceError(f"{repo_id}: {host} no longer has a file of this commit: pull the model again")
        case RepositoryNotFoundError():
            return SourceError(f"{host} has no {repo_id}, or it is private: check the name, or {LOGIN}")
        case HfHubHTTPError() if exc.response.status_code in (401, 403):
            return SourceError(f"{host} refuses {repo_id} ({exc.response.status_code}): {LOGIN}, with read access")
        case HfHubHTTPError():
            return SourceError(f"{host} answers {exc.response.status_code} for {repo_id}: try again later")
        case _:
            return SourceError(f"{host} cannot be reached for {repo_id}: {cause(exc)}")


def cause(exc: Exception) -> str:
    """Return a short text for an error of the HTTP client. Others than these may quote headers, and so the token."""
    match exc:
        case httpx2.TimeoutException():
            return "no answer in time"
        case httpx2.ConnectError():
            return f"no connection ({exc}); check the network, and HF_ENDPOINT if it is set"
        case httpx2.NetworkError():
            return "the connection broke"
        case httpx2.RemoteProtocolError():
            return "the answer ended early"
        case _:
            return f"{type(exc).__name__}; check HF_ENDPOINT, HF_TOKEN and proxy settings"
