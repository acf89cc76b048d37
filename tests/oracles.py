"""Oracles: what a checkpoint's numbers are by other implementations, and how far another's are from them.

These implementations are imported by the first test that needs one. Knows nothing of the engine. Shapes: L
positions, V vocab_size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from tests.checkpoints import Model, transformers

Logits = npt.NDArray[np.float32]
"""`[L, V]`."""

TOLERANCE = 1e-3
"""Largest difference of a logit from the oracle's, as a share of their spread; what is measured is about 1e-6."""

CLEAR_LEAD = 1e-4
"""Least lead of each greedy token over the second best, as a share of the spread: 50 times what was measured."""


@dataclass(frozen=True)
class Answer:
    """What was written after a prompt, and what transformers takes for the likeliest token at each of its places.

    If all are the same, transformers' greedy search writes them too. `logits` are those of prompt and `written`; `lead`
    is the least by which a likeliest token leads over the second best, as a share of their spread.
    """

    prompt: list[int]
    written: list[int]
    likeliest: list[int]
    logits: Logits
    lead: float


def random_ids(n: int, vocab_size: int, seed: int = 0) -> list[int]:
    """Return random token ids."""
    ids: list[int] = np.random.default_rng(seed).integers(0, vocab_size, n).tolist()
    return ids


def relative_difference(got: Logits, wanted: Logits) -> float:
    """Return the largest difference as a share of the wanted logits' spread; infinite if shapes differ, or for NaN."""
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - wanted).max() / (wanted.max() - wanted.min()))


def transformers_model(directory: Path, dtype: str = "float32") -> Model:
    """Return a checkpoint in one of its own layouts as transformers loads it."""
    import torch

    model, found = transformers().AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), output_loading_info=True
    )
    if found["missing_keys"] or found["mismatched_keys"]:
        raise AssertionError(f"{directory}: {found}")
    return model.eval()


def logits(model: Model, ids: Sequence[int]) -> Logits:
    """Return transformers' logits at every position."""
    import torch

    with torch.no_grad():
        result: Logits = model(torch.tensor([ids])).logits[0].float().numpy()
    return result


def clear_answer(model: Model, write: Callable[[list[int]], list[int]], n_prompt: int = 64) -> Answer:
    """Judge what `write` answers to the first of some random prompts after which every likeliest token leads clearly.

    Where two tokens are as likely, two right implementations may write different ones.
    """
    for seed in range(20):
        prompt = random_ids(n_prompt, model.config.vocab_size, seed)
        answer = judge(model, prompt, write(prompt))
        if answer.lead >= CLEAR_LEAD:
            return answer
    raise AssertionError("no prompt of 20 is answered with a clear lead")


def judge(model: Model, prompt: list[int], written: list[int]) -> Answer:
    """Run prompt and answer through transformers at once."""
    found = logits(model, [*prompt, *written])
    steps = found[len(prompt) - 1 : -1]
    second, best = np.sort(steps, axis=-1)[:, -2:].T
    lead = float((best - second).min() / (steps.max() - steps.min()))
    return Answer(prompt, written, steps.argmax(-1).tolist(), found, lead)


def greedy(model: Model, prompt: Sequence[int], n: int) -> list[int]:
    """Return the next `n` tokens of transformers' greedy search, past any end of turn."""
    import torch

    ids = torch.tensor([prompt])
    with torch.no_grad():
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            eos_token_id=model.config.vocab_size,  # no token
            pad_token_id=0,
        )
    token_ids: list[int] = written[0, len(prompt) :].tolist()
    return token_ids


def mtp_logits(model: Model, ids: Sequence[int]) -> Logits:
    """Return transformers' logits of the MTP layer, `[L-1, V]`: from each position and the next token, the one after.

    Transformers hands it the hidden states that the lm_head reads, after the final norm.
    """
    import torch
    from transformers.modeling_layers import MtpModel

    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{model.config.num_hidden_layers}\."]
    mtp: Any = MtpModel.from_pretrained(model)
    positions = torch.arange(1, len(ids))[None]
    with torch.no_grad():
        hidden_states = model.model(torch.tensor([ids])).last_hidden_state
        hidden_states = mtp.forward_layer(0, hidden_states[:, :-1], positions, None, torch.tensor([ids[1:]]))
        result: Logits = mtp.shared_head(hidden_states)[0].numpy()
    return result


def mlx_lm_logits(directory: Path, ids: Sequence[int]) -> Logits:
    """Return mlx-lm's logits at every position, computed in the checkpoint's dtype.

    No oracle where a router bias makes scores negative in a chosen group (it masks the others with 0), for the rope
    parameters of transformers 5's dialect, nor for yarn in qwen3_moe.
    """
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    return np.array(model(mx.array([list(ids)]))[0].astype(mx.float32))


def dequantize(source: Path, directory: Path) -> Path:
    """Write a checkpoint of MLX's layout as transformers loads it: matrices unpacked, stacks and names its own."""
    directory.mkdir()
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    how = config.pop("quantization", {})
    config.pop("quantization_config", None)
    (directory / "config.json").write_text(json.dumps(config))
    tensors = _transformers_names(_unpacked(source, how))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    for path in source.glob("tokenizer*"):
        shutil.copy(path, directory)
    return directory


def unpack(source: Path, directory: Path) -> Path:
    """Write a checkpoint of MLX's layout with its matrices unpacked, under the same names."""
    directory.mkdir()
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    how = config.pop("quantization")
    config.pop("quantization_config", None)
    (directory / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(directory / "model.safetensors"), _unpacked(source, how), metadata={"format": "mlx"})
    return directory


def _unpacked(directory: Path, quantization: dict[str, Any]) -> dict[str, mx.array]:
    """Return all tensors as float32, each matrix unpacked as its module's entry says."""
    stored: dict[str, mx.array] = {}
    for path in sorted(directory.glob("*.safetensors")):
        stored |= mx.load(str(path))
    weights = {}
    for name, array in stored.items():
        module = name.removesuffix(".weight")
        if f"{module}.scales" in stored:
            how = quantization.get(module, quantization)
            scales, biases = stored[f"{module}.scales"], stored.get(f"{module}.biases")
            array = mx.dequantize(
                array,
                scales if biases is None else scales.astype(mx.float32),
                None if biases is None else biases.astype(mx.float32),
                group_size=how["group_size"],
                bits=how["bits"],
                mode=how.get("mode", "affine"),
            )
        if not name.endswith((".scales", ".biases")):
            weights[name] = array.astype(mx.float32)
    return weights


def _transformers_names(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Fuse the stacks of gates and ups, and join what MLX split of `kv_b_proj`."""
    renamed = {}
    for name, array in weights.items():
        if name.endswith("switch_mlp.gate_proj.weight"):
            up = weights[name.replace("gate_proj", "up_proj")]
            renamed[name.replace("switch_mlp.gate_proj.weight", "experts.gate_up_proj")] = mx.concatenate(
                [array, up], 1
            )
        elif name.endswith("switch_mlp.down_proj.weight"):
            renamed[name.replace("switch_mlp.down_proj.weight", "experts.down_proj")] = array
        elif name.endswith("embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            joined = mx.concatenate([array.swapaxes(-1, -2), values], 1)
            renamed[name.replace("embed_q", "kv_b_proj")] = joined.reshape(-1, joined.shape[-1])
        elif not name.endswith(("switch_mlp.up_proj.weight", "unembed_out.weight")):
            renamed[name] = array
    return renamed


def mlx_lm_greedy(directory: Path, prompt: Sequence[int], n: int) -> list[int]:
    """Return the next `n` tokens of mlx-lm's greedy search, past any end of turn."""
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    return [int(token) for token, _ in generate_step(mx.array(list(prompt)), model, max_tokens=n)]
