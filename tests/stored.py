"""Models on a made-up disk: the demo model in the Hugging Face cache, in folders, and in part."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlx_moe.checkpoint import hub_cache, library, tensor_file
from mlx_moe.checkpoint.share import Share

DEMO = library.locate("demo")
WEIGHTS = "model.safetensors"


def in_cache(repo_id: str, commit: str, source: Path = DEMO, ref: str = "main") -> Path:
    """Add a snapshot to the cache as huggingface_hub does: links to blobs, which equal files share; return it."""
    repo = hub_cache.directory() / f"models--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for path in (repo / "blobs", repo / "refs", snapshot):
        path.mkdir(parents=True, exist_ok=True)
    for file in filter(Path.is_file, source.iterdir()):
        blob = repo / "blobs" / f"{file.name}-{file.stat().st_size}"
        if not blob.exists():
            shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    (repo / "refs" / ref).write_text(commit)
    return snapshot


def in_part(directory: Path, *layers: int) -> Path:
    """Make a share of the demo model with all tensors of some layers; return it."""
    directory.mkdir(parents=True)
    for file in filter(Path.is_file, DEMO.iterdir()):
        if file.name != WEIGHTS:
            shutil.copy(file, directory)
    data = (DEMO / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    tensor_file.header_path(directory / WEIGHTS).write_bytes(data[:end])
    share = Share(directory)
    for tensor in tensor_file.read(DEMO / WEIGHTS).tensors.values():
        if any(f".layers.{layer}." in tensor.name for layer in layers):
            share.write(WEIGHTS, tensor.offset, memoryview(data)[tensor.offset : tensor.offset + tensor.nbytes])
    share.close()
    return directory
