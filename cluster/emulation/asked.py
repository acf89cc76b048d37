"""Asked: what a person asks to be emulated, and the scenario that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx_moe
from cluster.cost_reader import read_costs
from cluster.emulation.scenario import FLOAT_BYTES, WIRES, DraftKind, Scenario
from cluster.placement import Placement, fit
from cluster.placement.chips import parse_nodes
from mlx_moe.checkpoint import library
from mlx_moe.errors import InvalidRequestError
from mlx_moe.known_models import KNOWN_MODELS

ACCEPTANCE = (0.85, 0.78, 0.72, 0.68, 0.65, 0.62, 0.60, 0.58)
"""Of the MTP layer by depth: the first is published (DeepSeek-V3, arXiv 2412.19437, 5.4.3), the fall is assumed."""

STORY = ({"role": "user", "content": "Tell me a story."},)
"""What is answered, unless it shall repeat."""

_COUNT = {"role": "user", "content": "Count from 1 to 50."}
REPEATED = (_COUNT, {"role": "assistant", "content": ", ".join(str(i) for i in range(1, 51))}, _COUNT)
"""Asked once more, so that the answer stands in the prompt already: the text that n-grams are for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to emulate.

    `draft` is none, mtp, ngram, stated, or acceptances by depth like .85,.78; `prompts` are lengths to be timed.
    """

    nodes: str
    model: str
    wire: str
    draft: str
    users: tuple[int, ...]
    prompts: tuple[int, ...]
    tokens: int


def prepare(asked: Asked) -> tuple[Scenario, Placement, list[int]]:
    """Return what is emulated, where its layers are, and the prompt of the answers.

    Raises:
        InvalidRequestError, PlacementError: it cannot be.
    """
    if asked.wire not in WIRES:
        raise InvalidRequestError(f"there is no link {asked.wire!r}; links are: {', '.join(WIRES)}")
    model = asked.model.lower()
    if model not in KNOWN_MODELS:
        raise InvalidRequestError(f"{asked.model[:80]!r} is not emulated; emulated are: {', '.join(KNOWN_MODELS)}")
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
    """Read none, mtp, ngram, stated, or acceptances by depth like .85,.78."""
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
            f"--draft takes none, mtp, ngram, stated, or acceptances by depth like .85,.78; got {text[:40]!r}"
        )
    return "stated", rates


def _script(asked: Asked) -> tuple[list[int], tuple[int, ...]]:
    """Return a prompt and all tokens of prompt and answer, as the demo model writes them."""
    model = mlx_moe.load(library.DEMO)
    messages = REPEATED if asked.draft == "ngram" else STORY
    prompt = model.tokenizer.format_chat(messages, add_generation_prompt=True)
    request = mlx_moe.Request.exactly(prompt, asked.tokens)
    script = [*prompt, *(token.id for token in model.generate(request))]
    model.close()
    return prompt, tuple(script)
