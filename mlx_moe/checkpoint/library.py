"""Library: finds a model's files in a directory, a folder of models, the Hugging Face cache, or this package."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlx_moe import known_models
from mlx_moe.checkpoint import conversion_record, hub_cache, other_formats
from mlx_moe.checkpoint.hub_cache import directory as _hub_cache
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError

DEMO = "demo"
REPO_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?")
"""org/name, or org/name@revision."""

FOLDERS_VARIABLE = "MOE_CLUSTER_MODELS"
"""Environment variable with folders that contain models, separated as in $PATH."""

_NAME = re.compile(r"[^/.][^/]*(/[^/.][^/]*)?")
"""A model in such a folder: name, or org/name."""


def locate(model: str | Path) -> Path:
    """Return the directory of `model`.

    Raises:
        InvalidRequestError: there is none; the message says what was searched, and the cure.
        UnsupportedModelError: there is none, and its name is of an unsupported family.
        CheckpointError: it is an unfinished conversion.
    """
    if str(model) == DEMO:
        return Path(__file__).parents[1] / DEMO
    path = Path(model).expanduser()
    if path.is_dir():
        if (path / "config.json").exists():
            return path
        conversion_record.refuse_unfinished(path)
        repo_id = hub_cache.repo_of(path / "snapshots" / "any") or hub_cache.repo_of(path / "any")
        hint = f"it is the cache's folder of {repo_id}: give that name" if repo_id else "it is not a model's directory"
        what = other_formats.beside(path) or hint
        raise InvalidRequestError(f"{path} has no config.json: {what}")
    if path.exists():
        wants = "convert it to safetensors" if path.suffix == ".gguf" else f"give its directory, {path.parent}"
        raise InvalidRequestError(f"{path} is a file, but a model is a directory with config.json: {wants}")
    for directory in _in_folders(str(model)):
        return directory
    if match := REPO_ID.fullmatch(str(model)):
        return _in_hub_cache(match[1], match[2] or "")
    if str(model).lower() in known_models.KNOWN_MODELS:
        raise InvalidRequestError(
            f"no model {str(model)!r} here, only what plans need of it (moe-cluster plan {model}): give a directory, "
            "or org/name of a downloaded model"
        )
    near = difflib.get_close_matches(str(model), [DEMO])
    hint = f"; did you mean {near[0]}?" if near else ": give a directory, org/name of a downloaded model, or demo"
    raise InvalidRequestError(f"no model {str(model)!r} here{hint}")


def notes(model: str, directory: Path) -> tuple[str, ...]:
    """Return notes for people about the directory that `locate` chose for a model."""
    match = REPO_ID.fullmatch(model)
    note = hub_cache.note(match[1], directory) if match and not match[2] and hub_cache.repo_of(directory) else ""
    return (note,) if note else ()


def namesakes(model: str, home_path: str = "") -> Iterator[Path]:
    """Yield local directories that, by their names, may contain what another machine calls `model`, likeliest first.

    `home_path` is the model's path below the other machine's home directory, "" if it is elsewhere. A directory may
    occur twice.
    """
    with suppress(InvalidRequestError, UnsupportedModelError):
        yield locate(model)
    if home_path and not {"/", ".."} & {*Path(home_path).parts} and _is_model(Path.home() / home_path):
        yield Path.home() / home_path
    match = REPO_ID.fullmatch(model)
    repo_id = match[1] if match else hub_cache.repo_of(Path(model))
    name = Path(repo_id or model).name
    if repo_id:
        yield from hub_cache.snapshots(repo_id)
        yield from _in_folders(repo_id)
    yield from _in_folders(name)
    yield from (path for path in _folders() if path.name == name and _is_model(path))
    yield from (path.parent for path in _hub_cache().glob(f"models--*--{glob.escape(name)}/snapshots/*/config.json"))


def in_folders() -> Iterator[Path]:
    """Yield all models in the folders of FOLDERS_VARIABLE: FOLDER/name and FOLDER/org/name."""
    for folder in _folders():
        for pattern in ("*/config.json", "*/*/config.json"):
            yield from (path.parent for path in sorted(folder.glob(pattern)))


def _in_hub_cache(repo_id: str, revision: str) -> Path:
    try:
        return hub_cache.find(repo_id, revision)
    except InvalidRequestError as exc:
        if known_models.unsupported(repo_id):  # so that people do not download it first
            raise UnsupportedModelError(known_models.refusal(repo_id)) from exc
        raise


def _in_folders(name: str) -> Iterator[Path]:
    if _NAME.fullmatch(name):
        yield from (folder / name for folder in _folders() if _is_model(folder / name))


def _folders() -> list[Path]:
    texts = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return [Path(os.path.expandvars(text)).expanduser() for text in texts if text]


def _is_model(directory: Path) -> bool:
    return os.path.exists(directory / "config.json")
