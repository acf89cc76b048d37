"""Muon: momentum whose every matrix update is orthogonalised, for stacks of matrices at once.

Source: Keller Jordan's Muon (2024), with the update scaled to AdamW's size as in Moonlight
(arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Train parameters of shape `[..., out, in]`; the leading dimensions are separate matrices."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> Any:
        """Update every parameter from its gradient.

        Raises:
            TypeError: if a closure is given; Muon evaluates none.
        """
        if closure is not None:
            raise TypeError("Muon takes one step from the gradients that are there and evaluates no closure")
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        velocity = state["momentum"]
        velocity.lerp_(gradient, 1 - group["momentum"])
        update = orthogonalised(gradient.lerp(velocity, group["momentum"]))
        scale = 0.2 * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return the nearest half-orthogonal matrices, by five quintic Newton-Schulz steps."""
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.mT if tall else x
