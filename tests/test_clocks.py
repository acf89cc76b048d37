"""Clocks: nothing waits for, or measures with, a clock that a person or NTP can set. What may read it is listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "cluster", "mlx_moe")

WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now"}

SHOWN_OR_STORED = {
    "cli/api_keys.py": "the age of a key",
    "cli/chat/transcript.py": "when a chat was",
    "cli/ls.py": "when models were used",
    "cli/tokens.py": "how long tokens are valid",
    "cluster/daemon/daemon.py": "tells a node's starts apart: any other number would do",
    "cluster/daemon/diagnosis.py": "compares nodes' clocks",
    "cluster/doctor/examination.py": "compares with certificates, and with the system's reports",
    "cluster/doctor/storage.py": "the age of files",
    "cluster/gateway/keys.py": "when a key was made",
    "cluster/gateway/ollama.py": "`created_at`",
    "cluster/gateway/openai_chat.py": "`created`",
    "cluster/gateway/openai_responses.py": "`created_at`",
    "cluster/gateway/openai_text.py": "`created`",
    "cluster/membership/probe.py": "when hardware was measured",
    "cluster/report.py": "times in the archive",
    "cluster/rpc_words.py": "says the time here where a certificate is not valid yet",
    "cluster/uses.py": "when a model was used",
    "mlx_moe/text/rendering.py": "`strftime_now` of chat templates",
}

VALID = {
    "cluster/daemon/admission.py": "certificates, with slack",
    "cluster/daemon/renewing.py": "certificates, with slack",
    "cluster/trust/authority.py": "certificates, with slack",
    "cluster/trust/token_store.py": "tokens, for a day",
}


def wall_clocks(tree: ast.AST) -> Iterator[str]:
    """Yield what reads the wall clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in WALL:
            yield name
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{one.name}" for one in node.names if f"time.{one.name}" in WALL)


def test_only_what_is_listed_reads_the_wall_clock() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    readers = {path.relative_to(ROOT).as_posix() for path in paths if list(wall_clocks(ast.parse(path.read_text())))}
    assert readers == SHOWN_OR_STORED.keys() | VALID.keys()


def test_a_deadline_by_the_wall_clock_would_be_seen() -> None:
    tree = ast.parse("ends_at = time.time() + 5\nfrom time import time_ns\nnow = datetime.now(UTC)")
    assert set(wall_clocks(tree)) == {"time.time", "time.time_ns", "datetime.now"}
