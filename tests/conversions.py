"""Conversions for tests: one call that converts a directory, here or in a process that is killed on its way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import Recipe, uniform
from mlx_moe.checkpoint.share import Share
from mlx_moe.conversion import partial_conversion
from mlx_moe.conversion.conversion import Conversion, Progress
from mlx_moe.conversion.filling import fill
from mlx_moe.conversion.plan import plan
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests.patience import PATIENCE_S

KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from mlx_moe.checkpoint import durable_file
from tests.conversions import converted

source, directory, name = sys.argv[1:]
replace = os.replace

def replace_or_die(partial, path):
    if Path(path).name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(partial, path)

os.replace = replace_or_die
converted(Path(source), Path(directory))
"""


def converted(
    source: Path,
    directory: Path,
    recipe: Recipe | None = None,
    *,
    keep_mtp: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Convert a checkpoint, to 4 bits unless a recipe says otherwise; return where it is."""
    with Checkpoint.open(source) as checkpoint:
        config = families.config_of(checkpoint)
        planned = plan(checkpoint, config, recipe or uniform(4), keep_mtp=keep_mtp)
        Conversion(checkpoint, planned, directory, str(source), keep_mtp=keep_mtp).run(progress)
    return directory


def add_part(source: Path, directory: Path, spec: ShardSpec, recipe: Recipe | None = None, *, ends: bool = True) -> int:
    """Add layers, and embedding and lm_head if `ends`, to a partial conversion; return how many bytes were written."""
    recipe = recipe or uniform(4)
    with Checkpoint.open(source) as original:
        config = families.config_of(original)
        parameters = spec.parameters(config) + (families.head_parameters(config) if ends else [])
        partial_conversion.begin(directory, original, recipe)
        with Checkpoint.open(directory) as target, closing(Share(directory)) as share:
            rows = partial_conversion.lacking(original, target, share, recipe, parameters)
            fill(share, original, rows)
            assert not partial_conversion.lacking(original, target, share, recipe, parameters)
    return sum(one.nbytes for one in rows)


def killed_before(name: str, source: Path, directory: Path) -> None:
    """Convert in a process that is killed when it is about to give the file `name` its name."""
    command = [sys.executable, "-c", KILLED_BEFORE_RENAME, str(source), str(directory), name]
    process = subprocess.run(command, timeout=PATIENCE_S, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


def tensor_digests(directory: Path) -> dict[str, Any]:
    """Return what digests.json says of each tensor, but for its file."""
    tensors = json.loads((directory / "digests.json").read_text())["tensors"]
    return {name: (t["dtype"], t["shape"], t["digest"]) for name, t in tensors.items()}
