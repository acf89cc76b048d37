"""Parity: a stored checkpoint gives the same logits here, in transformers and in mlx-lm.

`python -m examples.demo_model.parity [DIRECTORY]`; nothing else here needs transformers and mlx-lm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn.layers.quantized as quantized_layers
import numpy as np
import torch
from mlx_lm.models import deepseek_v3
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from examples.demo_model import checkpoint
from examples.demo_model.model import DemoModel, document_mask
from examples.demo_model.tokenization import BOS_ID

TOLERANCE = 1e-3


def main() -> None:
    """Print the largest differences of logits; exit with 1 if one is too large."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo_model.parity", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("mlx_moe/demo"))
    directory = parser.parse_args().directory
    model = checkpoint.read(directory)
    input_ids = torch.randint(BOS_ID + 1, model.architecture.vocab_size, (2, 200), generator=_random())
    input_ids[:, 0] = BOS_ID
    with torch.no_grad():
        hidden, _ = model.hidden(input_ids, document_mask(input_ids, BOS_ID))
        ours: Tensor = model.lm_head(hidden)
    differences = {
        "transformers": (ours - transformers_logits(directory, model, input_ids)).abs().max().item(),
        "mlx-lm": (ours - mlx_lm_logits(directory, model, input_ids)).abs().max().item(),
    }
    for name, difference in differences.items():
        print(f"{name}: largest difference of logits {difference:.2e}")
    raise SystemExit(max(differences.values()) > TOLERANCE)


def transformers_logits(directory: Path, model: DemoModel, input_ids: Tensor) -> Tensor:
    """Return the logits `[B, L, V]` of transformers' DeepSeek-V3 with the dequantised weights."""
    stored = json.loads((directory / "config.json").read_text())
    dimensions = {key: value for key, value in stored.items() if not key.startswith("quantization")}
    dimensions["torch_dtype"] = "float32"
    reference = DeepseekV3ForCausalLM(DeepseekV3Config(**dimensions))
    state = model.state_dict()
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_nextn_prefix(model)) or name.endswith("switch_mlp.up_proj.weight"):
            continue
        if name.endswith("switch_mlp.gate_proj.weight"):
            up = state[name.replace("gate_proj", "up_proj")]
            weights[name.replace("switch_mlp.gate_proj.weight", "experts.gate_up_proj")] = torch.cat((tensor, up), 1)
        else:
            weights[name.replace("switch_mlp.down_proj.weight", "experts.down_proj")] = tensor
    reference.load_state_dict(weights)
    with torch.no_grad():
        logits: Tensor = reference(input_ids).logits
    return logits


def mlx_lm_logits(directory: Path, model: DemoModel, input_ids: Tensor) -> Tensor:
    """Return the logits `[B, L, V]` of mlx-lm's DeepSeek-V3 with the weights as stored, in float32.

    mlx-lm masks groups that were not chosen with 0, not minus infinity: the two agree as long as the
    chosen groups hold enough experts with a positive biased score.
    """
    stored = json.loads((directory / "config.json").read_text())
    fields = deepseek_v3.ModelArgs.__dataclass_fields__
    arguments = {key: value for key, value in stored.items() if key in fields}
    reference = deepseek_v3.Model(deepseek_v3.ModelArgs(**arguments))
    arrays = mx.load(str(directory / "model.safetensors"))
    if not isinstance(arrays, dict):
        raise TypeError(f"{directory} holds {type(arrays).__name__} in place of named arrays")
    weights = {
        name: array.astype(mx.float32) if array.dtype == mx.bfloat16 else array
        for name, array in arrays.items()
        if not name.startswith(_nextn_prefix(model))
    }
    quantization = stored["quantization"]
    quantized_layers.quantize(
        reference,
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        class_predicate=lambda path, module: hasattr(module, "to_quantized") and f"{path}.scales" in weights,
    )
    reference.load_weights(list(weights.items()))
    return torch.from_numpy(np.array(reference(mx.array(input_ids.numpy()))))


def _nextn_prefix(model: DemoModel) -> str:
    return f"model.layers.{model.architecture.num_hidden_layers}."


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()
