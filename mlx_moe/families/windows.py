"""Windows: models some of whose layers see only the last positions, and how their config.json tells which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_moe.config import GroupedQueryModelConfig
from mlx_moe.config_fields import ConfigFields

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class WindowedModelConfig(GroupedQueryModelConfig):
    """The configuration of a model with grouped-query attention and the window of each layer; None: it has none."""

    windows: tuple[int | None, ...]


def read_windows(fields: ConfigFields, slides: Sequence[bool], *, default: int) -> tuple[int | None, ...]:
    """Return the window of each layer by `layer_types` and `sliding_window`, whose default is `default`.

    Without `layer_types` those layers have one that `slides` names; null or 0 says that there are none.
    """
    types = fields.choices("layer_types", (SLIDING, FULL), [SLIDING if slide else FULL for slide in slides])
    window = fields.optional("sliding_window", default=default)
    return tuple(window if kind == SLIDING else None for kind in types)
