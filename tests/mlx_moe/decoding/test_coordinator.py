"""Coordinator: many requests on one thread over a link that takes its time; sessions, what they share and give way."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import mlx.core as mx
import pytest

import mlx_moe
from mlx_moe.decoding import scheduler as scheduler_module
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.decoding.session import Session
from mlx_moe.errors import BusyError, EvictedError, InvalidRequestError, NumericsError, TooLargeError
from mlx_moe.layers.cache_costs import GROWTH
from mlx_moe.model import LocalModel as Model
from mlx_moe.sampling_params import SamplingParams
from tests import oracles
from tests.mlx_moe.slow_link import SlowLink

pytestmark = pytest.mark.slow

ANSWER = 12
PROMPTS = [tuple(oracles.random_ids(length, 200, seed=length)) for length in (1, 32, 70, 100, 300)]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield loaded
    loaded.close()


class Slow:
    """The demo model behind a SlowLink."""

    def __init__(self, model: Model, kv_positions: int | None = None) -> None:
        self.model = model
        self.link = SlowLink([model.stage])
        self.coordinator = Coordinator(
            model.head, model.config.vocab_size, frames_in_flight=self.link.frames_in_flight, kv_positions=kv_positions
        )
        self.engine = Engine(self.coordinator, self.link)

    def new_session(self) -> Session:
        return Session(Sequence(), self.engine.release)

    def ask(
        self,
        input_ids: tuple[int, ...],
        session: Session | None = None,
        max_tokens: int | None = ANSWER,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        writer = AnswerWriter(
            self.model.tokenizer,
            Sequence() if session is None else session.sequence,
            request(input_ids, max_tokens),
            seed=1,
            limit=max_tokens or self.model.context_tokens - len(input_ids),
        )
        return Generation(self.engine, writer, close_session=session is None, progress=progress)

    def finish(self, *answers: Generation) -> list[list[Token]]:
        """Advance answers in turns until all have ended; the link does one thing a turn."""
        tokens: list[list[Token]] = [[] for _ in answers]
        while any(answer.finish_reason is None for answer in answers):
            for answer, written in zip(answers, tokens, strict=True):
                if answer.finish_reason is None and (token := answer.advance()) is not None:
                    written.append(token)
            self.link.step()
        return tokens

    def write(self, answer: Generation, count: int) -> list[Token]:
        """Advance an answer by `count` tokens."""
        tokens: list[Token] = []
        while len(tokens) < count:
            if (token := answer.advance()) is not None:
                tokens.append(token)
            self.link.step()
        return tokens


@pytest.fixture
def slow(model: Model) -> Iterator[Slow]:
    before = model.stage.kv_positions
    behind = Slow(model)
    yield behind
    for sequence in list(behind.coordinator.sequences.values()):
        behind.engine.release(sequence)
    behind.link.settle()
    assert model.stage.kv_positions == before


def request(input_ids: tuple[int, ...], max_tokens: int | None = ANSWER) -> Request:
    sampling = SamplingParams(temperature=1.5, top_p=1.0, seed=1)
    return Request(input_ids, sampling, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@cache
def alone(model: Model, input_ids: tuple[int, ...], max_tokens: int = ANSWER) -> list[Token]:
    return list(model.generate(request(input_ids, max_tokens)))


def test_requests_in_turns_over_a_slow_link_get_what_each_gets_alone_to_the_bit(model: Model, slow: Slow) -> None:
    answers = slow.finish(*(slow.ask(prompt) for prompt in PROMPTS))
    assert answers == [alone(model, prompt) for prompt in PROMPTS]


def test_an_answer_waits_without_a_token_while_its_frame_is_under_way(slow: Slow) -> None:
    answer = slow.ask(PROMPTS[0])
    assert [answer.advance() for _ in range(3)] == [None, None, None]
    slow.link.step()
    assert answer.advance() is not None
    assert answer.advance() is None
    answer.close()


def test_a_chunk_leaves_before_the_next_is_computed_whatever_has_come_back_meanwhile(slow: Slow) -> None:
    answer = slow.ask(PROMPTS[4])
    sent = [slow.link.sent]
    while answer.advance() is None:
        sent.append(slow.link.sent)
        slow.link.step()
    assert max(b - a for a, b in pairwise(sent)) == 1
    answer.close()


def test_prefill_keeps_as_many_chunks_under_way_as_the_link_allows(slow: Slow) -> None:
    seen: list[tuple[int, int]] = []
    answer = slow.ask(PROMPTS[3], progress=lambda done, total: seen.append((done, total)))
    assert [answer.advance() for _ in range(6)] == [None] * 6
    slow.finish(answer)
    assert slow.link.most_in_flight == 3
    assert list(dict.fromkeys(seen)) == [(0, 100), (32, 100), (64, 100), (96, 100), (100, 100)]


@pytest.mark.parametrize("turns", range(0, 20, 3))
def test_an_answer_closed_at_any_time_leaves_its_session_sound(model: Model, slow: Slow, turns: int) -> None:
    session = slow.new_session()
    answer = slow.ask(PROMPTS[4], session)
    for _ in range(turns):
        answer.advance()
        slow.link.step()
    answer.close()
    assert answer.finish_reason == "cancelled"
    again = slow.ask(PROMPTS[4], session)
    assert slow.finish(again) == [alone(model, PROMPTS[4])]
    assert again.stats.cached_tokens <= turns * 64


def test_answers_that_ended_wait_for_no_turn(slow: Slow) -> None:
    slow.finish(*map(slow.ask, PROMPTS[:2]))
    slow.ask(PROMPTS[0]).close()
    assert slow.coordinator.scheduler.next() == []


def test_a_session_answers_one_request_at_a_time(slow: Slow) -> None:
    session = slow.new_session()
    first = slow.ask(PROMPTS[1], session)
    slow.write(first, 1)
    with pytest.raises(InvalidRequestError, match="being answered"):
        slow.ask(PROMPTS[2], session).advance()
    slow.finish(first)
    slow.finish(slow.ask(PROMPTS[2], session))


def test_closing_a_session_ends_its_answer_and_no_other(model: Model, slow: Slow) -> None:
    session = slow.new_session()
    ended, other = slow.ask(PROMPTS[2], session), slow.ask(PROMPTS[3])
    slow.write(ended, 2)
    other.advance()
    session.close()
    assert ended.finish_reason == "cancelled"
    with pytest.raises(StopIteration):
        ended.advance()
    assert slow.finish(other) == [alone(model, PROMPTS[3])]
    slow.link.settle()
    assert model.stage.kv_positions == 0


@pytest.mark.parametrize("written", [0, 3])
def test_a_stages_failure_comes_back_to_its_request_alone_and_the_session_lives(
    model: Model, slow: Slow, written: int
) -> None:
    session = slow.new_session()
    other = slow.ask(PROMPTS[1])
    slow.write(other, 2)
    failing = slow.ask(PROMPTS[2], session)
    slow.write(failing, written)
    slow.link.settle()
    layer = model.stage.shard.layers[3]
    healthy = layer._input_norm
    layer._input_norm = lambda x: healthy(x) * mx.nan
    with pytest.raises(NumericsError, match="layer 3"):
        slow.write(failing, ANSWER)
    layer._input_norm = healthy
    rest = slow.finish(other)[0]
    assert rest == alone(model, PROMPTS[1])[2:]
    assert slow.finish(slow.ask(PROMPTS[2], session)) == [alone(model, PROMPTS[2])]


def test_a_prompt_begins_with_what_another_session_prefilled_in_whole_chunks(model: Model, slow: Slow) -> None:
    lender = slow.new_session()
    (answer,) = slow.finish(slow.ask(PROMPTS[3], lender))
    longer = (*PROMPTS[3], *(token.id for token in answer), *PROMPTS[2])
    borrower = slow.ask(longer)
    assert slow.finish(borrower) == [alone(model, longer)]
    assert borrower.stats.cached_tokens == 96
    short = slow.ask(PROMPTS[3][:64])
    assert slow.finish(short) == [alone(model, PROMPTS[3][:64])]
    assert short.stats.cached_tokens == 32  # the last position must be run, and only whole chunks are lent


def test_positions_that_were_prefilled_in_another_cut_are_not_lent(model: Model, slow: Slow) -> None:
    lender = slow.new_session()
    slow.finish(slow.ask(PROMPTS[4][:70], lender))
    slow.finish(slow.ask(PROMPTS[4], lender))  # goes on at position 70, in the middle of a chunk
    borrower = slow.ask(PROMPTS[4])
    assert slow.finish(borrower) == [alone(model, PROMPTS[4])]
    assert borrower.stats.cached_tokens == 64


def test_a_lender_goes_on_and_ends_while_what_it_lent_is_used(model: Model, slow: Slow) -> None:
    lender = slow.ask(PROMPTS[4])
    first = slow.write(lender, 2)
    borrower = slow.ask((*PROMPTS[4][:280], 7, 7, 7))
    rest, borrowed = slow.finish(lender, borrower)
    assert [*first, *rest] == alone(model, PROMPTS[4])
    assert borrowed == alone(model, borrower.request.input_ids)
    assert borrower.stats.cached_tokens == 256


def test_an_edited_prompt_forgets_what_stood_behind_the_edit_also_for_lending(model: Model, slow: Slow) -> None:
    session = slow.new_session()
    slow.finish(slow.ask(PROMPTS[4], session))
    edited = (*PROMPTS[4][:40], 9, *PROMPTS[4][41:])
    slow.finish(slow.ask(edited, session))
    borrower = slow.ask(edited)
    assert slow.finish(borrower) == [alone(model, edited)]
    assert borrower.stats.cached_tokens == 32


def test_the_least_recently_used_session_gives_way_and_prefills_again_later(model: Model) -> None:
    slow = Slow(model, kv_positions=3 * GROWTH)
    first, second, third = (slow.new_session() for _ in range(3))
    for session, prompt in zip((first, second, third), PROMPTS, strict=False):
        slow.finish(slow.ask(prompt, session))
    slow.finish(slow.ask(PROMPTS[3], second))
    slow.finish(slow.ask(PROMPTS[3]))
    slow.link.settle()
    assert (first.sequence.token_ids, len(second.sequence.token_ids) > 0, len(third.sequence.token_ids) > 0) == (
        [],
        True,
        True,
    )
    again = slow.ask(PROMPTS[0], first)
    assert slow.finish(again) == [alone(model, PROMPTS[0])]
    for session in (first, second, third):
        session.close()
    slow.link.settle()
    assert (slow.coordinator.scheduler.budget.taken, model.stage.kv_positions) == (0, 0)


def test_a_request_that_does_not_fit_beside_others_is_refused_with_numbers_and_harms_none(model: Model) -> None:
    slow = Slow(model, kv_positions=2 * GROWTH)
    running = slow.ask(PROMPTS[4])
    running.advance()
    with pytest.raises(BusyError, match=r"may take 256 .* have 512 of 512"):
        slow.ask(PROMPTS[1]).advance()
    with pytest.raises(TooLargeError, match=r"may take 768 .* room for 512"):
        slow.ask((*PROMPTS[4], *PROMPTS[4])).advance()
    assert slow.finish(running) == [alone(model, PROMPTS[4])]


def test_the_newest_answer_is_given_up_when_an_older_one_needs_the_room(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "RESERVE", 16)
    slow = Slow(model, kv_positions=2 * GROWTH)
    older = slow.ask(PROMPTS[3][:90], max_tokens=None)
    first = slow.write(older, 1)
    newest = slow.ask(PROMPTS[0], max_tokens=None)
    slow.write(newest, 5)
    written = newest.text
    rest = slow.write(older, GROWTH - 90 + 8)
    with pytest.raises(EvictedError, match=r"given up after 5 tokens: .* 512 positions"):
        newest.advance()
    assert newest.text == written
    assert [*first, *rest] == alone(model, PROMPTS[3][:90], GROWTH - 90 + 9)
    older.close()


def test_an_answer_that_outgrows_the_memory_fails_itself_when_it_is_the_newest(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "RESERVE", 16)
    slow = Slow(model, kv_positions=GROWTH)
    session = slow.new_session()
    answer = slow.ask(PROMPTS[3], session, max_tokens=None)
    with pytest.raises(EvictedError, match=r"has reached 257 positions; .* 256"):
        slow.write(answer, GROWTH)
    assert answer.stats.generated_tokens == GROWTH - len(PROMPTS[3])
    follow_up = replace(request(PROMPTS[3]), max_tokens=ANSWER)
    assert slow.finish(slow.ask(follow_up.input_ids, session)) == [alone(model, PROMPTS[3])]
