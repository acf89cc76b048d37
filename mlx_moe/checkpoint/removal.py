"""Removal: deletes a model's copies from the Hugging Face cache and from this program's own, never a user's folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_moe import known_models
from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.inventory import Place, StoredModel
from mlx_moe.checkpoint.share import require_no_writer
from mlx_moe.errors import CheckpointError, InvalidRequestError

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy


OWN = (Place.SHARE, Place.DOWNLOAD)
"""Places with copies that only this program writes."""


@dataclass(frozen=True, slots=True)
class Removal:
    """The copies of one model that will be deleted, and the bytes that this frees."""

    name: str
    copies: tuple[StoredModel, ...]
    freed_bytes: int

    def execute(self) -> None:
        """Delete the copies; files that other snapshots of the cache need stay. Raises CheckpointError."""
        strategy = _strategy(self.copies)
        for copy in self.copies:
            if copy.place in OWN:
                require_no_writer(copy.path)
        try:
            if strategy is not None:
                strategy.execute()
            for copy in self.copies:
                if copy.place in OWN and copy.path.exists():  # the cache deletes a whole repository with its downloads
                    shutil.rmtree(copy.path)
                    _remove_if_empty(copy.path.parent)
        except OSError as exc:
            raise CheckpointError(f"{exc.filename} cannot be deleted: {exc.strerror}") from exc
        if left := [str(copy.path) for copy in self.copies if copy.path.exists()]:
            raise CheckpointError(f"not deleted: {', '.join(left)}; the user who owns the files can delete them")


def removal(model: str, stored: Sequence[StoredModel]) -> Removal:
    """Return what deletes a model, which is called as people type it; `stored` are all models on this machine.

    Raises:
        InvalidRequestError: it is not here, the name means several models, or it is in a directory of the user's.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        raise _of_the_user(path)
    match = library.REPO_ID.fullmatch(model)
    known = known_models.find(model)
    names = {match[1]} if match else {*known.repositories} if known else {model}
    copies = [copy for copy in stored if copy.name in names and copy.place is not Place.FOLDER]
    if match and match[2]:
        copies = _at(copies, match[1], match[2])
    if not copies:
        folders = [copy for copy in stored if copy.name in {model, *names} and copy.place is Place.FOLDER]
        if folders:
            raise _of_the_user(folders[0].path)
        if model == library.DEMO:
            raise InvalidRequestError(f"{model} is built in, and stays")
        raise InvalidRequestError(f"{model} is not on this machine; `moe-cluster ls` lists what is")
    if len(found := sorted({copy.name for copy in copies})) > 1:
        commands = " or ".join(f"`moe-cluster rm {name}`" for name in found)
        raise InvalidRequestError(f"{model} is on this machine as {' and as '.join(found)}: type {commands}")
    strategy = _strategy(copies)
    own_bytes = sum(copy.disk_bytes for copy in copies if copy.place in OWN)
    freed_bytes = own_bytes + (0 if strategy is None else strategy.expected_freed_size)
    return Removal(found[0], tuple(copies), freed_bytes)


def _at(copies: Sequence[StoredModel], repo_id: str, revision: str) -> list[StoredModel]:
    """Return the copies at a revision: a branch, a tag, or a commit or its beginning."""
    commit = hub_cache.commits(repo_id).get(revision, revision)
    return [copy for copy in copies if copy.revision.startswith(commit)]


def _strategy(copies: Sequence[StoredModel]) -> DeleteCacheStrategy | None:
    """Return how the cache deletes those of the copies that it has; None if it has none of them.

    Raises:
        CheckpointError: the cache's files are damaged.
    """
    commits = [copy.revision for copy in copies if copy.place is Place.CACHE]
    if not commits:
        return None
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(hub_cache.directory())
    repos = {repo for repo in cache.repos if (repo.repo_type, repo.repo_id) == ("model", copies[0].name)}
    if not {*commits} <= {revision.commit_hash for repo in repos for revision in repo.revisions}:
        path = next(copy.path.parent.parent for copy in copies if copy.place is Place.CACHE)
        raise CheckpointError(
            f"{path} is damaged, so that nobody can tell which of its files are needed; delete all of it with "
            f"`rm -r {shlex.quote(str(path))}`"
        )
    return replace(cache, repos=frozenset(repos)).delete_revisions(*commits)  # a copied repo has the same commits


def _of_the_user(path: Path) -> InvalidRequestError:
    repo_id = hub_cache.repo_of(path)
    command = f"moe-cluster rm {repo_id}@{path.name}" if repo_id else f"rm -r {shlex.quote(str(path))}"
    why = "is a part of the cache" if repo_id else "is your own directory, which moe-cluster does not delete"
    return InvalidRequestError(f"{path} {why}: delete it with `{command}`")


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()
