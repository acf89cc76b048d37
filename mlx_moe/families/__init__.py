"""The model families. Each is a small module: how it reads config.json, and what its layers are made of.

The blocks they are made of are shared: `mlx_moe/layers/`.
"""

from mlx_moe.families.ends import has_mtp, head_parameters, missing_mtp, mtp_parameters
from mlx_moe.families.registry import cache_costs, layer, read_config

__all__ = [
    "cache_costs",
    "has_mtp",
    "head_parameters",
    "layer",
    "missing_mtp",
    "mtp_parameters",
    "read_config",
]
