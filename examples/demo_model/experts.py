"""Feed-forward blocks: one network, or a router and its experts.

Shapes: B sequences, L positions, T = B * L tokens, D hidden_size, H heads, E experts, K num_experts_per_tok.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.demo_model.architecture import Architecture


class MLP(nn.Module):
    """Apply one SwiGLU feed-forward network."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output `[..., D]` for x `[..., D]`."""
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down


class Router(nn.Module):
    """Choose K experts per token inside the best groups, with sigmoid scores.

    The correction bias takes part in the choice only, never in the weights. `load` counts the tokens
    that each expert got since the bias was last moved.
    Source: DeepSeek-V3 report, section 2.1.2.
    """

    e_score_correction_bias: Tensor
    load: Tensor

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.a = a
        self.weight = nn.Parameter(torch.empty(a.n_routed_experts, a.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(a.n_routed_experts))
        self.register_buffer("load", torch.zeros(a.n_routed_experts), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts `[T, K]` and their weights `[T, K]` for x `[T, D]`."""
        a = self.a
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.weight).sigmoid()
        with torch.no_grad():
            biased = scores + self.e_score_correction_bias
            grouped = biased.view(-1, a.n_group, a.n_routed_experts // a.n_group)
            group_scores = grouped.topk(2, dim=-1).values.sum(-1)
            groups = group_scores.topk(a.topk_group, dim=-1).indices
            dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, groups, False)
            allowed = grouped.masked_fill(dropped.unsqueeze(-1), float("-inf")).flatten(1)
            experts = allowed.topk(a.num_experts_per_tok, dim=-1).indices
            self.load += torch.bincount(experts.flatten(), minlength=a.n_routed_experts)
        weights = scores.gather(1, experts)
        weights = weights / weights.sum(-1, keepdim=True) * a.routed_scaling_factor
        return experts, weights

    def rebalance(self, step: float) -> None:
        """Move the bias by step towards experts with less than the mean load, and forget the load."""
        self.e_score_correction_bias += step * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Stack(nn.Module):
    """Hold one matrix per expert, `[E, out, in]`."""

    def __init__(self, n_experts: int, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, out_features, in_features))


class Experts(nn.Module):
    """Apply the routed experts, each to the tokens that chose it."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gate_proj = Stack(a.n_routed_experts, a.moe_intermediate_size, a.hidden_size)
        self.up_proj = Stack(a.n_routed_experts, a.moe_intermediate_size, a.hidden_size)
        self.down_proj = Stack(a.n_routed_experts, a.hidden_size, a.moe_intermediate_size)

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum `[T, D]` of the chosen experts' outputs."""
        K = experts.shape[1]
        chosen, order = experts.flatten().sort(stable=True)
        counts = torch.bincount(chosen, minlength=self.gate_proj.weight.shape[0]).tolist()
        rows = order // K
        hidden = torch.cat((self.gate_proj.weight, self.up_proj.weight), dim=1)
        outputs = [
            F.linear(_swiglu(F.linear(tokens, into)), back)
            for tokens, into, back in zip(
                torch.split(x[rows], counts), hidden.unbind(), self.down_proj.weight.unbind(), strict=True
            )
            if tokens.shape[0]
        ]
        weighted = torch.cat(outputs) * weights.flatten()[order].unsqueeze(-1).to(x.dtype)
        return torch.zeros_like(x).index_add_(0, rows, weighted.to(x.dtype))


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class MoE(nn.Module):
    """Add the shared expert to the routed ones."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gate = Router(a)
        self.switch_mlp = Experts(a)
        self.shared_experts = MLP(a.hidden_size, a.moe_intermediate_size * a.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output `[B, L, D]` for x `[B, L, D]`."""
        flat = x.flatten(0, 1)
        experts, weights = self.gate(flat)
        routed: Tensor = self.switch_mlp(flat, experts, weights).view_as(x)
        shared: Tensor = self.shared_experts(x)
        return routed + shared
