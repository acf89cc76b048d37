"""bench --emulate: a table of what an emulated cluster does, beside the prediction and what exo has published."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.tables import headed_table
from cli.units import duration_text, rate_text, tokens_text
from mlx_moe.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.emulation.asked import Asked
    from cluster.emulation.measure import Measured
    from cluster.placement import Placement, Prediction

EXO = {
    # Published December 2024 for this hardware; the length of its prompt is not stated.
    ("deepseek-v3", 8): "5.37 tok/s, first token after 2.91 s",
}

MOST = 1 << 16


def emulate(asked: Asked, as_json: bool) -> None:
    """Run the emulation and print it. Raises InvalidRequestError, PlacementError before anything is started."""
    from cluster.emulation.asked import prepare
    from cluster.emulation.measure import measure, predicted, without_drafts

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
    if as_json:
        print(json.dumps(_to_json(asked, placement, prediction, plain, drafted)))
    else:
        _print(asked, placement, prediction, plain, drafted)


def counts(option: str, text: str) -> tuple[int, ...]:
    """Read "1,2,4". Raises InvalidRequestError that names the option."""
    values = tuple(int(part) if part.isascii() and part.isdecimal() else 0 for part in text.split(","))
    if not all(0 < value <= MOST for value in values):
        raise InvalidRequestError(f"{option} takes whole numbers from 1 to {MOST} like 1,2,4; this is {text[:40]!r}")
    return values


def _print(
    asked: Asked, placement: Placement, prediction: Prediction, plain: Measured, drafted: Measured | None
) -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    layers = " ".join(str(len(stage.layers)) for stage in placement.stages)
    console.print(f"Emulated: {asked.model}, 4 bit, on {asked.nodes} over {asked.wire}; layers {layers}", style="bold")
    console.print(
        "Real workers, links and scheduling on this machine; shards that wait as long as the speed model says that "
        "these Macs would compute. No Mac has run this.",
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
    published = EXO.get((asked.model.lower(), len(placement.stages)))
    if published:
        console.print(f"exo, published for this hardware: {published}", style="bright_black")


def _speeds(prediction: Prediction, plain: Measured, drafted: Measured | None) -> Table:
    table = headed_table(
        "users", "predicted plain", "plain", *(("drafted", "times") if drafted else ()), "tokens", texts=("tokens",)
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


def _first_tokens(prediction: Prediction, plain: Measured) -> Table:
    table = headed_table("prompt", "predicted", "first token", texts=())
    for tokens, seconds in plain.ttft_s.items():
        table.add_row(tokens_text(tokens), duration_text(prediction.ttft_s[tokens]), duration_text(seconds))
    return table


def _to_json(
    asked: Asked, placement: Placement, prediction: Prediction, plain: Measured, drafted: Measured | None
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
