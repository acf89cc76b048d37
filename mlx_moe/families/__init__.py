"""The model families. Each is a small module: how it reads config.json, and the attention it brings.

The blocks they are made of are shared: `mlx_moe/layers/`.
"""

from mlx_moe.families.ends import has_mtp, head_parameters, missing_mtp, mtp_parameters
from mlx_moe.families.layer import build_experts, build_layer, expert_parameters, layer_parameters
from mlx_moe.families.registry import read_config

__all__ = [
    "build_experts",
    "build_layer",
    "expert_parameters",
    "has_mtp",
    "head_parameters",
    "layer_parameters",
    "missing_mtp",
    "mtp_parameters",
    "read_config",
]
