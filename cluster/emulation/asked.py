"""Asked: a requested emulation, and the scenario made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx_moe
from cluster.cost_reader import read_costs
from cluster.emulation.scenario import FLOAT_BYTES, WIRES, DraftKind, Scenario
from cluster.placement import Placement, fit
from cluster.placement.chips import parse_nodes
from mlx_moe import known_models
from mlx_moe.checkpoint import library
from mlx_moe.errors import InvalidRequestError

ACCEPTANCE = (0.85, 0.78, 0.72, 0.68, 0.65, 0.62, 0.60, 0.58)
"""Acceptance of the MTP layer by depth: the first is published (DeepSeek-V3, arXiv 2412.19437, 5.4.3), the others are
assumed."""

STORY = ({"role": "user", "content": "Tell me a story."},)
"""The default prompt."""

_COUNT = {"role": "user", "content": "Count from 1 to 50."}
REPEATED = (_COUNT, {"role": "assistant", "content": ", ".join(str(i) for i in range(1, 51))}, _COUNT)
"""A prompt that contains its answer already: the text for which n-grams are made."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to emulate.

    `draft` is none, mtp, ngram, stated, or acceptance rates by depth like .85,.78. `prompts`: prompt lengths to time.
    """

    nodes: str
    model: str
    wire: str
    draft: str
    users: tuple[int, ...]
    prompts: tuple[int, ...]
    tokens: int


def prepare(asked: Asked) -> tuple[Scenario, Placement, list[int]]:
    """Return the scenario, its placement and the prompt.

    Raises:
        InvalidRequestError: an unknown link, model or way to draft.
        PlacementError: the model does not fit.
    """
    if asked.wire not in WIRES:
        raise InvalidRequestError(f"there is no link {asked.wire!r}; links are: {', '.join(WIRES)}")
    known = known_models.find(asked.model)
    if known is None or known.name not in known_models.KNOWN_MODELS:
        names = ", ".join(known_models.KNOWN_MODELS)
        raise InvalidRequestError(f"{asked.model[:80]!r} cannot be emulated; models are: {names}")
    model = known.name
    draft, acceptance = _draft(asked.draft)
    prompt, script = _script(asked)
    scenario = Scenario(model, tuple(parse_nodes(asked.nodes)), asked.wire, script, draft, acceptance)
    fitted = fit(
        read_costs(model, float_bytes=FLOAT_BYTES),
        scenario.nodes,
        scenario.links(),
        context_tokens=max(*asked.prompts, len(prompt) + asked.tokens, 1024) + 1,
        concurrency=1,
        objective="many_users",
    )
    return replace(scenario, nodes=fitted.nodes), fitted.placement, prompt


def _draft(text: str) -> tuple[DraftKind, tuple[float, ...]]:
    """Read none, mtp, ngram, stated, or acceptance rates by depth like .85,.78."""
    match text:
        case "none" | "mtp" | "ngram":
            return text, ()
        case "stated":
            return text, ACCEPTANCE
    try:
        rates = tuple(float(rate) for rate in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise InvalidRequestError(
            f"--draft takes none, mtp, ngram, stated, or acceptance rates like .85,.78; got {text[:40]!r}"
        )
    return "stated", rates


def _script(asked: Asked) -> tuple[list[int], tuple[int, ...]]:
    """Return a prompt, and the tokens of the prompt and the demo model's answer."""
    model = mlx_moe.load(library.DEMO)
    messages = REPEATED if asked.draft == "ngram" else STORY
    prompt = model.tokenizer.format_chat(messages, add_generation_prompt=True)
    request = mlx_moe.Request.exactly(prompt, asked.tokens)
    script = [*prompt, *(token.id for token in model.generate(request))]
    model.close()
    return prompt, tuple(script)
