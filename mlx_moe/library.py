"""Where a model's files are: a directory, the Hugging Face cache, or the demo model in this package."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from mlx_moe.errors import InvalidRequestError

DEMO = "demo"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(model: str | Path) -> Path:
    """Return the directory of `model`.

    Raises:
        InvalidRequestError: there is none; says what was looked for, and what to do.
    """
    if str(model) == DEMO:
        return Path(__file__).parent / DEMO
    path = Path(model).expanduser()
    if path.is_dir():
        if (path / "config.json").exists():
            return path
        raise InvalidRequestError(f"{path} has no config.json: it is not a model's directory")
    if path.exists():
        wants = "convert it to safetensors" if path.suffix == ".gguf" else f"give its directory, {path.parent}"
        raise InvalidRequestError(f"{path} is a file; a model is a directory with config.json: {wants}")
    if REPO_ID.fullmatch(str(model)):
        return _in_hub_cache(str(model))
    near = difflib.get_close_matches(str(model), [DEMO])
    hint = f"; did you mean {near[0]}?" if near else ": give a directory, org/name of a downloaded model, or demo"
    raise InvalidRequestError(f"no model {str(model)!r} here{hint}")


def _in_hub_cache(repo_id: str) -> Path:
    repo = _hub_cache() / f"models--{repo_id.replace('/', '--')}"
    ref = repo / "refs" / "main"
    if ref.is_file():
        snapshot = repo / "snapshots" / ref.read_text().strip()
        if (snapshot / "config.json").exists():
            return snapshot
    raise InvalidRequestError(
        f"{repo_id} is not on this machine (looked for {repo}): download it with `hf download {repo_id}`"
    )


def _hub_cache() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
