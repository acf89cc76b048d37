"""Measurements of a finished model: perplexity, exact answers, draft acceptance, balance of the experts.

Everything is computed with the weights as stored, dequantised, on text that training never saw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from examples.demo_model import (
    commands,
    differences,
    glossary,
    identity,
    memory,
    refusals,
    small_talk,
    stories,
    sums,
    trouble,
    wording,
    world,
)
from examples.demo_model.batches import Batch, long_rows, short_rows
from examples.demo_model.corpus import Conversation, Split
from examples.demo_model.decoding import generate
from examples.demo_model.drafting import chained
from examples.demo_model.model import DemoModel, additive, document_mask
from examples.demo_model.scene import Scene, Writer, is_held_out
from examples.demo_model.tokenization import BOS_ID, END_ID, encoded, prompt_ids
from examples.demo_model.training import losses

# What has one right answer; the others may be answered in several ways.
_EXACT: dict[str, tuple[Writer, ...]] = {
    "about itself": (identity.identity,),
    "terms of moe-cluster": (glossary.explanation, differences.difference),
    "commands and trouble": (commands.command, trouble.trouble),
    "sums never seen (add, subtract) and table of products": (sums.sum_,),
    "comparing and counting": (sums.number, sums.counting),
    "capitals, animals, opposites, calendar": (world.capital, world.animal, world.opposite, world.calendar),
    "repeat and spell": (wording.repetition, wording.spelling),
    "what the user told": (memory.own_name, memory.favourite, memory.pet, memory.last_words),
    "says that it does not know": (refusals.out_of_domain, refusals.beyond),
}
_FREE: dict[str, tuple[Writer, ...]] = {
    "small talk": (small_talk.small_talk,),
    "stories": (stories.story,),
    "lists": (wording.listing,),
}
_DEPTHS = 3
_MAX_ANSWER_TOKENS = 260


@dataclass(frozen=True, slots=True)
class Drafts:
    """Count drafts by depth: how many were made after right ones, and how many of them were right."""

    made: tuple[int, ...] = (0,) * _DEPTHS
    right: tuple[int, ...] = (0,) * _DEPTHS

    def __add__(self, other: Drafts) -> Drafts:
        return Drafts(
            tuple(map(sum, zip(self.made, other.made, strict=True))),
            tuple(map(sum, zip(self.right, other.right, strict=True))),
        )

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Return, by depth, the share of right drafts among those whose predecessors were right."""
        return tuple(right / max(made, 1) for right, made in zip(self.right, self.made, strict=True))


@dataclass(frozen=True, slots=True)
class TopicScore:
    """Hold how greedy answers to held-out prompts did; exact is None if many answers are right."""

    prompts: int
    exact: float | None
    ended: float
    drafts: Drafts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Hold every figure of the model card.

    Perplexities are per answer token. `expert_load` is each expert's share of the mean load, by layer.
    """

    held_out_perplexity: float
    train_perplexity: float
    perplexity_by_position: dict[range, float]
    topics: dict[str, TopicScore]
    expert_load: dict[int, list[float]]

    @property
    def drafts(self) -> Drafts:
        """Return the drafts of all topics together."""
        return sum((score.drafts for score in self.topics.values()), Drafts())


def evaluate(model: DemoModel, tokenizer: Tokenizer, prompts_per_topic: int = 60) -> Evaluation:
    """Measure a model."""
    with torch.no_grad():
        return Evaluation(
            held_out_perplexity=_perplexity(model, _batches(tokenizer, "held-out")),
            train_perplexity=_perplexity(model, _batches(tokenizer, "train")),
            perplexity_by_position=_by_position(model, tokenizer),
            topics={
                topic: _topic_score(model, tokenizer, writers, prompts_per_topic, topic in _EXACT)
                for topic, writers in (_EXACT | _FREE).items()
            },
            expert_load=_expert_load(model, _batches(tokenizer, "held-out")),
        )


def _batches(tokenizer: Tokenizer, split: Split) -> list[Batch]:
    return [short_rows(tokenizer, Random(f"evaluation {i}"), split, 16, 256) for i in range(12)]


def _answer_losses(model: DemoModel, batch: Batch) -> Tensor:
    """Return the cross-entropy `[B, L - 1]` of each next token, NaN where it is not an answer's."""
    hidden, _ = model.hidden(batch.input_ids, document_mask(batch.input_ids, BOS_ID))
    logits = model.lm_head(hidden[:, :-1])
    loss = F.cross_entropy(logits.transpose(1, 2), batch.input_ids[:, 1:], reduction="none")
    return loss.masked_fill(~batch.is_answer[:, 1:], math.nan)


def _perplexity(model: DemoModel, batches: Sequence[Batch]) -> float:
    losses = torch.cat([_answer_losses(model, batch).flatten() for batch in batches])
    return math.exp(losses.nanmean().item())


def _expert_load(model: DemoModel, batches: Sequence[Batch]) -> dict[int, list[float]]:
    """Return each expert's share of its layer's mean load; padding counts too, but rows have little."""
    for router in model.routers.values():
        router.load.zero_()
    for batch in batches:
        losses(model, batch, depths=1)
    return {index: (router.load / router.load.mean()).tolist() for index, router in model.routers.items()}


def _by_position(model: DemoModel, tokenizer: Tokenizer) -> dict[range, float]:
    """Return the held-out perplexity of long chats, by the position of the token."""
    length = model.architecture.max_position_embeddings
    losses = torch.cat(
        [_answer_losses(model, long_rows(tokenizer, Random(f"long {i}"), "held-out", 1, length)) for i in range(16)]
    )
    spans = [range(start, start + length // 4) for start in range(0, length, length // 4)]
    return {span: math.exp(losses[:, span.start : span.stop].nanmean().item()) for span in spans}


def _topic_score(
    model: DemoModel, tokenizer: Tokenizer, writers: tuple[Writer, ...], n_prompts: int, exact: bool
) -> TopicScore:
    rng = Random("topics")
    right = ended = 0
    drafts = Drafts()
    scenes = [_held_out(writers[i % len(writers)], rng) for i in range(n_prompts)]
    for scene in scenes:
        *_, last = scene.turns
        chat = encoded(tokenizer, Conversation(None, scene.turns))
        wanted = [*tokenizer.encode(last.assistant, add_special_tokens=False).ids, END_ID]
        prompt = chat.input_ids[: -len(wanted)]
        answer = generate(model, prompt, _MAX_ANSWER_TOKENS)
        right += answer == wanted
        ended += answer[-1] == END_ID
        drafts += _drafted(model, prompt, answer)
    return TopicScore(len(scenes), right / len(scenes) if exact else None, ended / len(scenes), drafts)


def _held_out(writer: Writer, rng: Random) -> Scene:
    while True:
        scene = writer(rng)
        if is_held_out(scene.key):
            return scene


def _drafted(model: DemoModel, prompt: list[int], answer: list[int]) -> Drafts:
    """Count which tokens of a greedy answer its MTP layer would have drafted, chained up to three deep.

    All positions at once: a draft deep in a chain counts only where the chain before it was right, and
    there the tokens it builds on are those of the answer.
    """
    ids = torch.tensor([prompt + answer])
    L = ids.shape[1]
    mask = additive(torch.ones(L, L, dtype=torch.bool).tril())[None, None]
    hidden, _ = model.hidden(ids, mask)
    # Position i guesses token i + depth + 1, so the first guess is made from the prompt's last position.
    alive = torch.arange(L) >= len(prompt) - 1
    made, right = [], []
    for depth, drafted in enumerate(chained(model, ids, hidden, mask, _DEPTHS), start=1):
        guesses = model.lm_head(drafted[0]).argmax(-1)
        alive = alive & (torch.arange(L) + depth + 1 < L)
        hit = alive & (guesses == ids[0].roll(-depth - 1))
        made.append(int(alive.sum()))
        right.append(int(hit.sum()))
        alive = hit
    return Drafts(tuple(made), tuple(right))


def sampled_answers(model: DemoModel, tokenizer: Tokenizer, questions: Sequence[str]) -> Mapping[str, str]:
    """Return the greedy answer to each question, each in a chat of its own."""
    return {
        question: tokenizer.decode(generate(model, prompt_ids(tokenizer, question), _MAX_ANSWER_TOKENS))
        for question in questions
    }
