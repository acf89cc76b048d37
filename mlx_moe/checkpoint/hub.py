"""Hub: finds a model's commit and files on the Hugging Face hub, or a mirror, and fetches its outline.

Names, tokens, mirrors and the offline mode are huggingface_hub's: HF_TOKEN or the stored token, HF_ENDPOINT,
HF_HUB_OFFLINE. Importing it takes half a second: import this module only where the hub is asked.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi, ModelInfo, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from mlx_moe.checkpoint import hub_cache, hub_errors, hub_retry, outline, tensor_file
from mlx_moe.checkpoint.hub_retry import MomentaryError, Patience, Tries
from mlx_moe.checkpoint.hub_source import LIBRARY_NAME, HubSource
from mlx_moe.checkpoint.origin import Origin, OriginFile
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.errors import CheckpointError, UnsupportedModelError

FIRST_BYTES = 128 << 10
"""Bytes of a weight file that are asked for first: with them come most headers (DeepSeek-V3's have about 90 KB)."""

AT_ONCE = 16

OTHER_WEIGHTS = frozenset({".bin", ".gguf", ".pt", ".pth"})


def resolve(repo_id: str, revision: str = hub_cache.MAIN, patience: Patience = Patience()) -> Origin:  # noqa: B008
    """Return the commit of a revision, with its small files and weight files.

    Raises:
        SourceError: the hub does not answer, or refuses; the message says the cure.
        UnsupportedModelError: the repository has no safetensors files.
    """
    endpoint = hub_cache.endpoint()
    host = urlsplit(endpoint).netloc
    tries = Tries(f"{host} does not list the files of {repo_id}", patience, threading.Event())
    while True:
        try:
            with hub_errors.translated(repo_id, host), hub_retry.momentary():
                info = _info(repo_id, revision, endpoint)
            break
        except MomentaryError as error:
            tries.failed(error)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = {
        name: OriginFile(file.size or 0, file.lfs.sha256 if file.lfs else "")
        for name, file in siblings.items()
        if outline.is_weights(name) or outline.is_small(name)
    }
    if not any(map(outline.is_weights, files)):
        kinds = sorted({Path(name).suffix for name in siblings} & OTHER_WEIGHTS)
        only = f", only {', '.join(kinds)}" if kinds else ""
        raise UnsupportedModelError(f"{repo_id} has no safetensors files{only}: give another repository of the model")
    return Origin(repo_id, info.sha or "", files)


def fetch_outline(origin: Origin, directory: Path, source: HubSource) -> None:
    """Store the small files and the headers of all weight files in a directory; what is there already is kept.

    A weight file that is not larger than the first request is stored whole. If the directory has the same weights from
    another commit, only the small files are fetched again.

    Raises:
        SourceError: the hub does not deliver.
        CheckpointError: the directory has other weights, a file is damaged, or the disk is full.
    """
    stored = Origin.of(directory)
    if stored.files and stored.identity != origin.identity:
        raise CheckpointError(
            f"{directory} has files of {stored.repo_id} {stored.commit}, not of {origin.repo_id} {origin.commit}: "
            f"use another directory"
        )
    if not stored.files:
        origin.store(directory)
    is_outdated = bool(stored.files) and stored != origin
    missing = [
        name for name in origin.files if (is_outdated and outline.is_small(name)) or not _is_here(directory, name)
    ]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        fetched = [threads.submit(_fetch, origin, directory, source, name) for name in missing]
        try:
            for future in fetched:
                future.result()
        finally:
            threads.shutdown(cancel_futures=True)
    if is_outdated:
        origin.store(directory)  # last: after a kill, the small files are fetched again


def _info(repo_id: str, revision: str, endpoint: str) -> ModelInfo:
    if hub_cache.is_offline():
        raise OfflineModeIsEnabled
    return HfApi(endpoint=endpoint, library_name=LIBRARY_NAME).model_info(
        repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )


def _is_here(directory: Path, name: str) -> bool:
    path = directory / name
    return path.exists() or (outline.is_weights(name) and tensor_file.header_path(path).exists())


def _fetch(origin: Origin, directory: Path, source: HubSource, name: str) -> None:
    size, is_weights = origin.files[name].size, outline.is_weights(name)
    if not is_weights and size > outline.MAX_SMALL_BYTES:
        raise CheckpointError(f"{origin.repo_id}: {name} has {size:,} bytes; the limit is {outline.MAX_SMALL_BYTES:,}")
    data = source.read(name, range(min(size, FIRST_BYTES) if is_weights else size))
    if len(data) == size:
        _check(origin, name, data)
        store = outline.store_whole if is_weights else outline.store_small
        store(directory, name, data)
        return
    nbytes = tensor_file.header_bytes(name, data, size)
    if nbytes > len(data):
        data += source.read(name, range(len(data), nbytes))
    outline.store_header(directory, name, data[:nbytes], size)


def _check(origin: Origin, name: str, data: bytes) -> None:
    sha256 = origin.files[name].sha256
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise SourceError(
            f"{origin.repo_id}: {name} arrived with other bytes than its SHA-256 {sha256} says: repeat the command"
        )
