"""pull: copies models from the Hugging Face hub or other nodes to this machine's disk, or to those of the cluster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from cli import cluster_pull
from cli.asking import ask
from cli.failures import print_line
from cli.progress import OnProgress, progress_bar
from cli.visible import visible
from cluster.client import OwnNode, Wanted
from cluster.cost_reader import read_costs
from cluster.errors import NoClusterError
from cluster.home import Home
from mlx_moe import families, known_models
from mlx_moe.checkpoint import durable_file, hub, hub_cache, hub_download, json_file, library
from mlx_moe.checkpoint.hub_source import HubSource
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.errors import CheckpointError, InvalidRequestError, UnsupportedModelError
from mlx_moe.units import bytes_text

CONFIG_NAME = "config.json"


def pull(model: str, revision: str | None, nodes: Sequence[str], *, dry_run: bool, yes: bool) -> None:
    """Pull to the disks of the cluster if it has other nodes, or if `nodes` names some; else to this machine's cache.

    Raises:
        InvalidRequestError: the name is no model's on the hub.
        UnsupportedModelError: the model cannot be run.
        SourceError: the hub does not deliver.
        CheckpointError: a file is damaged, or the disk has no room.
        DeclinedError: the person said no.
        NoClusterError: `nodes` names some, and no node runs here.
    """
    name = _with_revision(model, revision)
    try:
        node = OwnNode.connect(Home.default())
    except NoClusterError:
        if nodes:
            raise
        pull_here(name, dry_run=dry_run, yes=yes)
        return
    with node:
        if nodes or len(node.status().here) > 1:
            cluster_pull.pull(node, Wanted(name), nodes, dry_run=dry_run, yes=yes)
        else:
            pull_here(name, dry_run=dry_run, yes=yes)


def pull_here(model: str, *, dry_run: bool, yes: bool, explicit: bool = True) -> None:
    """Download a model into this machine's cache, or complete it there; what is here is kept.

    If nobody can be asked and `yes` is not given, it goes on if it is what the person typed (`explicit`).

    Raises:
        InvalidRequestError: the name is no model's on the hub, or it may not be downloaded without `yes`.
        MoeClusterError: as `pull`.
    """
    if Path(model).expanduser().is_dir():
        raise InvalidRequestError(f"{model} is a directory; give org/name on the Hugging Face hub, or a short name")
    if known_models.unsupported(model):
        raise UnsupportedModelError(known_models.refusal(model))
    repo_id, revision = library.on_hub(model)
    origin = hub.resolve(repo_id, revision)
    _check_family(origin)
    directory = hub_download.prepare(origin)
    read_costs(str(directory), float_bytes=2)  # raises if its parameters are not those of its family
    missing, total = hub_download.lacking(origin)
    if not missing:
        hub_download.download(origin, revision)
        print(f"{visible(model)} is complete in {visible(str(hub_cache.snapshot(repo_id, origin.commit)))}")
        return
    needed = _needed(model, origin, missing, total)
    if dry_run:
        print(needed)
        return
    if not yes and not ask(f"{needed}. Download?", f"{model} is not downloaded") and not explicit:
        raise InvalidRequestError(f"{model} is not here: {needed}; `{hub_cache.pull_command(model)}` downloads it")
    path = _download(model, origin, revision)
    print_line(f"{visible(model)} is complete in {visible(str(path))}")


def _with_revision(model: str, revision: str | None) -> str:
    if revision is None:
        return model
    repo_id, own = library.on_hub(model)
    if "@" in model:
        raise InvalidRequestError(f"{model} names the revision {own}, and --revision names {revision}: give one")
    return f"{repo_id}@{revision}"


def _check_family(origin: Origin) -> None:
    """Raise UnsupportedModelError if config.json is of another family, before anything is stored."""
    if CONFIG_NAME not in origin.files:
        raise CheckpointError(f"{origin.repo_id} has no {CONFIG_NAME}: it is not a model that runs here")
    source = HubSource(origin)
    try:
        data = source.read(CONFIG_NAME, range(min(origin.files[CONFIG_NAME].size, json_file.MAX_BYTES)))
    finally:
        source.close()
    name = f"{origin.repo_id}/{CONFIG_NAME}"
    families.read_config(json_file.parse(data, name), name)


def _needed(model: str, origin: Origin, missing: int, total: int) -> str:
    """Return what is to be downloaded, and to where. Raises CheckpointError if there is no room."""
    cache = hub_cache.directory()
    free = durable_file.free_bytes(cache)
    if missing > free:
        raise CheckpointError(
            f"{model} needs {bytes_text(missing)} more on the disk of {cache}, which has {bytes_text(free)} free: "
            f"`moe-cluster ls` lists the models there, `moe-cluster rm MODEL` deletes one, HF_HUB_CACHE names another "
            f"directory"
        )
    part = f" of {bytes_text(total)}" if missing < total else ""
    what = f"{origin.repo_id} at {origin.commit[:8]}"
    return f"{bytes_text(missing)}{part} of {visible(what)} would be downloaded to {cache} ({bytes_text(free)} free)"


def _download(model: str, origin: Origin, revision: str) -> Path:
    with progress_bar(f"pulling {visible(model)}", "bytes") as draw:
        try:
            return hub_download.download(origin, revision, _one_at_a_time(draw))
        except KeyboardInterrupt:
            print_line(f"what has arrived is kept; `{hub_cache.pull_command(model)}` goes on")
            raise


def _one_at_a_time(draw: OnProgress) -> OnProgress:
    """Return a callback that several threads may call."""
    drawing = threading.Lock()

    def report(done: int, total: int) -> None:
        with drawing:
            draw(done, total)

    return report
