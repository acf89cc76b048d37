"""Hub download: whole models in the Hugging Face cache.

The files come by ranges into a share beside the cache's snapshots, which is resumed after a kill, and the share becomes
the snapshot when all are complete. Rejected: huggingface_hub's own download (2.4) begins a killed file anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from mlx_moe.checkpoint import durable_file, hub, hub_cache, outline, tensor_file
from mlx_moe.checkpoint.hub_source import HubSource
from mlx_moe.checkpoint.origin import NAME as ORIGIN_NAME
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.pull import missing_bytes, pull
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.tensor_file import TensorFile
from mlx_moe.checkpoint.weight_files import WeightFiles

CONFIG_NAME = "config.json"


def download(origin: Origin, revision: str = "", on_progress: Callable[[int, int], object] = lambda *_: None) -> Path:
    """Complete the cache's snapshot of a commit; return its directory. `revision` is the branch or tag it was found by.

    `on_progress` is called, by any thread, with the bytes of weights that are here, and of all.

    Raises:
        SourceError: the hub does not deliver.
        CheckpointError: a file is damaged, another process downloads it too, or the disk has no room.
    """
    snapshot = hub_cache.snapshot(origin.repo_id, origin.commit)
    staging = prepare(origin)
    if staging != snapshot:
        source = HubSource(origin)
        try:
            _pull_all(staging, source, on_progress)
        finally:
            source.close()
        _publish(origin, staging, snapshot)
    if revision and revision != origin.commit:
        hub_cache.note_revision(origin.repo_id, revision, origin.commit)
    return snapshot


def prepare(origin: Origin) -> Path:
    """Fetch all but the data of the weights; return the directory: the cache's snapshot if that is complete.

    Raises:
        SourceError: the hub does not deliver.
        CheckpointError: a file is damaged, or the disk is full.
    """
    snapshot = hub_cache.snapshot(origin.repo_id, origin.commit)
    if _is_complete(origin, snapshot):
        return snapshot
    staging = hub_cache.staging(origin.repo_id, origin.commit)
    _take_finished(origin, snapshot, staging)
    source = HubSource(origin)
    try:
        hub.fetch_outline(origin, staging, source)
    finally:
        source.close()
    return staging


def lacking(origin: Origin) -> tuple[int, int]:
    """Return how many bytes of weights `download` would fetch of a commit that is prepared, and of how many."""
    staging = hub_cache.staging(origin.repo_id, origin.commit)
    if _is_complete(origin, hub_cache.snapshot(origin.repo_id, origin.commit)):
        return 0, 0
    with closing(Share(staging)) as share:
        wanted = _wanted(staging)
        return missing_bytes(share, wanted), sum(len(span) for spans in wanted.values() for span in spans)


def _pull_all(staging: Path, source: HubSource, on_progress: Callable[[int, int], object]) -> None:
    share = Share(staging)
    try:
        wanted = _wanted(staging)
        total = sum(len(span) for spans in wanted.values() for span in spans)
        done = [total - missing_bytes(share, wanted)]
        on_progress(done[0], total)

        def progress(nbytes: int) -> None:
            done[0] += nbytes
            on_progress(done[0], total)

        pull(share, source, wanted, progress)
    finally:
        share.close()


def _wanted(directory: Path) -> Mapping[str, Sequence[range]]:
    """Return the data of all weight files but those that repeat tensors of the model's own files."""
    files = WeightFiles.of(directory)
    own = [tensor_file.read(path) for path in files.own]
    names = {name for header in own for name in header.tensors}
    others = [header for path in files.others if not (header := tensor_file.read(path)).tensors.keys() & names]
    return {header.path.name: [_data(header)] for header in (*own, *others)}


def _data(header: TensorFile) -> range:
    return range(min((tensor.offset for tensor in header.tensors.values()), default=header.size), header.size)


def _is_complete(origin: Origin, snapshot: Path) -> bool:
    """Whether a snapshot is what `download` makes, or has all files of the commit by another program."""
    return Origin.of(snapshot) == origin or all(_is_whole(snapshot / name, f.size) for name, f in origin.files.items())


def _is_whole(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _take_finished(origin: Origin, snapshot: Path, staging: Path) -> None:
    """Give the share the weight files that another program has downloaded already."""
    for name, file in origin.files.items():
        found = snapshot / name
        if outline.is_weights(name) and _is_whole(found, file.size):
            staging.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it is there already, or the file system has no hard links: then it is fetched
                os.link(found.resolve(), staging / name)


def _publish(origin: Origin, staging: Path, snapshot: Path) -> None:
    """Move the files of a complete share to the snapshot. It counts as one from config.json on, which comes last."""
    names = [name for name in origin.files if (staging / name).exists() and name != CONFIG_NAME]
    with durable_file.written(snapshot, 0):
        snapshot.mkdir(parents=True, exist_ok=True)
        for name in (*names, CONFIG_NAME, ORIGIN_NAME):
            os.replace(staging / name, snapshot / name)
        durable_file.sync_path(snapshot)
        shutil.rmtree(staging)  # its lock, and headers of files that are not wanted
