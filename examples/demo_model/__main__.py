"""Make the demo model: corpus, tokenizer, training, export, measurement, model card, in one command.

A run that was stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer

from examples.demo_model import checkpoint
from examples.demo_model.architecture import Architecture
from examples.demo_model.evaluation import evaluate, sampled_answers
from examples.demo_model.model import DemoModel
from examples.demo_model.model_card import QUESTIONS, Making, model_card
from examples.demo_model.tokenization import trained_tokenizer
from examples.demo_model.training import Recipe, Trainer


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo_model", description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--steps", type=int, default=Recipe().n_steps)
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"), help="where training keeps its state")
    parser.add_argument("--output", type=Path, default=Path("mlx_moe/demo"), help="where the checkpoint goes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # One thread: sums of floats in one order, so the same seed gives the same model on the same kind of CPU.
    torch.set_num_threads(1)

    architecture = Architecture()
    recipe = Recipe(seed=options.seed, n_steps=options.steps)
    state = options.work / f"seed-{recipe.seed}-steps-{recipe.n_steps}"
    tokenizer = _tokenizer(state / "tokenizer.json", recipe.seed, architecture.vocab_size)
    trainer = Trainer(tokenizer, architecture, recipe, state)
    trainer.run()
    checkpoint.write(options.output, trainer.model, tokenizer)
    _write_card(options.output, trainer, tokenizer)


def _tokenizer(path: Path, seed: int, vocab_size: int) -> Tokenizer:
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = trained_tokenizer(seed, vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def _write_card(directory: Path, trainer: Trainer, tokenizer: Tokenizer) -> None:
    """Measure the checkpoint as it was stored, and put its card beside it."""
    model = checkpoint.read(directory)
    making = Making(
        seed=trainer.recipe.seed,
        n_steps=trainer.step,
        n_tokens=trainer.seen_tokens,
        seconds=trainer.seconds,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        active_parameters=_active_parameters(model),
        weight_bytes=(directory / "model.safetensors").stat().st_size,
    )
    card = model_card(
        model.architecture, making, evaluate(model, tokenizer), sampled_answers(model, tokenizer, QUESTIONS)
    )
    (directory / "README.md").write_text(card + "\n")


def _active_parameters(model: DemoModel) -> int:
    """Count what one token uses, without MTP: its experts, its row of the embedding, and all the rest."""
    a = model.architecture
    active = 0.0
    for name, parameter in model.named_parameters():
        if name.startswith(f"model.layers.{a.num_hidden_layers}."):
            continue
        share = a.num_experts_per_tok / a.n_routed_experts if "switch_mlp" in name else 1.0
        active += parameter.numel() * (1 / a.vocab_size if "embed_tokens" in name else share)
    return round(active)


if __name__ == "__main__":
    main()
