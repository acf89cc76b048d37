"""The demo model in a pipeline, its answers with drafts and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from functools import cache
from itertools import cycle
from typing import Any

import mlx.core as mx
import pytest

from mlx_moe.checkpoint import library
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.drafting import Drafter, MTPDrafter
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.decoding.engine import Engine as Answers
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.decoding.session import Session
from mlx_moe.decoding.speculation import Acceptance
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.steps import Steps
from mlx_moe.pipeline.link import LocalLink
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.tokenizer import Tokenizer
from tests.engine import Engine, load_engine
from tests.mlx_moe.slow_link import SlowLink

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0, top_p=1.0)
PENALIZED = SamplingParams(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)
LAYERS = {1: [range(6)], 2: [range(3), range(3, 6)], 3: [range(2), range(2, 4), range(4, 6)]} | {
    6: [range(i, i + 1) for i in range(6)]
}
STORY = "Tell me a story."


@cache
def engine(n_stages: int) -> Engine:
    return load_engine(library.locate("demo"), LAYERS[n_stages])


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(library.locate("demo"))


@cache
def prompt(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().format_chat([{"role": "user", "content": text}]))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Look, after each test of a module that imports it, whether all KV caches are free."""
    yield
    for n_stages in LAYERS:
        assert [stage.kv_positions for stage in engine(n_stages).link.stages] == [0] * n_stages


@pytest.fixture
def shapes_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every layer round by the number of its rows, as kernels of another shape do on a GPU."""
    run_layer = DecoderLayer.steps

    def rounded(*args: Any, **outputs: Any) -> Steps[mx.array]:
        rows = yield from run_layer(*args, **outputs)
        return rows * (1 + 1e-3 * rows.shape[0])

    monkeypatch.setattr(DecoderLayer, "steps", rounded)


@cache
def constraints() -> Constraints:
    return Constraints(tokenizer(), engine(1).config.vocab_size)


def mtp_drafter() -> MTPDrafter:
    layer = engine(3).mtp
    assert layer is not None
    return MTPDrafter(layer)


class Pipeline:
    """The demo model, or another one that is `loaded`, in stages behind a SlowLink."""

    def __init__(
        self,
        n_stages: int,
        new_drafter: Callable[[], Drafter] | None = None,
        kv_positions: int | None = None,
        chunks: ChunkRule = DEFAULT_RULE,
        loaded: Engine | None = None,
    ) -> None:
        self.engine = loaded or engine(n_stages)
        self.link = SlowLink(self.engine.link.stages)
        self.coordinator = Coordinator(
            self.engine.head,
            self.engine.config.vocab_size,
            n_stages=n_stages,
            frames_in_flight=self.link.frames_in_flight,
            kv_positions=kv_positions,
            new_drafter=new_drafter,
            chunks=chunks,
            constraints=constraints(),
        )
        self.answers = Answers(self.coordinator, self.link)

    def new_session(self) -> Session:
        return Session(Sequence(), self.answers.release)

    def ask(
        self,
        request: Request,
        session: Session | None = None,
        seed: int = 5,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        return answer(self.answers, request, session, seed, progress)

    def finish(self, *answers: Generation, steps: List[int | None] = (None,)) -> list[list[Token]]:
        """Advance answers in turns until all have ended; after each turn the stages named next in `steps` work."""
        tokens: list[list[Token]] = [[] for _ in answers]
        stages = cycle(steps)
        while any(a.finish_reason is None for a in answers):
            for a, written in zip(answers, tokens, strict=True):
                if a.finish_reason is None and (token := a.advance()) is not None:
                    written.append(token)
                self.link.step(next(stages))
        return tokens

    def close(self) -> None:
        for sequence in list(self.coordinator.sequences.values()):
            self.answers.release(sequence)
        self.link.settle()


def answer(
    answers: Answers,
    request: Request,
    session: Session | None = None,
    seed: int = 5,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> Generation:
    limit = limit or request.max_tokens
    assert limit is not None
    sequence = Sequence() if session is None else session.sequence
    writer = AnswerWriter(tokenizer(), sequence, request, seed=seed, limit=limit)
    return Generation(answers, writer, close_session=session is None, progress=progress)


def ask_for(
    input_ids: List[int], max_tokens: int = 24, sampling: SamplingParams = GREEDY, *, ignore_eos: bool = True
) -> Request:
    return Request(tuple(input_ids), sampling, max_tokens, ignore_eos=ignore_eos, detect_loops=False)


@cache
def plain(request: Request, seed: int = 5) -> list[Token]:
    """Return what the model writes alone, in one stage."""
    one = engine(1)
    coordinator = Coordinator(one.head, one.config.vocab_size, constraints=constraints())
    answers = Answers(coordinator, LocalLink(one.link.stages))
    return list(answer(answers, request, seed=seed))


class Scripted:
    """A drafter that knows the answer, and is right where the script says so."""

    observer = None

    def __init__(self, known: List[int], right: List[bool | None]) -> None:
        self._known = known
        self._script = cycle(right)

    def draft(self, token_ids: List[int], in_flight: List[int], choose: Choose) -> int | None:
        assert in_flight[0] == self._known[len(token_ids)]
        choose(mx.zeros(engine(1).config.vocab_size))  # as real ones do; the sampler keeps counts
        right = next(self._script)
        true = self._known[len(token_ids) + len(in_flight)]
        return None if right is None else true if right else (true + 1) % 1000

    def rewind(self, position: int) -> None:
        pass

    def fork(self, positions: int) -> Scripted:  # noqa: ARG002
        return self


class Certain(Acceptance):
    """Trusts every draft, so that as many are made as there are stages."""

    def rate(self, depth: int) -> float:  # noqa: ARG002
        return 1.0
