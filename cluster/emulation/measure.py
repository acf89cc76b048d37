"""Measure: the speed of an emulated cluster, and the planner's prediction of it. All figures are emulated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from cluster.client import RemoteModel
from cluster.emulation.cluster import emulated_cluster
from cluster.emulation.scenario import Scenario
from cluster.placement import Placement, Prediction, predict
from mlx_moe.decoding.request import GenerationStats, Request, Token

WARM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Decoded:
    """Simultaneous answers of some users: tokens per second, and whether each equals the script."""

    users: int
    tokens_per_s: float
    drafted: int
    accepted: int
    accepted_by_depth: tuple[float, ...]
    as_written: bool


@dataclass(frozen=True, slots=True)
class DrafterFigures:
    """The figures of one drafter."""

    draft: str
    decoded: tuple[Decoded, ...]
    ttft_s: dict[int, float]


async def measure(
    scenario: Scenario,
    placement: Placement,
    *,
    prompt: Sequence[int],
    tokens: int,
    users: Sequence[int],
    prompts: Sequence[int] = (),
) -> DrafterFigures:
    """Start the emulated cluster; measure answers for each number of users, then each length of prompts."""
    async with emulated_cluster(placement, lambda ids: scenario.on(ids).to_name()) as model:
        answers = [await asyncio.to_thread(together, model, Request.exactly(prompt, tokens), n) for n in users]
        ttft_s = {n: await asyncio.to_thread(_first_token_s, model, n) for n in prompts}
    script = scenario.script
    written = [script[i % len(script)] for i in range(len(prompt), len(prompt) + tokens)]
    return DrafterFigures(scenario.draft, tuple(decoded(of_users, written) for of_users in answers), ttft_s)


def predicted(scenario: Scenario, placement: Placement, prompts: Sequence[int]) -> Prediction:
    """Return the planner's prediction for the same cluster without drafts."""
    costs = replace(scenario.costs(), mtp=None)
    return predict(placement, costs, scenario.nodes, scenario.links(), prompts=prompts)


def without_drafts(scenario: Scenario) -> Scenario:
    """Return the same cluster without drafts."""
    return replace(scenario, draft="none", acceptance=())


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one user."""

    token_ids: list[int]
    logprobs: list[float]
    seconds: float
    """Time from the WARM_TOKENS-th token to the last."""
    stats: GenerationStats


def together(model: RemoteModel, request: Request, users: int) -> list[Answer]:
    """Send the same request from `users` users at once; return their answers."""
    with ThreadPoolExecutor(users) as threads:
        return list(threads.map(lambda _: _write(model, request), range(users)))


def decoded(answers: Sequence[Answer], written: Sequence[int]) -> Decoded:
    """Return the figures of simultaneous answers; `written` are the expected tokens of each."""
    depths = max(len(answer.stats.compared_by_depth) for answer in answers)
    compared = [sum(_at(answer.stats.compared_by_depth, i) for answer in answers) for i in range(depths)]
    accepted = [sum(_at(answer.stats.accepted_by_depth, i) for answer in answers) for i in range(depths)]
    return Decoded(
        users=len(answers),
        tokens_per_s=sum((len(answer.token_ids) - WARM_TOKENS) / answer.seconds for answer in answers),
        drafted=sum(answer.stats.drafted for answer in answers),
        accepted=sum(answer.stats.accepted for answer in answers),
        accepted_by_depth=tuple(a / c for a, c in zip(accepted, compared, strict=True) if c),
        as_written=all(answer.token_ids == list(written) for answer in answers),
    )


def _write(model: RemoteModel, request: Request) -> Answer:
    conversation = model.new_conversation()
    tokens: list[Token] = []
    begun = 0.0
    answer = conversation.answer(request)
    for token in answer:
        tokens.append(token)
        if len(tokens) == WARM_TOKENS:
            begun = time.monotonic()
    seconds = time.monotonic() - begun
    conversation.close()
    return Answer([token.id for token in tokens], [token.logprob for token in tokens], seconds, answer.stats)


def _at(counts: Sequence[int], index: int) -> int:
    return counts[index] if index < len(counts) else 0


def _first_token_s(model: RemoteModel, prompt_tokens: int) -> float:
    conversation = model.new_conversation()
    request = Request.exactly((1 + i % 97 for i in range(prompt_tokens)), 1)
    started = time.monotonic()
    answer = conversation.answer(request)
    next(answer)
    seconds = time.monotonic() - started
    answer.close()
    conversation.close()
    return seconds
