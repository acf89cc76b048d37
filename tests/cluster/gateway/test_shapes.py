"""What each API writes: the events of a stream say the same as the whole answer."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import anthropic
import openai
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cluster.gateway.answering import End, Piece
from cluster.gateway.anthropic_messages import MessagesBody, MessagesShape
from cluster.gateway.failures import Failure
from cluster.gateway.ollama import OllamaShape
from cluster.gateway.openai_chat import ChatBody, ChatShape, StreamOptions
from cluster.gateway.openai_responses import ResponsesBody, ResponsesShape
from cluster.gateway.openai_text import TextBody, TextShape
from cluster.gateway.shape import Accepted, Shape, Whole
from mlx_moe.decoding.request import GenerationStats, Token, TokenLogprob
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall, merged

ACCEPTED = Accepted("demo", 7)
FAILURE = Failure(503, "node_lost", "mac-2 is lost", 2)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
pieces_of_parts = st.lists(
    st.lists(
        st.builds(Content, texts, st.just("")) | st.builds(Reasoning, texts, st.just("")),
        max_size=2,
    ),
    max_size=6,
)
calls = st.lists(st.dictionaries(texts, st.integers() | texts, max_size=2), max_size=2)


def answer(parts: Sequence[Sequence[Part]], arguments: Sequence[dict[str, Any]]) -> tuple[list[Piece], Whole]:
    called = [ToolCall(n, f"tool{n}", json.dumps(fields), f"id{n}", "") for n, fields in enumerate(arguments)]
    pieces = [
        Piece(Token(n, "".join(p.text for p in some if isinstance(p, Content)), -0.5, n), tuple(some))
        for n, some in enumerate([*parts, called])
    ]
    stats = GenerationStats(prompt_tokens=7, cached_tokens=3, generated_tokens=len(pieces))
    end = End((), "stop", stats, reasoning_tokens=1, calls=len(called))
    return pieces, Whole(merged([part for some in pieces for part in some.parts]), [p.token for p in pieces], end)


def streamed(shape: Shape, pieces: Sequence[Piece], whole: Whole) -> bytes:
    return b"".join([shape.begin(), *map(shape.piece, pieces), shape.end(whole.end)])


def events(stream: bytes) -> list[Any]:
    """Return the data of server-sent events, as a client's parser reads them."""
    data = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in data if line != b"[DONE]"]


@given(parts=pieces_of_parts, arguments=calls)
def test_chunks_add_up_to_the_chat_completion(parts: list[list[Part]], arguments: list[dict[str, Any]]) -> None:
    pieces, whole = answer(parts, arguments)
    body = ChatBody([], stream_options=StreamOptions(include_usage=True), logprobs=True)
    message = openai.types.chat.ChatCompletion.model_validate(ChatShape(body, ACCEPTED).whole(whole)).choices[0]
    stream = streamed(ChatShape(body, ACCEPTED), pieces, whole)
    assert stream.endswith(b"data: [DONE]\n\n")
    chunks = [openai.types.chat.ChatCompletionChunk.model_validate(chunk) for chunk in events(stream)]
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens if chunks[-1].usage else 0) == ([], len(pieces))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == (message.message.content or "")
    thought = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    assert thought == (message.message.model_extra or {}).get("reasoning_content", "")
    made = [call.function for delta in deltas for call in delta.tool_calls or () if call.function]
    told = [call.function for call in message.message.tool_calls or () if call.type == "function"]
    assert [(call.name, call.arguments) for call in made] == [(call.name, call.arguments) for call in told]
    assert chunks[-2].choices[0].finish_reason == message.finish_reason == ("tool_calls" if arguments else "stop")
    logprobs = [chunk.choices[0].logprobs.content for chunk in chunks[:-1] if chunk.choices[0].logprobs]
    assert sum(len(some or ()) for some in logprobs) == len(message.logprobs.content or () if message.logprobs else ())


@given(parts=pieces_of_parts, arguments=calls)
def test_events_add_up_to_the_message(parts: list[list[Part]], arguments: list[dict[str, Any]]) -> None:
    pieces, whole = answer(parts, arguments)
    body = MessagesBody([], model="claude-x")
    wanted = anthropic.types.Message.model_validate(MessagesShape(body, ACCEPTED).whole(whole))
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events(streamed(MessagesShape(body, ACCEPTED), pieces, whole)):
        snapshot = accumulate_event(event=adapter.validate_python(event), current_snapshot=snapshot, json_bufs=buffers)
    got = [block.model_dump(exclude={"id", "parsed_output"}) for block in snapshot.content]
    assert got == [block.model_dump(exclude={"id"}) for block in wanted.content]
    assert (snapshot.stop_reason, snapshot.usage.output_tokens) == (wanted.stop_reason, wanted.usage.output_tokens)


@given(parts=pieces_of_parts, arguments=calls)
def test_events_add_up_to_the_response(parts: list[list[Part]], arguments: list[dict[str, Any]]) -> None:
    pieces, whole = answer(parts, arguments)
    body = ResponsesBody("Hello")
    wanted = openai.types.responses.Response.model_validate(ResponsesShape(body, ACCEPTED).whole(whole))
    told = events(streamed(ResponsesShape(body, ACCEPTED), pieces, whole))
    assert [event["sequence_number"] for event in told] == [*range(len(told))]
    last = openai.types.responses.Response.model_validate(told[-1]["response"])
    assert last.output_text == wanted.output_text
    assert [item.type for item in last.output] == [item.type for item in wanted.output]
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done == told[-1]["response"]["output"]
    text = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    assert text == wanted.output_text


@given(parts=pieces_of_parts, arguments=calls)
def test_lines_add_up_to_ollamas_answer(parts: list[list[Part]], arguments: list[dict[str, Any]]) -> None:
    pieces, whole = answer(parts, arguments)
    wanted = OllamaShape(ACCEPTED, chat=True).whole(whole)
    lines = [json.loads(line) for line in streamed(OllamaShape(ACCEPTED, chat=True), pieces, whole).splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    for key in ("content", "thinking"):
        assert "".join(line["message"].get(key, "") for line in lines) == wanted["message"].get(key, "")
    made = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert made == wanted["message"].get("tool_calls", [])


def test_text_completions_say_the_tokens_as_they_are() -> None:
    pieces, whole = answer([[Content("Hel", "")], [Content("lo", "")]], [])
    body = TextBody("Say: ", echo=True, logprobs=1)
    completion = TextShape(body, "Say: ", ACCEPTED).whole(whole)
    assert completion["choices"][0]["text"] == "Say: Hello"
    assert completion["choices"][0]["logprobs"]["text_offset"] == [5, 8, 10]
    chunks = events(streamed(TextShape(body, "Say: ", ACCEPTED), pieces, whole))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Say: Hello"


def test_a_scored_prompt_comes_before_the_answer_and_its_first_token_has_nothing_before_it() -> None:
    half, rest = "é".encode()[:1], "é".encode()[1:]
    likelier = TokenLogprob(9, half, -0.1)
    prompt = [
        Token(1, "", 0.0, 0, b"a"),
        Token(2, "", -1.5, 1, half, (likelier,)),
        Token(3, "", -0.5, 2, rest),
    ]
    told = Whole([], [Token(4, "b", -0.25, 3, b"b")], End((), "length", GenerationStats(3, 0, 1), 0, 0), prompt)
    body = TextBody("aé", echo=True, logprobs=1)
    logprobs = TextShape(body, "aé", ACCEPTED).whole(told)["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "b"],
        "token_logprobs": [None, -1.5, -0.5, -0.25],
        "top_logprobs": [None, {"bytes:\\xc3": -0.1}, {"bytes:\\xa9": -0.5}, {"b": -0.25}],
        "text_offset": [0, 1, 1, 2],
    }
    alone = TextShape(TextBody("aé", echo=True, logprobs=1, max_tokens=0), "aé", ACCEPTED).whole(told)
    assert (alone["choices"][0]["text"], len(alone["choices"][0]["logprobs"]["tokens"])) == ("aé", 3)
    assert alone["usage"]["completion_tokens"] == 0


def test_an_error_in_the_middle_has_the_shape_of_the_api() -> None:
    shapes: list[tuple[Shape, Callable[[Any], Any]]] = [
        (ChatShape(ChatBody([]), ACCEPTED), lambda event: event["error"]["message"]),
        (TextShape(TextBody(""), "", ACCEPTED), lambda event: event["error"]["message"]),
        (MessagesShape(MessagesBody([]), ACCEPTED), lambda event: event["error"]["message"]),
        (ResponsesShape(ResponsesBody(""), ACCEPTED), lambda event: event["response"]["error"]["message"]),
    ]
    for shape, message in shapes:
        assert message(events(shape.cut(FAILURE))[0]) == "mac-2 is lost"
    assert json.loads(OllamaShape(ACCEPTED, chat=True).cut(FAILURE)) == {"error": "mac-2 is lost"}
