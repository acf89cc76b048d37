"""Same tokens: however a model is placed on nodes, and whoever else is answered, each gets what one machine gives.

Real daemons and workers. Ids, texts and log-probabilities are equal, to the bit, since prompts are cut by one rule.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mlx_moe
from cluster.client import RemoteModel
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.model import LocalModel
from mlx_moe.sampling_params import SamplingParams
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.cluster.running import Cluster

pytestmark = pytest.mark.slow

TOKENS = 6
VOCAB_SIZE = 200
LONG = tuple(oracles.random_ids(300, VOCAB_SIZE, seed=300))
PROMPTS = [
    *(tuple(oracles.random_ids(length, VOCAB_SIZE, seed=length)) for length in (1, 31, 32, 33)),
    LONG,
    LONG[:100],
    (*LONG[:70], *oracles.random_ids(30, VOCAB_SIZE, seed=7)),  # begins as others do
]
GREEDY = SamplingParams(temperature=0.0)

Ask = Callable[[Request], list[Token]]


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.3, top_p=0.9, repetition_penalty=1.1, seed=seed)


def request(prompt: Sequence[int], sampling: SamplingParams = GREEDY) -> Request:
    return Request(tuple(prompt), sampling, max_tokens=TOKENS, ignore_eos=True, detect_loops=False)


def one_turn(number: int) -> Callable[[Ask], list[Token]]:
    """Return a dialogue of one question: greedy, or sampled."""
    asked = request(PROMPTS[number], sampled(number) if number % 2 else GREEDY)
    return lambda ask: ask(asked)


def two_turns(ask: Ask) -> list[Token]:
    """Ask, then go on from the answer: the positions that are kept end in the middle of a chunk."""
    first = ask(request(LONG[:40], sampled(5)))
    return first + ask(request((*LONG[:40], *(token.id for token in first), *LONG[:9])))


DIALOGUES = [*map(one_turn, range(len(PROMPTS))), two_turns]


def ask_locally(model: LocalModel, dialogue: Callable[[Ask], list[Token]]) -> list[Token]:
    session = model.new_session()
    written = dialogue(lambda asked: list(model.generate(asked, session)))
    session.close()
    return written


def ask_remotely(model: RemoteModel, dialogue: Callable[[Ask], list[Token]]) -> list[Token]:
    conversation = model.new_conversation()
    written = dialogue(lambda asked: list(conversation.answer(asked)))
    conversation.close()
    return written


@dataclass(frozen=True)
class Subject:
    """A model, how it may be split, and what one machine answers."""

    model: str
    n_experts: int
    moe_layers: range
    wanted: list[list[Token]]


SHAPES = {
    "deepseek_v3": Shape("deepseek_v3", {"num_hidden_layers": 5}),
    "qwen3_moe": Shape("qwen3_moe", {"num_hidden_layers": 5}),
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """Return what makes a subject, once for all its layouts."""
    return cache(lambda name: answered(name, tmp_path_factory.mktemp("same")))


def answered(name: str, directory: Path) -> Subject:
    if name in SHAPES:
        name = str(checkpoints.to_hub_dialect(checkpoints.save(SHAPES[name].model(), directory / name)))
    elif name == "4 bit":
        source = checkpoints.to_hub_dialect(checkpoints.save(SHAPES["qwen3_moe"].model(), directory / "source"))
        name = str(checkpoints.convert_with_mlx_lm(source, directory / "quantized", bits=4, group_size=64))
    model = mlx_moe.load(name, chunks=DEFAULT_RULE)  # as the placements below
    config = model.config
    wanted = [ask_locally(model, dialogue) for dialogue in DIALOGUES]
    model.close()
    moe_layers = range(min(config.moe_layers), config.num_hidden_layers)
    return Subject(name, config.moe.n_routed_experts, moe_layers, wanted)


Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""The layers of each stage, and among how many nodes its experts are divided."""


def layouts(n_layers: int, *more_stages: int) -> list[Layout]:
    """Return two cuts into two stages, one into each larger number of stages, and stages whose experts are divided.

    That other cuts give the same bits, `tests/mlx_moe/pipeline/test_splits.py` shows in one process.
    """
    rest = n_layers - 2
    cuts = [(1, n_layers - 1), (n_layers - 1, 1), *((*[1] * (n - 1), n_layers - n + 1) for n in more_stages)]
    divided: list[Layout] = [((n_layers,), (2,)), ((n_layers,), (4,)), ((2, rest), (2, 3)), ((rest, 1, 1), (1, 1, 2))]
    return [*((cut, ()) for cut in cuts), *divided]


CASES = [
    *(("demo", *layout) for layout in layouts(6, 3, 5)),
    *((family, *layout) for family in SHAPES for layout in layouts(5, 3)),
    *(("4 bit", *layout) for layout in [((2, 3), ()), ((1, 2, 2), ()), ((5,), (4,)), ((2, 3), (2, 3))]),
]


@pytest.mark.parametrize(("name", "layers", "owners"), CASES)
def test_a_layout_gives_the_tokens_of_one_machine_alone_and_beside_others(
    five_nodes: Cluster,
    subjects: Callable[[str], Subject],
    name: str,
    layers: tuple[int, ...],
    owners: tuple[int, ...],
) -> None:
    subject = subjects(name)
    placement = five_nodes.place(
        subject.model, layers, owners, n_experts=subject.n_experts, moe_layers=subject.moe_layers
    )
    model = five_nodes.load(subject.model, placement, reconfigure=True)
    with ThreadPoolExecutor(len(DIALOGUES)) as threads:
        together = list(threads.map(lambda dialogue: ask_remotely(model, dialogue), DIALOGUES))
    assert together == subject.wanted
    assert ask_remotely(model, two_turns) == subject.wanted[-1]
