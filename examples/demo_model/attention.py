"""Multi-head latent attention, and the norm and rotation it is made of.

Shapes: B sequences, L positions, T = B * L tokens, D hidden_size, H heads, E experts, K num_experts_per_tok.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.demo_model.architecture import Architecture


@dataclass(frozen=True, slots=True)
class HeadStates:
    """Hold what attention at one pass may attend to: keys and values `[B, H, L, qk_head_dim]`."""

    keys: Tensor
    values: Tensor

    def extended(self, later: HeadStates) -> HeadStates:
        """Return these states followed by later ones."""
        return HeadStates(torch.cat((self.keys, later.keys), dim=2), torch.cat((self.values, later.values), dim=2))


class RMSNorm(nn.Module):
    """Normalise by root mean square, then scale per channel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return hidden_states `[..., width]` normed."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight.to(hidden_states.dtype), self.eps)


class Rotary(nn.Module):
    """Rotate interleaved pairs (x0, x1), (x2, x3), ... by their position, as DeepSeek does."""

    turns: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.qk_rope_head_dim
        frequencies = architecture.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.arange(architecture.max_position_embeddings + 8, dtype=torch.float64)[:, None] * frequencies
        turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x: Tensor, start: int) -> Tensor:
        """Rotate x `[B, L, heads, qk_rope_head_dim]` whose first row stands at position start."""
        turns = self.turns[start : start + x.shape[1], None]
        pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Attend with low-rank queries and a compressed key/value latent (MLA).

    Source: DeepSeek-V2 report, section 2.1.
    """

    def __init__(self, a: Architecture, rotary: Rotary) -> None:
        super().__init__()
        self.a = a
        self.rotary = (rotary,)  # a tuple, so that the shared buffer is not registered in every layer
        self.q_a_proj = nn.Linear(a.hidden_size, a.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(a.q_lora_rank, 1e-6)
        self.q_b_proj = nn.Linear(a.q_lora_rank, a.num_attention_heads * a.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(a.hidden_size, a.kv_lora_rank + a.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(a.kv_lora_rank, 1e-6)
        self.kv_b_proj = nn.Linear(
            a.kv_lora_rank, a.num_attention_heads * (a.qk_nope_head_dim + a.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(a.num_attention_heads * a.v_head_dim, a.hidden_size, bias=False)

    def forward(self, x: Tensor, mask: Tensor, past: HeadStates | None, start: int) -> tuple[Tensor, HeadStates]:
        """Attend from x `[B, L, D]` to past and x, with mask `[B, 1, L, past + L]` added to the scores.

        Return the output `[B, L, D]` and the keys and values of x alone.
        """
        a = self.a
        B, L, _ = x.shape
        (rotary,) = self.rotary
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(B, L, a.num_attention_heads, -1)
        q_nope, q_pe = q.split([a.qk_nope_head_dim, a.qk_rope_head_dim], dim=-1)
        latent, k_pe = self.kv_a_proj_with_mqa(x).split([a.kv_lora_rank, a.qk_rope_head_dim], dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(B, L, a.num_attention_heads, -1)
        k_nope, v = kv.split([a.qk_nope_head_dim, a.v_head_dim], dim=-1)
        k_pe = rotary(k_pe.unsqueeze(2), start).expand(B, L, a.num_attention_heads, a.qk_rope_head_dim)
        q = torch.cat((q_nope, rotary(q_pe, start)), dim=-1).transpose(1, 2)
        k = torch.cat((k_nope, k_pe), dim=-1).transpose(1, 2)
        # The CPU kernel wants equal widths; the zero columns are cut off again.
        v = F.pad(v, (0, a.qk_head_dim - a.v_head_dim)).transpose(1, 2)
        own = HeadStates(k, v)
        seen = own if past is None else past.extended(own)
        mixed = F.scaled_dot_product_attention(q, seen.keys, seen.values, attn_mask=mask.to(q.dtype))
        mixed = mixed[..., : a.v_head_dim]
        return self.o_proj(mixed.transpose(1, 2).reshape(B, L, -1)), own
