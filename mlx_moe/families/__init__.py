"""Families: the supported model families. Each is a module that reads config.json and describes the layers.

The blocks that compute are shared: `mlx_moe/layers/`.
"""

from mlx_moe.families.ends import has_mtp, head_parameters, missing_mtp, mtp_parameters
from mlx_moe.families.registry import cache_costs, config_of, layer, read_config

__all__ = [
    "cache_costs",
    "config_of",
    "has_mtp",
    "head_parameters",
    "layer",
    "missing_mtp",
    "mtp_parameters",
    "read_config",
]
