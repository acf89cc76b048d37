"""The demo model in torch: DeepSeek-V3 with one multi-token-prediction (MTP) layer, for training.

Parameters carry the checkpoint's names; experts are stacked as in mlx-community checkpoints. Knows
nothing of files or quantisation.

Shapes: B sequences, L positions, T = B * L tokens, D hidden_size, H heads, E experts, K num_experts_per_tok.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.demo_model.architecture import Architecture
from examples.demo_model.attention import Attention, HeadStates, RMSNorm, Rotary
from examples.demo_model.experts import MLP, MoE, Router


class DecoderLayer(nn.Module):
    """Run attention and a feed-forward block, each normed before and added to its input."""

    def __init__(self, a: Architecture, rotary: Rotary, dense: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.self_attn = Attention(a, rotary)
        self.post_attention_layernorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.mlp = MLP(a.hidden_size, a.intermediate_size) if dense else MoE(a)

    def forward(
        self, x: Tensor, mask: Tensor, past: HeadStates | None = None, start: int = 0
    ) -> tuple[Tensor, HeadStates]:
        """Return the new hidden states `[B, L, D]` and this pass's keys and values."""
        mixed, own = self.self_attn(self.input_layernorm(x), mask, past, start)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), own


class SharedHead(nn.Module):
    """Hold the MTP layer's output norm; its head is the main model's lm_head."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)


class NextNLayer(DecoderLayer):
    """Predict the token after the next one from a hidden state and the next token's embedding.

    The hidden state is the one that the lm_head reads, so after the final norm; chained predictions
    recycle this layer's own output after shared_head.norm. eh_proj reads the embedding first.
    Source: DeepSeek-V3 report, section 2.2; order and norms as vLLM's deepseek_mtp.py.
    """

    def __init__(self, a: Architecture, rotary: Rotary) -> None:
        super().__init__(a, rotary, dense=False)
        self.enorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.hnorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * a.hidden_size, a.hidden_size, bias=False)
        self.shared_head = SharedHead(a)

    def predict(
        self,
        embedded: Tensor,
        hidden_states: Tensor,
        mask: Tensor,
        past: HeadStates | None = None,
        start: int = 0,
    ) -> tuple[Tensor, HeadStates]:
        """Return the hidden states `[B, L, D]` for lm_head, and this pass's keys and values."""
        joined = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden_states)), dim=-1))
        x, own = self(joined, mask, past, start)
        return self.shared_head.norm(x), own


class Trunk(nn.Module):
    """Embed, run the decoder layers, and norm; the MTP layer stands behind them, unused here."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        rotary = Rotary(a)
        self.embed_tokens = nn.Embedding(a.vocab_size, a.hidden_size)
        self.layers = nn.ModuleList(
            [
                *(DecoderLayer(a, rotary, dense=i < a.first_k_dense_replace) for i in range(a.num_hidden_layers)),
                *(NextNLayer(a, rotary) for _ in range(a.num_nextn_predict_layers)),
            ]
        )
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)


class DemoModel(nn.Module):
    """Join the trunk, the MTP layer and the lm_head."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Trunk(architecture)
        self.lm_head = nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        self._initialise()

    @property
    def nextn(self) -> NextNLayer:
        """Return the MTP layer."""
        layer = self.model.layers[self.architecture.num_hidden_layers]
        if not isinstance(layer, NextNLayer):
            raise TypeError(f"layer {self.architecture.num_hidden_layers} is {type(layer).__name__}")
        return layer

    @property
    def routers(self) -> dict[int, Router]:
        """Return the router of each MoE layer by layer index."""
        return {
            index: layer.mlp.gate
            for index, layer in enumerate(self.model.layers)
            if isinstance(layer, DecoderLayer) and isinstance(layer.mlp, MoE)
        }

    def hidden(
        self, input_ids: Tensor, mask: Tensor, past: list[HeadStates] | None = None, start: int = 0
    ) -> tuple[Tensor, list[HeadStates]]:
        """Return normed hidden states `[B, L, D]` of input_ids `[B, L]`, and each layer's keys and values."""
        x = self.model.embed_tokens(input_ids)
        states: list[HeadStates] = []
        for index in range(self.architecture.num_hidden_layers):
            layer_past = None if past is None else past[index]
            x, own = self.model.layers[index](x, mask, layer_past, start)
            states.append(own)
        return self.model.norm(x), states

    def _initialise(self) -> None:
        deep = (2 * self.architecture.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            std = parameter.shape[-1] ** -0.5
            if "o_proj" in name or "down_proj" in name:
                std *= deep
            if "embed_tokens" in name or "lm_head" in name or name.endswith("gate.weight"):
                std = 0.02
            nn.init.normal_(parameter, std=std)


def document_mask(input_ids: Tensor, bos_token_id: int) -> Tensor:
    """Return the additive causal mask `[B, 1, L, L]` under which no token sees past its document's bos."""
    document = (input_ids == bos_token_id).cumsum(dim=1)
    L = input_ids.shape[1]
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    visible = causal & (document[:, :, None] == document[:, None, :])
    return additive(visible).unsqueeze(1)


def additive(visible: Tensor) -> Tensor:
    """Return a mask to add to attention scores: 0 where visible, else minus infinity."""
    return torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))
