"""A small checkpoint trained on this repository's own text: python -m bench.trained DIRECTORY [STEPS].

A Qwen3-MoE over bytes, in the layout of published originals, bfloat16. It learns for some two minutes on one core: long
enough that its weights and routers are no longer random, which is what quantization is measured on.
"""

from __future__ import annotations

import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from bench.synthetic import write_byte_tokenizer

ROOT = Path(__file__).parents[1]
BLOCK_BYTES = 256
HELD_OUT_EVERY = 20
"""One block of this many is kept for measuring."""

STEPS, ROWS, LEARNING_RATE = 500, 8, 4e-3

CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "max_position_embeddings": BLOCK_BYTES,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": False,
}


def main(directory: str, steps: str = str(STEPS)) -> None:
    """Train and save a model."""
    train(Path(directory), int(steps))


@cache
def blocks() -> tuple[list[bytes], list[bytes]]:
    """Return blocks of text to learn from, and others that are held out."""
    paths = [*ROOT.glob("*.md"), *(p for room in ("cli", "cluster", "mlx_moe") for p in (ROOT / room).rglob("*.*"))]
    texts = [path.read_bytes() for path in sorted(paths) if path.suffix in (".md", ".py") and "_pb2" not in path.name]
    found = [text[i : i + BLOCK_BYTES] for text in texts for i in range(0, len(text) - BLOCK_BYTES, BLOCK_BYTES)]
    learnt = [block for i, block in enumerate(found) if i % HELD_OUT_EVERY]
    return learnt, found[::HELD_OUT_EVERY]


def train(directory: Path, steps: int = STEPS) -> None:
    """Train a model and save it in a directory."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    drawn, (learnt, _) = random.Random(0), blocks()
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("qwen3_moe", **CONFIG))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        ids = torch.tensor([list(block) for block in drawn.sample(learnt, ROWS)])
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f} a byte", file=sys.stderr, flush=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    write_byte_tokenizer(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
