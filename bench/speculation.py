"""Drafts against plain decoding on real processes: python -m bench.speculation [STAGES] [MILLISECONDS] [ROUNDS].

Runs the demo model with its real layers, drafters and answers: one worker process per stage, one ring per way to draft.
Each stage takes at least MILLISECONDS per frame, like a stage of a large model, so that the processes do not compete
for this machine's cores. The rings run in alternation. The time for drafting is real, and less than with a large model.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.measurement import layer_shares
from cluster.client import RemoteModel
from cluster.cost_reader import read_costs
from cluster.emulation import stretched
from cluster.emulation.asked import REPEATED, STORY
from cluster.emulation.cluster import emulated_cluster
from cluster.emulation.measure import Answer, decoded, together
from cluster.placement import Placement, spread
from cluster.placement.chips import parse_nodes
from mlx_moe.checkpoint import library
from mlx_moe.decoding.request import Request

PLAIN = "none"
DRAFTS = (PLAIN, "mtp", "ngram", stretched.WRONG)
CHATS = {"new": STORY, "repeated": REPEATED}
TOKENS = 64
CONTEXT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: a number of users who ask the same at the same time."""

    users: int
    chat: str
    draft: str


async def main(n_stages: int = 4, milliseconds: float = 20, rounds: int = 3) -> None:
    """Print a row per case: tokens per second, the ratio to plain decoding, and the share of right drafts by depth."""
    alone = [Case(1, chat, draft) for chat in CHATS for draft in DRAFTS]
    full = [Case(n_stages, "new", draft) for draft in (PLAIN, "mtp")]
    cases = alone + full
    name = stretched.name(library.DEMO, milliseconds / 1000)
    placement = _placement(n_stages)
    runs: dict[Case, list[list[Answer]]] = {case: [] for case in cases}
    async with AsyncExitStack() as stack:
        models = {
            draft: await stack.enter_async_context(emulated_cluster(placement, lambda _: name, draft))
            for draft in DRAFTS
        }
        for number in range(rounds):
            for case in cases if number % 2 == 0 else cases[::-1]:
                runs[case].append(await asyncio.to_thread(_run, models[case.draft], case))
    print(f"{n_stages} stages of at least {milliseconds:g} ms, answers of {TOKENS} tokens, {rounds} rounds, medians")
    print(f"{'text':8} {'users':>5} {'draft':>6} {'tokens/s':>9} {'times':>6} {'min..max':>11} {'same':>5}  by depth")
    for case in cases:
        print(_row(case, runs))


def _run(model: RemoteModel, case: Case) -> list[Answer]:
    prompt = model.format_chat(CHATS[case.chat], {})
    return together(model, Request.exactly(prompt, TOKENS), case.users)


def _row(case: Case, runs: Mapping[Case, Sequence[Sequence[Answer]]]) -> str:
    plain = runs[Case(case.users, case.chat, PLAIN)]
    truth = plain[0][0]
    answers = [answer for of_round in runs[case] for answer in of_round]
    rates, plain_rates = _rates(runs[case]), _rates(plain)
    times = sorted(rate / plain_rate for rate, plain_rate in zip(rates, plain_rates, strict=True))
    extremes = f"{times[0]:.2f}..{times[-1]:.2f}"
    is_same = all((a.token_ids, a.logprobs) == (truth.token_ids, truth.logprobs) for a in answers)
    by_depth = " ".join(f"{rate:.2f}" for rate in decoded(answers, truth.token_ids).accepted_by_depth)
    return (
        f"{case.chat:8} {case.users:5} {case.draft:>6} {statistics.median(rates):9.1f} "
        f"{statistics.median(times):6.2f} {extremes:>11} {'yes' if is_same else 'NO':>5}  {by_depth}"
    )


def _rates(rounds: Sequence[Sequence[Answer]]) -> list[float]:
    return [decoded(answers, answers[0].token_ids).tokens_per_s for answers in rounds]


def _placement(n_stages: int) -> Placement:
    """Return a placement of the demo model's layers on `n_stages` nodes, whose chips do not matter."""
    return spread(
        read_costs(library.DEMO, float_bytes=4),
        parse_nodes(f"{n_stages}xM4-Pro-64GB"),
        layer_splits=layer_shares(str(library.locate(library.DEMO)), n_stages),
        context_tokens=CONTEXT_TOKENS,
        concurrency=n_stages,
    )


if __name__ == "__main__":
    asyncio.run(main(*(int(argument) for argument in sys.argv[1:])))
