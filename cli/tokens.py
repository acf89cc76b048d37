"""token: creates, lists and revokes join tokens. Works on the files of this home; no node needs to run."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable
from getpass import getpass
from pathlib import Path

from cli.failures import print_line
from cli.tables import HeadedTable, table_console
from cli.units import duration_text
from cluster.home import Home
from cluster.node.tokens import StoredToken, is_member, join_tokens
from mlx_moe.errors import InvalidRequestError

HOUR_S = 3600.0
JOIN_VARIABLE = "MOE_CLUSTER_JOIN"
LONGEST_TEXT = 4096

_LOOKS_LIKE_TOKEN = re.compile(r"MC1[0-9A-Za-z:_-]*")


JOIN = "moe-cluster up --join -"
"""The command for another machine. It reads the token from stdin: a list of processes would show an argument."""


def read_token(given: str | None, *, or_environment: bool) -> str | None:
    """Return the join token: literal, from a file, from stdin ("-"), or from $MOE_CLUSTER_JOIN.

    The variable is read only if `or_environment` and this home is in no cluster.

    Raises:
        InvalidRequestError: there is no such file, or no token in it.
    """
    if given is None and or_environment and not is_member(Home.default()):
        given = os.environ.get(JOIN_VARIABLE, "").strip() or None
    if given is not None and not given.strip():
        raise InvalidRequestError("--join is empty: it takes a join token, a file with one, or - for standard input")
    if given is None or given.startswith("MC1") or "::" in given:
        return given
    if given == "-":
        lines = [getpass("join token: ")] if sys.stdin.isatty() else iter(lambda: sys.stdin.readline(LONGEST_TEXT), "")
        return _first_token(lines, "standard input")
    try:
        with Path(given.removeprefix("@")).expanduser().open(errors="replace") as file:
            return _first_token([file.read(LONGEST_TEXT)], given)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise InvalidRequestError(
            f"{given[:80]!r}: {reason}, and not a join token; --join takes a join token, a file with one, or - for "
            "standard input"
        ) from error


def _first_token(texts: Iterable[str], where: str) -> str:
    """Return the first join token in the texts; read no further. Raises InvalidRequestError if there is none."""
    for text in texts:
        if found := _LOOKS_LIKE_TOKEN.search(text):
            return found[0]
    raise InvalidRequestError(
        f"there is no join token in {where}: a token begins with MC1; moe-cluster token create, on the cluster's "
        "first node, prints one"
    )


def create(hours: float, uses: int, guest: bool) -> None:
    """Print a new join token on stdout and its use on stderr."""
    token = join_tokens(Home.default()).create(hours * HOUR_S, uses, guest=guest)
    print(token.text, flush=True)
    print_line(
        f"valid for {uses} node{'s' * (uses > 1)} and {duration_text(hours * HOUR_S)}; on each of them type {JOIN} and "
        "paste it, or pipe it in"
    )


def show(as_json: bool) -> None:
    """Print the join tokens; their secrets are not stored."""
    tokens = join_tokens(Home.default()).tokens
    if as_json:
        print(json.dumps([_to_json(token) for token in tokens]))
        return
    table = HeadedTable("id", "state", "used by", "expires in", texts=("id", "state"), optional=("used by",))
    for token in tokens:
        left_s = token.expires_at_s - time.time()
        expires = duration_text(left_s) if left_s > 0 else ""
        state = f"{_state(token)}, for guests" if token.guest else _state(token)
        table.add_row(token.token_id, state, f"{len(token.used_by)} of {token.max_uses}", expires)
    table_console().print(table)


def revoke(token_id: str) -> None:
    """Revoke a token; its nodes stay."""
    join_tokens(Home.default()).revoke(token_id)
    print(f"join token {token_id} is revoked; nodes that joined with it stay")


def _state(token: StoredToken) -> str:
    return token.refusal("", time.time()) or "good"


def _to_json(token: StoredToken) -> dict[str, object]:
    return {
        "id": token.token_id,
        "state": _state(token),
        "used_by": list(token.used_by),
        "max_uses": token.max_uses,
        "expires_at_s": token.expires_at_s,
        "guest": token.guest,
    }
