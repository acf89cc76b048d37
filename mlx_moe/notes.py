"""Notes: one line each about a checkpoint's problems that do not prevent running it."""

from __future__ import annotations

from mlx_moe import rope_config
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.text.generation_defaults import GenerationDefaults


def notes(model: str, checkpoint: Checkpoint, defaults: GenerationDefaults) -> tuple[str, ...]:
    """Return the notes about sampling defaults, the directory chosen for `model`, and the rope settings."""
    rope = rope_config.note(checkpoint.config)
    return (*defaults.notes, *library.notes(model, checkpoint.directory), *([rope] if rope else []))
