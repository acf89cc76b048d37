"""Conversations with a cluster: what is kept, what is shared, what gives way, and that nothing stays behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import grpc
import pytest

import mlx_moe
from cluster.client import RemoteConversation, RemoteModel
from cluster.wire import coordinator_pb2
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import InsufficientMemoryError, InvalidRequestError, TooLargeError
from mlx_moe.model import Model
from mlx_moe.sampling_params import SamplingParams
from tests import oracles
from tests.cluster.running import Cluster, answer, answers, coordinator_stub
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

N_STAGES = 3
LONG = tuple(oracles.random_ids(300, 200, seed=300))
OTHERS = [tuple(oracles.random_ids(100, 200, seed=seed)) for seed in range(6)]
STEP = 256
"""Positions by which KV caches grow."""


def request(prompt: tuple[int, ...], max_tokens: int | None = 12) -> Request:
    sampling = SamplingParams(temperature=0.0)
    return Request(prompt, sampling, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def alone() -> Iterator[Model]:
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield model
    model.close()


@pytest.fixture(scope="module")
def model(five_nodes: Cluster) -> RemoteModel:
    return five_nodes.load("demo", five_nodes.place("demo", (2, 3, 1)))


@pytest.fixture
def small(five_nodes: Cluster) -> Iterator[RemoteModel]:
    """Load a model whose KV caches have room for two short requests."""
    yield five_nodes.load("demo", five_nodes.place("demo", (3, 3), kv_positions=2 * STEP))
    five_nodes.unload()


def kv_bytes(cluster: Cluster) -> list[int]:
    return [cluster.holding(node).stats.kv_bytes for node in cluster.nodes[:N_STAGES]]


def kv_positions(cluster: Cluster) -> list[int]:
    return [cluster.holding(node).stats.kv_positions for node in cluster.nodes[:N_STAGES]]


def turn(conversation: RemoteConversation, prompt: tuple[int, ...]) -> tuple[list[Token], int]:
    """Return an answer, and how many positions of its prompt were kept."""
    written = conversation.answer(request(prompt))
    return list(written), written.stats.cached_tokens


def test_a_second_turn_prefills_only_what_is_new(model: RemoteModel) -> None:
    conversation = model.new_conversation()
    first, cached = turn(conversation, LONG)
    assert cached == 0
    prompt = (*LONG, *(token.id for token in first), 5, 6)
    _, cached = turn(conversation, prompt)
    assert cached == len(prompt) - 3  # the answer's last token was never run
    conversation.close()


def test_a_beginning_that_another_conversation_has_is_not_run_again(model: RemoteModel, alone: Model) -> None:
    lender, borrower = model.new_conversation(), model.new_conversation()
    turn(lender, LONG)
    longer = (*LONG[:280], 7, 7)
    written, cached = turn(borrower, longer)
    assert cached == 256
    assert written == list(alone.generate(request(longer)))
    lender.close()
    borrower.close()


def test_closing_a_conversation_frees_its_caches_on_every_node(model: RemoteModel, five_nodes: Cluster) -> None:
    conversation = model.new_conversation()
    turn(conversation, LONG)
    until(lambda: min(kv_bytes(five_nodes)) > 0)
    conversation.close()
    until(lambda: kv_bytes(five_nodes) == [0] * N_STAGES)


def test_a_client_that_is_gone_leaves_no_caches(five_nodes: Cluster, model: RemoteModel) -> None:
    until(lambda: kv_positions(five_nodes) == [0] * N_STAGES)
    other = five_nodes.own.model(five_nodes.own.status())
    answer(other, request(OTHERS[0]), other.new_conversation())
    until(lambda: min(kv_positions(five_nodes)) > 0)
    other.close()  # the channel, as at the end of its process; nothing closed the conversation
    until(lambda: kv_positions(five_nodes) == [0] * N_STAGES)
    assert len(answer(model, request(OTHERS[0]))) == 12


@pytest.mark.parametrize("tokens", [0, 5])
@pytest.mark.parametrize("how", ["close", "gone"])
def test_an_answer_that_nobody_wants_any_more_ends_and_frees_all(
    model: RemoteModel, five_nodes: Cluster, alone: Model, tokens: int, how: str
) -> None:
    client = five_nodes.own.model(five_nodes.own.status())
    conversation = client.new_conversation()
    conversation._id = b""  # a request of its own: nothing of it is to stay
    written = conversation.answer(request(LONG, max_tokens=None))
    for _ in range(tokens):
        next(written)
    if how == "close":
        written.close()
    else:
        client.close()
    until(lambda: kv_positions(five_nodes) == [0] * N_STAGES)
    assert five_nodes.holding(five_nodes.nodes[0]).stats.active_requests == 0
    assert answer(model, request(LONG)) == list(alone.generate(request(LONG)))
    client.close()


def test_a_cancelled_answers_conversation_goes_on_from_what_is_kept(model: RemoteModel) -> None:
    conversation = model.new_conversation()
    written = conversation.answer(request(LONG))
    before = [next(written) for _ in range(3)]
    written.close()
    with pytest.raises(StopIteration):
        next(written)
    assert written.finish_reason == "cancelled"
    again, cached = turn(conversation, LONG)
    assert cached == len(LONG) - 1
    assert again[:3] == before
    conversation.close()


def test_a_conversation_is_answered_one_request_at_a_time(model: RemoteModel) -> None:
    conversation = model.new_conversation()
    first = conversation.answer(request(LONG))
    with pytest.raises(InvalidRequestError, match="is being answered") as refused:
        conversation.answer(request(LONG))
    assert refused.value.request_id not in (None, first.request_id)
    assert len(list(first)) == 12
    assert turn(conversation, LONG)[1] == len(LONG) - 1
    conversation.close()


def test_the_next_turn_may_come_at_once_with_the_last_token_of_the_one_before(model: RemoteModel) -> None:
    conversation = model.new_conversation()
    for _ in range(30):
        written = conversation.answer(request(OTHERS[0], max_tokens=2))
        assert next(written).position == 100
        assert next(written).position == 101
        assert written.finish_reason == "length"
    conversation.close()


def test_an_answer_ends_as_cancelled_where_its_conversation_is_closed(model: RemoteModel) -> None:
    conversation = model.new_conversation()
    written = conversation.answer(request(OTHERS[0], max_tokens=None))
    next(written)
    conversation.close()
    list(written)
    assert written.finish_reason == "cancelled"


def test_an_answer_is_closed_at_once_while_another_thread_waits_for_a_token(
    model: RemoteModel, five_nodes: Cluster
) -> None:
    conversation = model.new_conversation()
    written = conversation.answer(request(LONG, max_tokens=None))
    next(written)
    (worker,) = five_nodes.nodes[1].workers()
    worker.suspend()
    try:
        with ThreadPoolExecutor() as threads:
            rest = threads.submit(list, written)
            written.close()
            rest.result(PATIENCE_S)
    finally:
        worker.resume()
    assert written.finish_reason == "cancelled"
    conversation.close()


def test_what_progress_raises_ends_the_answer(model: RemoteModel, five_nodes: Cluster) -> None:
    class StopReadingError(Exception):
        pass

    def progress(_done: int, _total: int) -> None:
        raise StopReadingError

    conversation = model.new_conversation()
    with pytest.raises(StopReadingError):
        next(conversation.answer(request(LONG, max_tokens=None), progress))
    until(lambda: five_nodes.holding(five_nodes.nodes[0]).stats.active_requests == 0)
    conversation.close()


def test_a_timeline_that_nobody_waits_for_any_more_comes_round_and_harms_nothing(
    model: RemoteModel, five_nodes: Cluster, alone: Model
) -> None:
    (worker,) = five_nodes.nodes[1].workers()
    worker.suspend()
    with coordinator_stub(five_nodes) as stub, pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        next(stub.Timeline(coordinator_pb2.TimelineRequest(), timeout=0.3))  # gone before the ring is whole again
    worker.resume()
    assert answer(model, request(LONG[:20])) == list(alone.generate(request(LONG[:20])))
    assert len(model.timeline().stages) == N_STAGES


def test_prefill_is_told_chunk_by_chunk(model: RemoteModel) -> None:
    seen: list[tuple[int, int]] = []
    conversation = model.new_conversation()
    list(conversation.answer(request(LONG[:100]), lambda done, total: seen.append((done, total))))
    told = [news for news in dict.fromkeys(seen) if news[0]]  # and again what is done, where a chunk was waited for
    assert told == [news for news in ((32, 100), (64, 100), (96, 100), (100, 100)) if news in told]
    assert told[-1] == (100, 100)
    assert len(told) > 1  # what is not read in time is replaced by the next
    conversation.close()


def test_all_fields_of_a_request_arrive(model: RemoteModel, alone: Model) -> None:
    sampling = SamplingParams(
        temperature=0.9, top_k=50, top_p=0.8, min_p=0.01, repetition_penalty=1.2, logit_bias={65: 5.0}, seed=2**63 + 1
    )
    asked = Request(OTHERS[1], sampling, max_tokens=20, stop=("Q", "XY"), detect_loops=False)
    assert answer(model, asked) == list(alone.generate(asked))


def test_the_earliest_conversation_gives_way_and_is_answered_as_before_later(small: RemoteModel, alone: Model) -> None:
    conversations = [small.new_conversation() for _ in range(3)]
    for conversation, prompt in zip(conversations, OTHERS, strict=False):
        turn(conversation, prompt)
    assert [turn(c, prompt)[1] for c, prompt in zip(conversations[1:], OTHERS[1:], strict=False)] == [99, 99]
    again, cached = turn(conversations[0], OTHERS[0])
    assert cached == 0
    assert again == list(alone.generate(request(OTHERS[0])))
    for conversation in conversations:
        conversation.close()


def test_more_requests_than_there_is_memory_for_are_refused_with_numbers_and_the_others_go_on(
    small: RemoteModel, alone: Model
) -> None:
    conversations = [small.new_conversation() for _ in range(2)]
    running = [c.answer(request(prompt, max_tokens=150)) for c, prompt in zip(conversations, OTHERS, strict=False)]
    first = [next(written) for written in running]
    with pytest.raises(InsufficientMemoryError, match="512 of 512"):
        answer(small, request(OTHERS[2]))
    rest = [list(written) for written in running]
    for prompt, head, tail in zip(OTHERS, first, rest, strict=False):
        assert [head, *tail] == list(alone.generate(request(prompt, max_tokens=150)))


def test_a_request_that_could_never_fit_is_refused_with_numbers(small: RemoteModel) -> None:
    with pytest.raises(TooLargeError, match=r"may take 768 positions of KV cache, .* room for 512"):
        answer(small, request((*LONG, *LONG), max_tokens=100))


def test_too_long_a_prompt_is_refused_with_numbers(five_nodes: Cluster) -> None:
    fresh = five_nodes.load("demo")
    context = fresh.description.context_tokens
    with pytest.raises(InvalidRequestError, match=f"context of {context}"):
        answer(fresh, request((1,) * (context + 1)))


def test_a_slow_reader_makes_no_other_wait(five_nodes: Cluster) -> None:
    fresh = five_nodes.load("demo", five_nodes.place("demo", (3, 3)))
    slow = fresh.new_conversation().answer(request(OTHERS[0], max_tokens=400))
    next(slow)
    finished = Event()

    def ask() -> None:
        answers(fresh, [request(prompt) for prompt in OTHERS[1:4]])
        finished.set()

    thread = Thread(target=ask)
    thread.start()
    assert finished.wait(PATIENCE_S)
    thread.join()
    assert len(list(slow)) == 399
