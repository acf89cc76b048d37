"""Limited rewinds: whatever goes back, a model whose caches keep a state writes what it writes alone, from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from pathlib import Path

import pytest

from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.drafting import Drafter
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.decoding.engine import Engine as Answers
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import EvictedError
from mlx_moe.pipeline.link import LocalLink
from tests import oracles
from tests.engine import Engine, load_engine
from tests.mlx_moe import toy_family
from tests.mlx_moe.demo_pipeline import GREEDY, SAMPLED, Certain, Pipeline, answer, ask_for

LONG = oracles.random_ids(100, toy_family.VOCAB_SIZE)
SHORT = oracles.random_ids(20, toy_family.VOCAB_SIZE, seed=1)
STAGES = [range(i, i + 1) for i in range(toy_family.N_LAYERS)]

Plain = Callable[[Request], list[Token]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with toy_family.registered():
        yield toy_family.write(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def split(directory: Path) -> Engine:
    return load_engine(directory, STAGES)


@pytest.fixture(scope="module")
def plain(directory: Path) -> Plain:
    """Return what answers a request in one stage, which keeps nothing of earlier ones."""
    whole = load_engine(directory)

    def tokens(request: Request) -> list[Token]:
        answers = Answers(Coordinator(whole.head, whole.config.vocab_size), LocalLink(whole.link.stages))
        return list(answer(answers, request))

    return tokens


@pytest.fixture
def went_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will have the positions from which an answer was run again."""
    positions: list[int] = []
    go_back = Coordinator._go_back

    def noted(coordinator: Coordinator, answering: object, position: int) -> object:
        positions.append(position)
        return go_back(coordinator, answering, position)  # type: ignore[arg-type]

    monkeypatch.setattr(Coordinator, "_go_back", noted)
    return positions


class Guesses:
    """A drafter that knows the answer, and is right where the script says so."""

    observer = None

    def __init__(self, known: List[int], right: List[bool]) -> None:
        self._known = known
        self._right = right
        self._n_drafts = 0

    def draft(self, token_ids: List[int], in_flight: List[int], choose: Choose) -> int:  # noqa: ARG002
        true = self._known[len(token_ids) + len(in_flight)]
        self._n_drafts += 1
        return true if self._right[self._n_drafts % len(self._right)] else (true + 1) % toy_family.VOCAB_SIZE

    def rewind(self, position: int) -> None:
        pass

    def fork(self, positions: int) -> Drafter:
        raise AssertionError(f"nobody borrows {positions} positions")


@pytest.mark.parametrize("snapshots", [2, 4])
@pytest.mark.parametrize("right", [(False,), (True, False), (True, True, False), (False, False, True)])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_wrong_drafts_change_no_token(
    split: Engine,
    plain: Plain,
    went_back: list[int],
    monkeypatch: pytest.MonkeyPatch,
    snapshots: int,
    right: tuple[bool, ...],
    sampling: object,
) -> None:
    monkeypatch.setattr(toy_family, "SNAPSHOTS", snapshots)
    request = ask_for(SHORT, 24, sampling)  # type: ignore[arg-type]
    wanted = plain(request)
    known = [*SHORT, *(token.id for token in wanted)]
    pipeline = Pipeline(len(STAGES), lambda: Guesses(known, right), loaded=split)
    pipeline.coordinator.acceptance = Certain()
    (tokens,) = pipeline.finish(pipeline.ask(request), steps=(0, 1, 0, 1, 0, 1, 2, 3))
    assert tokens == wanted
    assert bool(went_back) == (snapshots == 2)  # a stage runs two drafts before the first proves wrong
    pipeline.close()


@pytest.mark.parametrize("kept", [10, 40, 64, 99])
def test_a_prompt_that_leaves_what_was_said_gives_the_tokens_of_a_fresh_one(
    split: Engine, plain: Plain, went_back: list[int], kept: int
) -> None:
    pipeline = Pipeline(len(STAGES), loaded=split)
    session = pipeline.new_session()
    pipeline.finish(pipeline.ask(ask_for(LONG, 12), session))
    undone = ask_for([*LONG[:kept], *SHORT], 12)
    told: list[tuple[int, int]] = []
    (tokens,) = pipeline.finish(pipeline.ask(undone, session, progress=lambda *counts: told.append(counts)))
    assert [token.id for token in tokens] == [token.id for token in plain(undone)]
    assert went_back
    assert all(0 <= done <= total for done, total in told)
    pipeline.close()


def test_a_fork_between_sessions_gives_the_bits_of_a_fresh_prompt(
    split: Engine, plain: Plain, went_back: list[int]
) -> None:
    pipeline = Pipeline(len(STAGES), loaded=split)
    pipeline.finish(pipeline.ask(ask_for(LONG, 12), pipeline.new_session()))
    other = ask_for([*LONG[:70], *oracles.random_ids(30, toy_family.VOCAB_SIZE, seed=2)], 12)
    borrowing = pipeline.ask(other, pipeline.new_session())
    assert pipeline.finish(borrowing) == [plain(other)]
    assert went_back == [0]  # the lender's states at the ends of its chunks are gone
    pipeline.close()


def test_an_answer_beside_one_that_is_evicted_keeps_its_bits_and_the_other_comes_again(
    split: Engine, plain: Plain
) -> None:
    requests = [ask_for(LONG, 40), ask_for(SHORT, 40)]
    pipeline = Pipeline(len(STAGES), loaded=split, kv_positions=256)
    first = pipeline.ask(requests[0], pipeline.new_session())
    session = pipeline.new_session()
    assert pipeline.finish(first) == [plain(requests[0])]
    assert pipeline.finish(pipeline.ask(requests[1], session)) == [plain(requests[1])]  # the first gave way
    again = pipeline.ask(requests[0])
    try:
        assert pipeline.finish(again) == [plain(requests[0])]
    except EvictedError:
        pytest.fail("nothing else is answering")
    pipeline.close()
