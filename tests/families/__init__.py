"""What the tests of each family need to know: a module a model type, named like it.

A module has `CONFIG`, the values of a tiny configuration for transformers, and `KNOWN_BY`, the models that people know
the family by. It may have `ALIASES`, further model types that are read alike; `VARIANTS`, further configurations by
what is said of them, each a set of changes; `MTP`, changes for a model that has one more layer, which is stored as the
MTP layer, or a text if that is tested elsewhere; `MLX_LM`, False if mlx-lm does not read what transformers saves;
`HUB_NAMES`, keys that published configurations spell otherwise than transformers 5 saves them; `HUB_ONLY`, what they
have besides; and `HUB_LACKS`, keys that only transformers 5 saves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FamilyData:
    """A family's module, read."""

    config: Mapping[str, Any]
    known_by: str
    aliases: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]]
    mtp: Mapping[str, Any] | str | None
    mlx_lm: bool
    hub_names: Mapping[str, str]
    hub_only: Mapping[str, Any]
    hub_lacks: tuple[str, ...]


NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""All families with data."""

WITHOUT_TRANSFORMERS = {"bailing_moe": "Ling and Ring"}
"""Registered families that transformers does not have, and the models they are known by: mlx-lm is their reference."""


def read(model_type: str) -> FamilyData:
    """Return the data of a family, by its name or an alias."""
    by_name = {name: vars(importlib.import_module(f"{__name__}.{name}")) for name in NAMES}
    aliases = {alias: values for values in by_name.values() for alias in values.get("ALIASES", ())}
    values = (aliases | by_name)[model_type]
    return FamilyData(
        values["CONFIG"],
        values["KNOWN_BY"],
        values.get("ALIASES", ()),
        values.get("VARIANTS", {}),
        values.get("MTP"),
        values.get("MLX_LM", True),
        values.get("HUB_NAMES", {}),
        values.get("HUB_ONLY", {}),
        values.get("HUB_LACKS", ()),
    )
