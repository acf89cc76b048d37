"""Where a model's files are: a directory, the Hugging Face cache, or the demo model in this package."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from mlx_moe import hub_cache, known_models
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError

DEMO = "demo"
REPO_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?")
"""org/name, or org/name@revision."""


def locate(model: str | Path) -> Path:
    """Return the directory of `model`.

    Raises:
        InvalidRequestError: there is none; says what was looked for, and what to do.
        UnsupportedModelError: there is none, and its name is that of a family that is not run.
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
    if match := REPO_ID.fullmatch(str(model)):
        return _in_hub_cache(match[1], match[2] or "")
    near = difflib.get_close_matches(str(model), [DEMO])
    hint = f"; did you mean {near[0]}?" if near else ": give a directory, org/name of a downloaded model, or demo"
    raise InvalidRequestError(f"no model {str(model)!r} here{hint}")


def _in_hub_cache(repo_id: str, revision: str) -> Path:
    try:
        return hub_cache.find(repo_id, revision)
    except InvalidRequestError as exc:
        if known_models.unsupported(repo_id):  # before anybody downloads it
            raise UnsupportedModelError(known_models.refusal(repo_id)) from exc
        raise
