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
from mlx_moe.errors import CheckpointError, InvalidRequestError, UnsupportedModelError

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
    if known := known_models.find(str(model)):
        return _known(str(model), known)
    raise _unknown(str(model))


def is_on_hub(model: str) -> bool:
    """Whether a name is org/name or a known model's, which may be on the hub; it is not asked."""
    return bool(REPO_ID.fullmatch(model) or known_models.find(model))


def on_hub(model: str, *, original: bool = False) -> tuple[str, str]:
    """Return the repo id and the revision of a model by its name; of a known one the conversion, or the `original`.

    Raises:
        InvalidRequestError: it is not such a name.
    """
    if match := REPO_ID.fullmatch(model):
        return match[1], match[2] or hub_cache.MAIN
    if (known := known_models.find(model)) is None:
        if model == DEMO:
            raise InvalidRequestError(f"{DEMO} is built in: there is nothing to download")
        raise InvalidRequestError(f"{model} is neither org/name nor the short name of a known model")
    return known.original if original else known.repository, hub_cache.MAIN


def notes(model: str, directory: Path) -> tuple[str, ...]:
    """Return notes for people about the directory that `locate` chose for a model."""
    repo_id = hub_cache.repo_of(directory)
    match, known = REPO_ID.fullmatch(model), known_models.find(model)
    found = []
    if known and (others := [path for path in _copies(known) if path != directory]):
        names = ", ".join(hub_cache.repo_of(path) or str(path) for path in others)
        found.append(f"{model}: {repo_id or directory} is used; {names} is on this machine too")
    if repo_id and (known or (match and not match[2])):
        found.append(hub_cache.note(repo_id, directory))
    return tuple(note for note in found if note)


def namesakes(model: str, home_path: str = "") -> Iterator[Path]:
    """Yield local directories that, by their names, may contain what another machine calls `model`, likeliest first.

    `home_path` is the model's path below the other machine's home directory, "" if it is elsewhere. A directory may
    occur twice.
    """
    with suppress(InvalidRequestError, CheckpointError, OSError):  # there is none, or what is there is of no use
        yield locate(model)
    if home_path and not {"/", ".."} & {*Path(home_path).parts} and _is_model(Path.home() / home_path):
        yield Path.home() / home_path
    if known := known_models.find(model):
        yield from _copies(known)
    match = REPO_ID.fullmatch(model)
    repo_id = match[1] if match else hub_cache.repo_of(Path(model))
    name = Path(repo_id or model).name
    if repo_id:
        yield from hub_cache.snapshots(repo_id)
        yield from _in_folders(repo_id)
    yield from _in_folders(name)
    yield from (path for path in _folders() if path.name == name and _is_model(path))
    yield from (path.parent for path in _hub_cache().glob(f"models--*--{glob.escape(name)}/snapshots/*/config.json"))


def is_in_places(directory: Path) -> bool:
    """Whether a directory is where this machine looks for models: in this package, the cache, or its folders."""
    places = [Path(__file__).parents[1] / DEMO, _hub_cache(), *_folders()]
    return ".." not in directory.parts and any(directory.absolute().is_relative_to(p.absolute()) for p in places)


def names() -> Iterator[str]:
    """Yield the names by which `locate` finds models in the cache and in the folders of FOLDERS_VARIABLE."""
    for path in sorted(_hub_cache().glob("models--*/snapshots/*/config.json")):
        yield hub_cache.repo_of(path.parent)
    yield from (name for name, _ in in_folders())


def in_folders() -> Iterator[tuple[str, Path]]:
    """Yield name and directory of all models in the folders of FOLDERS_VARIABLE: FOLDER/name and FOLDER/org/name."""
    for folder in _folders():
        for pattern in ("*/config.json", "*/*/config.json"):
            for path in sorted(folder.glob(pattern)):
                yield str(path.parent.relative_to(folder)), path.parent


def _in_hub_cache(repo_id: str, revision: str) -> Path:
    try:
        return hub_cache.find(repo_id, revision)
    except InvalidRequestError as exc:
        if known_models.unsupported(repo_id):  # so that people do not download it first
            raise UnsupportedModelError(known_models.refusal(repo_id)) from exc
        raise


def _known(name: str, known: known_models.KnownModel) -> Path:
    """Return the directory of a known model: of its conversions before the original, and of complete ones first."""
    copies = _copies(known)
    if copies:
        return next(filter(hub_cache.is_complete, copies), copies[0])
    if not known.config:
        raise UnsupportedModelError(known_models.refusal(name))
    raise InvalidRequestError(
        f"{name} is not on this machine (looked for {' and '.join(known.repositories)} in {_hub_cache()}): download "
        f"it with `{hub_cache.pull_command(name)}`"
    )


def _copies(known: known_models.KnownModel) -> list[Path]:
    in_cache = [hub_cache.find(repo_id) for repo_id in known.repositories if hub_cache.snapshots(repo_id)]
    return in_cache + [path for repo_id in known.repositories for path in _in_folders(repo_id)]


def _unknown(name: str) -> InvalidRequestError | UnsupportedModelError:
    if known_models.unsupported(name):
        return UnsupportedModelError(known_models.refusal(name))
    near = difflib.get_close_matches(name, [DEMO]) or known_models.suggestions(name)
    if near:
        hint = f"did you mean {near[0]}?" if len(near) == 1 else f"did you mean one of {', '.join(near)}?"
    else:
        hint = f"give a directory, org/name, or one of {', '.join((DEMO, *known_models.KNOWN_MODELS))}"
    return InvalidRequestError(f"no model {name!r} here; {hint}")


def _in_folders(name: str) -> Iterator[Path]:
    if _NAME.fullmatch(name):
        yield from (folder / name for folder in _folders() if _is_model(folder / name))


def _folders() -> list[Path]:
    texts = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return [Path(os.path.expandvars(text)).expanduser() for text in texts if text]


def _is_model(directory: Path) -> bool:
    return os.path.exists(directory / "config.json")
