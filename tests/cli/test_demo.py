"""The commands over the demo model: the product as a person meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def moe_cluster(*arguments: str, stdin: str | None = None) -> str:
    """Run a command; return its stdout."""
    command = [sys.executable, "-W", "error", "-m", "cli", *arguments]
    result = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


def answer(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(moe_cluster("run", "demo", "--json", *arguments))
    return told


def test_the_same_seed_gives_the_same_answer_in_every_form() -> None:
    first = answer("Hello", "--seed", "3", "--max-tokens", "12")
    assert answer("Hello", "--seed", "3", "--max-tokens", "12")["tokens"] == first["tokens"]
    assert moe_cluster("run", "demo", "-", "--seed", "3", "--max-tokens", "12", stdin="Hello") == first["text"] + "\n"
    assert len(first["tokens"]) == 12 or first["finish_reason"] == "stop"
    assert first["timings"]["decode_tps"] > 0
    (placement,) = first["placement"]
    assert placement["weights_bytes"] > 0


def test_show_tells_what_the_model_is() -> None:
    told = json.loads(moe_cluster("show", "demo", "--json"))
    table = moe_cluster("show", "demo")
    assert f"{told['parameters']:,}" in table
    assert told["content_hash"] in table.replace("\n", "").replace(" ", "")
