"""Training: losses, schedule, and a loop that can be stopped and resumed at any checkpoint."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples.demo_model.architecture import Architecture
from examples.demo_model.batches import Batch, long_rows, short_rows
from examples.demo_model.drafting import chained
from examples.demo_model.model import DemoModel, document_mask
from examples.demo_model.muon import Muon
from examples.demo_model.tokenization import BOS_ID

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold everything that decides a training run, beside the corpus and the architecture."""

    seed: int = 0
    n_steps: int = 2500
    n_rows: int = 12
    row_length: int = 256
    long_row_length: int = 2048
    long_every: int = 4
    long_from: float = 0.25
    chain_from: float = 0.5
    matrix_lr: float = 4e-3
    other_lr: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.5
    weight_decay: float = 0.02
    nextn_weights: tuple[float, float] = (0.3, 0.15)
    bias_step: float = 0.004
    checkpoint_every: int = 100

    def lr_factor(self, step: int) -> float:
        """Return the share of the learning rate at a step: warm-up, plateau, linear decay."""
        decay_steps = self.n_steps * self.decay_share
        return min(1.0, (step + 1) / self.warmup_steps, max(0.02, (self.n_steps - step) / decay_steps))


@dataclass(frozen=True, slots=True)
class Losses:
    """Hold the mean cross-entropies of a batch: of the next token, and of the MTP layer's depths."""

    main: Tensor
    nextn: tuple[Tensor, ...]


def losses(model: DemoModel, batch: Batch, depths: int) -> Losses:
    """Return the losses over answer tokens, the MTP layer's for the first depths of its chain."""
    ids, answer = batch.input_ids, batch.is_answer
    mask = document_mask(ids, BOS_ID)
    hidden, _ = model.hidden(ids, mask)
    return Losses(
        _cross_entropy(model, hidden, ids, answer, ahead=1),
        tuple(
            _cross_entropy(model, drafted, ids, answer, ahead=depth + 1)
            for depth, drafted in enumerate(chained(model, ids, hidden, mask, depths), start=1)
        ),
    )


def _cross_entropy(model: DemoModel, hidden: Tensor, ids: Tensor, answer: Tensor, ahead: int) -> Tensor:
    chosen = answer[:, ahead:]
    logits = model.lm_head(hidden[:, :-ahead][chosen])
    return F.cross_entropy(logits.float(), ids[:, ahead:][chosen])


class Trainer:
    """Train a model by a recipe, and keep its state in a directory."""

    def __init__(self, tokenizer: Tokenizer, architecture: Architecture, recipe: Recipe, directory: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.directory = directory
        self.model = DemoModel(architecture)
        self.optimizers = _optimizers(self.model, recipe)
        self.step = 0
        self.seen_tokens = 0
        self.seconds = 0.0
        if self._state_path.exists():
            self._load()

    @property
    def _state_path(self) -> Path:
        return self.directory / "state.pt"

    def run(self) -> None:
        """Train to the recipe's last step."""
        while self.step < self.recipe.n_steps:
            self._train_step()
            if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.n_steps:
                self._validate()
                self._save()

    def _train_step(self) -> None:
        recipe, began = self.recipe, time.monotonic()
        rng = Random(f"{recipe.seed} step {self.step}")
        if self.step >= recipe.long_from * recipe.n_steps and self.step % recipe.long_every == 0:
            batch = long_rows(self.tokenizer, rng, "train", 1, recipe.long_row_length)
        else:
            batch = short_rows(self.tokenizer, rng, "train", recipe.n_rows, recipe.row_length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = losses(self.model, batch, 2 if self.step >= recipe.chain_from * recipe.n_steps else 1)
        total = found.main
        for weight, loss in zip(recipe.nextn_weights, found.nextn, strict=False):
            total = total + weight * loss
        torch.autograd.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, lr in zip(self.optimizers, (recipe.matrix_lr, recipe.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * recipe.lr_factor(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # The bias stands still at the end, so that the last weights are trained under the final routing.
        bias_step = recipe.bias_step if self.step < 0.95 * recipe.n_steps else 0.0
        for router in self.model.routers.values():
            router.rebalance(bias_step)
        self.step += 1
        self.seen_tokens += int((batch.input_ids != 0).sum())
        self.seconds += time.monotonic() - began
        if self.step % 20 == 0:
            logger.info(
                "trained step=%d loss=%.4f nextn=%s grad_norm=%.2f tokens=%d seconds=%.0f",
                self.step,
                found.main.item(),
                "/".join(f"{loss.item():.4f}" for loss in found.nextn),
                norm.item(),
                self.seen_tokens,
                self.seconds,
            )

    def _validate(self) -> None:
        batch = short_rows(self.tokenizer, Random("validation"), "held-out", 32, self.recipe.row_length)
        with torch.no_grad():
            found = losses(self.model, batch, depths=2)
        load = torch.stack([router.load / router.load.mean() for router in self.model.routers.values()])
        for router in self.model.routers.values():
            router.load.zero_()
        logger.info(
            "validated step=%d loss=%.4f nextn=%s max_load=%.2f min_load=%.2f",
            self.step,
            found.main.item(),
            "/".join(f"{loss.item():.4f}" for loss in found.nextn),
            load.max().item(),
            load.min().item(),
        )

    def _save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self._state_path.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "progress": json.dumps([self.step, self.seen_tokens, self.seconds]),
            },
            unfinished,
        )
        unfinished.replace(self._state_path)

    def _load(self) -> None:
        state = torch.load(self._state_path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seen_tokens, self.seconds = json.loads(state["progress"])


def _optimizers(model: DemoModel, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices inside the layers, and AdamW for embedding, head, routers and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        outer = parameter.ndim < 2 or "embed_tokens" in name or "lm_head" in name or name.endswith("gate.weight")
        (others if outer else matrices).append(parameter)
    return (
        Muon(matrices, lr=recipe.matrix_lr, momentum=0.95, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    )
