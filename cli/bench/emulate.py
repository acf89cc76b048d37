"""bench --emulate: measures an emulated cluster; prints it with the prediction and exo's published figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.tables import HeadedTable, table_console
from cli.units import duration_text, rate_text, tokens_text

if TYPE_CHECKING:
    from cluster.emulation.asked import Asked
    from cluster.emulation.measure import DrafterFigures
    from cluster.emulation.scenario import Scenario
    from cluster.placement import Placement, Prediction
    from cluster.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Published:
    """Published figures for the same model on the same Macs."""

    tokens_per_s: float
    ttft_s: float


EXO = {
    # December 2024; the length of the prompt is not stated.
    ("deepseek-v3", "8xm4-pro-64gb"): Published(5.37, 2.91),
}


def emulate(asked: Asked, trace: Path | None, as_json: bool) -> None:
    """Run the emulation and print the result; write the timeline of one answer and one prompt to `trace`.

    Raises:
        InvalidRequestError, PlacementError: before anything is started.
    """
    from cli.bench.trace_file import TraceFile
    from cluster.emulation.asked import prepare
    from cluster.emulation.measure import measure, predicted, without_drafts

    file = None if trace is None else TraceFile(trace)
    scenario, placement, prompt = prepare(asked)
    plain = asyncio.run(
        measure(
            without_drafts(scenario),
            placement,
            prompt=prompt,
            tokens=asked.tokens,
            users=asked.users,
            prompts=asked.prompts,
        )
    )
    drafted = None
    if scenario.draft != "none":
        drafted = asyncio.run(measure(scenario, placement, prompt=prompt, tokens=asked.tokens, users=asked.users))
    prediction = predicted(scenario, placement, asked.prompts)
    if file is not None:
        file.write(asyncio.run(_traced(asked, scenario, placement, prompt)), emulated=True)
    if as_json:
        print(json.dumps(_to_json(asked, placement, prediction, plain, drafted)))
    else:
        _print(asked, placement, prediction, plain, drafted)


async def _traced(asked: Asked, scenario: Scenario, placement: Placement, prompt: Sequence[int]) -> Timeline:
    """Return the timeline of one answer and of the longest timed prompt."""
    from cluster.emulation.cluster import emulated_cluster
    from cluster.emulation.measure import together
    from mlx_moe.decoding.request import Request

    longest = [prompt[i % len(prompt)] for i in range(max(asked.prompts))]
    async with emulated_cluster(placement, lambda ids: scenario.on(ids).to_name()) as model:
        await asyncio.to_thread(together, model, Request.exactly(prompt, asked.tokens), 1)
        await asyncio.to_thread(together, model, Request.exactly(longest[::-1], 1), 1)
        return await asyncio.to_thread(model.timeline)


def _print(
    asked: Asked, placement: Placement, prediction: Prediction, plain: DrafterFigures, drafted: DrafterFigures | None
) -> None:
    console = table_console()
    layers = " ".join(str(len(stage.layers)) for stage in placement.stages)
    console.print(f"Emulated: {asked.model}, 4 bit, on {asked.nodes} over {asked.wire}; layers {layers}", style="bold")
    console.print(
        "Real workers, links and scheduling on this machine; shards only wait for the time that the speed model "
        "predicts for these Macs. No Mac has run this.",
        style="bright_black",
    )
    console.print()
    console.print(_speeds(prediction, plain, drafted))
    if plain.ttft_s:
        console.print()
        console.print(_first_tokens(prediction, plain))
    if drafted is not None:
        rates = " ".join(f"{rate:.2f}" for rate in drafted.decoded[0].accepted_by_depth)
        console.print(f"\naccepted by depth, one user: {rates}")
    if exo := EXO.get((asked.model.lower(), asked.nodes.lower())):
        told = f"{rate_text(exo.tokens_per_s)}, first token after {exo.ttft_s} s"
        console.print(f"exo, published for this hardware: {told}", style="bright_black")


def _speeds(prediction: Prediction, plain: DrafterFigures, drafted: DrafterFigures | None) -> HeadedTable:
    table = HeadedTable(
        *("users", "predicted plain", "plain", *(("drafted", "times") if drafted else ()), "tokens"),
        texts=("tokens",),
        optional=("predicted plain", *(("times",) if drafted else ())),
    )
    for i, decoded in enumerate(plain.decoded):
        row = [str(decoded.users), rate_text(prediction.together_tokens_per_s(decoded.users))]
        row.append(rate_text(decoded.tokens_per_s))
        same = decoded.as_written
        if drafted:
            faster = drafted.decoded[i]
            row += [rate_text(faster.tokens_per_s), f"{faster.tokens_per_s / decoded.tokens_per_s:.2f}"]
            same = same and faster.as_written
        table.add_row(*row, "the same" if same else "NOT THE SAME")
    return table


def _first_tokens(prediction: Prediction, plain: DrafterFigures) -> HeadedTable:
    table = HeadedTable("prompt", "predicted", "first token", texts=())
    for tokens, seconds in plain.ttft_s.items():
        table.add_row(tokens_text(tokens), duration_text(prediction.ttft_s[tokens]), duration_text(seconds))
    return table


def _to_json(
    asked: Asked, placement: Placement, prediction: Prediction, plain: DrafterFigures, drafted: DrafterFigures | None
) -> dict[str, Any]:
    return {
        "emulated": True,
        "asked": asdict(asked),
        "placement": placement.to_json(),
        "predicted": {
            "tokens_per_s": {n: prediction.together_tokens_per_s(n) for n in asked.users},
            "ttft_s": prediction.ttft_s,
        },
        "plain": asdict(plain),
        "drafted": None if drafted is None else asdict(drafted),
    }
