"""Recipe: how matrices are quantized while a checkpoint is loaded or converted. Knows no files and no MLX."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import QuantizationConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """The quantization of routed experts and of all other matrices; None: as they are stored.

    Routers, norms and correction biases are never quantized, nor are matrices whose rows are no multiple of the group.
    """

    experts: QuantizationConfig | None = None
    others: QuantizationConfig | None = None

    def of(self, parameter: Parameter) -> QuantizationConfig | None:
        """Return the quantization of a parameter; None: as it is stored."""
        wanted = self.experts if parameter.routed else self.others
        if wanted is None or not parameter.matrix or parameter.float32:
            return None
        return None if parameter.layouts[0].shape[-1] % wanted.group_size else wanted


AS_STORED = Recipe()
