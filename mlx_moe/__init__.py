"""The engine: checkpoints, model families, KV caches, sampling, tokenizers, generation on one machine. No network.

Importing it is cheap: MLX is imported with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_moe.checkpoint import library as library
    from mlx_moe.decoding.chunking import ChunkRule as ChunkRule
    from mlx_moe.decoding.generation import Generation as Generation
    from mlx_moe.decoding.request import Request as Request
    from mlx_moe.decoding.request import Token as Token
    from mlx_moe.errors import MoeClusterError as MoeClusterError
    from mlx_moe.model import Model as Model
    from mlx_moe.model import generate as generate
    from mlx_moe.model import load as load
    from mlx_moe.sampling_params import SamplingParams as SamplingParams
    from mlx_moe.summary import ModelSummary as ModelSummary
    from mlx_moe.summary import describe as describe

_HOMES = {
    "ChunkRule": "decoding.chunking",
    "MoeClusterError": "errors",
    "Generation": "decoding.generation",
    "Model": "model",
    "ModelSummary": "summary",
    "Request": "decoding.request",
    "SamplingParams": "sampling_params",
    "Token": "decoding.request",
    "describe": "summary",
    "generate": "model",
    "load": "model",
}
_MODULES = {"library": "checkpoint.library"}

__all__ = sorted({*_HOMES, *_MODULES})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
