"""Hub cache: finds snapshots in the Hugging Face cache, and the command that completes one."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

from mlx_moe.checkpoint import durable_file
from mlx_moe.checkpoint.origin import Origin, OriginFile
from mlx_moe.checkpoint.weight_files import WeightFiles
from mlx_moe.errors import CheckpointError, InvalidRequestError

MAIN = "main"
REVISION = re.compile(r"\w[\w./-]*")
"""A branch, a tag, or a commit."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def directory() -> Path:
    """Return the cache's directory, as huggingface_hub derives it from the current environment."""
    return Path(_constants().HF_HUB_CACHE)


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or https://huggingface.co."""
    return str(_constants().ENDPOINT)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return bool(_constants().HF_HUB_OFFLINE)


def find(repo_id: str, revision: str = "") -> Path:
    """Return the snapshot of a repo at `revision`: a branch, a tag, or a commit or its beginning.

    Without a revision: the snapshot of the branch main, or the newest complete one if that is not complete.

    Raises:
        InvalidRequestError: there is none; the message lists the others and says how to download it.
    """
    repo = _repo(repo_id)
    refs, found = _refs(repo), snapshots(repo_id)
    if revision:
        commit = refs.get(revision, revision)
        named = [path for path in found if path.name.startswith(commit)]
        if len(named) == 1:
            return named[0]
        here = ", ".join(path.name for path in found) or "none"
        raise InvalidRequestError(
            f"revision {revision} of {repo_id} is not on this machine (in {repo}: {here}): download it with "
            f"`{pull_command(repo_id, revision)}`"
        )
    if not found:
        raise InvalidRequestError(
            f"{repo_id} is not on this machine (looked for {repo}): download it with `{pull_command(repo_id)}`"
        )
    main = [path for path in found if path.name == refs.get(MAIN)]
    complete = [path for path in (*main, *found) if is_complete(path)]
    return (complete or main or found)[0]


def note(repo_id: str, snapshot: Path) -> str:
    """Return a text that says why `find` chose a snapshot other than main's; "" if it did not."""
    if len(snapshots(repo_id)) < 2 or _refs(_repo(repo_id)).get(MAIN) == snapshot.name:
        return ""
    return f"{repo_id}: main is not complete on this machine, the newest complete snapshot is used: {snapshot.name}"


def snapshots(repo_id: str) -> list[Path]:
    """Return the snapshots of a repo that have at least a config.json, newest first."""
    found = [path.parent for path in _repo(repo_id).glob("snapshots/*/config.json")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def is_complete(directory: Path) -> bool:
    """Whether all weight files of a model's directory are there, by their names."""
    try:
        files = WeightFiles.of(directory)
    except CheckpointError:
        return False
    return bool(files.own) and not files.missing


def commits(repo_id: str) -> dict[str, str]:
    """Return the commits of a repo's downloaded branches and tags, by their names."""
    return _refs(_repo(repo_id))


def snapshot(repo_id: str, commit: str) -> Path:
    """Return the directory of a commit's files, which may not exist yet."""
    return _repo(repo_id) / "snapshots" / commit


def staging(repo_id: str, commit: str) -> Path:
    """Return the directory where the files of a commit are collected before they become its snapshot."""
    return _repo(repo_id) / "partial" / commit


def stagings() -> list[tuple[str, Path]]:
    """Return repo id and directory of all downloads that were begun and are not complete."""
    separator = _constants().REPO_ID_SEPARATOR
    found = sorted(directory().glob(f"models{separator}*/partial/*"))
    return [
        (path.parent.parent.name.removeprefix(f"models{separator}").replace(separator, "/"), path) for path in found
    ]


def note_revision(repo_id: str, revision: str, commit: str) -> None:
    """Record to which commit a branch or tag leads. Raises CheckpointError if the disk fails."""
    path = _repo(repo_id) / "refs" / revision
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise InvalidRequestError(f"{revision!r} is not the name of a branch or tag")
    with durable_file.written(path, len(commit)):
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_file.write(path, commit.encode())


def repo_of(path: Path) -> str:
    """Return the repo id of a snapshot's path, derived from the directory names; "" if it is not a snapshot."""
    separator = _constants().REPO_ID_SEPARATOR
    kind, _, name = path.parent.parent.name.partition(separator)
    return name.replace(separator, "/") if path.parent.name == "snapshots" and kind == "models" else ""


def origin(snapshot: Path) -> Origin:
    """Return the origin of a snapshot; the digests are the names of the blobs that its links lead to.

    It is empty for other directories, and has no digests of files that were copied in place of links.
    """
    repo_id = repo_of(snapshot)
    if not repo_id:
        return Origin()
    links = {path.name: path.resolve() for path in snapshot.glob("*.safetensors")}
    files = {
        name: OriginFile(blob.stat().st_size, blob.name if _SHA256.fullmatch(blob.name) else "")
        for name, blob in links.items()
        if blob.exists()
    }
    return Origin(repo_id, snapshot.name, files)


def cure(path: Path) -> str:
    """Return how to complete a model's directory, for error messages: a command to paste if it is a snapshot."""
    repo_id, repo = repo_of(path), path.parent.parent
    if not repo_id:
        return "copy or download its files again"
    names = [name for name, commit in _refs(repo).items() if commit == path.name]
    revision = "" if MAIN in names else min(names, default=path.name)
    cache = "" if repo.parent == directory() else f"HF_HUB_CACHE={shlex.quote(str(repo.parent))} "
    return f"download it with `{cache}{pull_command(repo_id, revision)}`"


def pull_command(model: str, revision: str = "") -> str:
    """Return a command to paste that downloads a model, or completes it."""
    return f"moe-cluster pull {shlex.quote(model)}" + (f" --revision {shlex.quote(revision)}" if revision else "")


def hf_command(*arguments: str) -> str:
    """Return a command to paste that downloads single files with `hf`, which is installed with this package.

    If `hf` is not on the PATH, the command has its path beside Python, relative to the home directory if possible: this
    is the same on all machines that installed the package in the same way.
    """
    path, home = Path(sys.executable).parent / "hf", Path.home()
    if shutil.which("hf"):
        program = "hf"
    elif path.is_relative_to(home):
        program = f"~/{shlex.quote(str(path.relative_to(home)))}"
    else:
        program = shlex.quote(str(path))
    return f"{program} download {shlex.join(arguments)}"


def _refs(repo: Path) -> dict[str, str]:
    """Return the commits of downloaded branches and tags, by their names."""
    refs = repo / "refs"
    try:
        return {str(p.relative_to(refs)): p.read_text().strip() for p in refs.rglob("*") if p.is_file()}
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{refs} cannot be read: {exc}") from exc


def _repo(repo_id: str) -> Path:
    separator: str = _constants().REPO_ID_SEPARATOR
    return directory() / separator.join(("models", *repo_id.split("/")))


def _constants() -> ModuleType:
    """Return huggingface_hub's constants for the current environment: a fresh run of the module that computes them."""
    spec = importlib.util.find_spec("huggingface_hub.constants")
    assert spec is not None  # it is a dependency
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
