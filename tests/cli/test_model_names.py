"""Completion of MODEL, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import model_names
from mlx_moe.checkpoint import library
from mlx_moe.known_models import KNOWN_MODELS


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model in the cache, one in a named folder."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path / "models"))
    for directory in ("hub/models--Qwen--Tiny/snapshots/1234", "models/my-model"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "config.json").write_text("{}")


def test_models_of_this_machine_and_short_names_complete_a_name() -> None:
    assert model_names.complete("") == ["demo", "Qwen/Tiny", "my-model", *KNOWN_MODELS]
    assert model_names.complete("de")[:2] == ["demo", "deepseek-v2-lite"]
    assert model_names.complete("QWEN/") == ["Qwen/Tiny"]
    assert model_names.complete_here("") == ["Qwen/Tiny", "my-model"]


@pytest.mark.parametrize("command", ["chat", "plan"])
def test_the_shell_is_told_the_names(command: str) -> None:
    environment = os.environ | {
        "_MOE_CLUSTER_COMPLETE": "complete_bash",
        "COMP_WORDS": f"moe-cluster {command} kimi",
        "COMP_CWORD": "2",
    }
    script = "from cli.app import main; main()"
    shell = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert shell.stdout.split() == ["kimi-k2", "kimi-k2-0905", "kimi-k2-thinking", "kimi-k2.5"]
