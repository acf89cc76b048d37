"""Model names: completes what a person begins to type as MODEL."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_moe.known_models import KNOWN_MODELS

DEMO = "demo"


def complete(incomplete: str) -> list[str]:
    """Return the names that may be meant: of models on this machine, and short names."""
    return _beginning(incomplete, (DEMO, *_here(), *KNOWN_MODELS))


def complete_here(incomplete: str) -> list[str]:
    """Return the names of models on this machine that may be meant."""
    return _beginning(incomplete, _here())


def _here() -> Iterable[str]:
    from mlx_moe.checkpoint import library

    return library.names()


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.lower().startswith(incomplete.lower())]
