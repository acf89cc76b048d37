"""What clients send, in each API, as one question."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway import anthropic_messages, ollama, openai_chat, openai_responses, openai_text
from cluster.gateway.question import Question, read
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.grammar import Grammar

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> Question:
    return openai_chat.question_of(read(json.dumps(fields).encode(), openai_chat.ChatBody))


def messages(**fields: Any) -> Question:
    return anthropic_messages.question_of(read(json.dumps(fields).encode(), anthropic_messages.MessagesBody))


def responses(**fields: Any) -> Question:
    return openai_responses.question_of(read(json.dumps(fields).encode(), openai_responses.ResponsesBody))


def ollama_chat(**fields: Any) -> Question:
    return ollama.question_of(read(json.dumps(fields).encode(), ollama.AskBody), chat=True)


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


def test_one_conversation_with_a_tool_is_the_same_question_in_every_api() -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "reasoning_content": "a sum", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Thanks"},
    ]
    openai = chat(messages=conversation, tools=[{"type": "function", "function": TOOL}], temperature=0.5)
    anthropic = messages(
        system=[{"type": "text", "text": "Be brief."}],
        messages=[
            {"role": "user", "content": "1 + 1?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "a sum", "signature": "x"},
                    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
        ],
        tools=[{"name": "add", "description": "adds", "input_schema": TOOL["parameters"]}],
        temperature=0.5,
    )
    items = responses(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "1 + 1?"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a sum"}], "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Two."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
        ],
        tools=[{"type": "function", **TOOL}, {"type": "web_search"}],
        temperature=0.5,
    )
    assert anthropic.messages == items.messages == openai.messages == conversation
    assert anthropic.tools == items.tools == openai.tools
    assert anthropic.sampling == items.sampling == openai.sampling == {"temperature": 0.5}


def test_the_instructions_of_a_response_are_one_system_message() -> None:
    developer = [{"role": "developer", "content": [{"type": "input_text", "text": text}]} for text in ("Be", "brief.")]
    user = {"role": "user", "content": "Hello"}
    asked = responses(instructions="Please.", input=[*developer, user, developer[0]])
    assert asked.messages == [
        {"role": "system", "content": "Please.\n\nBe\n\nbrief."},
        user,
        {"role": "system", "content": "Be"},
    ]
    assert responses(input=[*developer, user]).messages[0] == {"role": "system", "content": "Be\n\nbrief."}


def test_a_schema_or_a_forced_call_is_the_same_grammar_in_every_api() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = Grammar.of_schema(schema)
    described = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    written = {"type": "json_schema", "schema": schema}
    assert chat(messages=HELLO, response_format=described).grammar == wanted
    assert messages(messages=HELLO, output_config={"format": written}).grammar == wanted
    assert responses(input="Hello", text={"format": {**written, "name": "x"}}).grammar == wanted
    assert ollama_chat(messages=HELLO, format=schema).grammar == wanted
    for any_object in (
        chat(messages=HELLO, response_format={"type": "json_object"}),
        ollama_chat(messages=HELLO, format="json"),
    ):
        assert any_object.grammar == Grammar('{"type": "object"}')
    tool = {"type": "function", "function": TOOL}
    call = Grammar(tools=(("add", json.dumps({**TOOL["parameters"], "additionalProperties": False})),), parallel=True)
    named = {"type": "function", "function": {"name": "add"}}
    assert chat(messages=HELLO, tools=[tool], tool_choice="required").grammar == call
    alone = replace(call, parallel=False)
    assert chat(messages=HELLO, tools=[tool], tool_choice=named).grammar == alone
    asked = responses(
        input="Hello", tools=[{"type": "function", **TOOL}], tool_choice={"type": "function", "name": "add"}
    )
    assert asked.grammar == alone
    claude = [{"name": "add", "input_schema": TOOL["parameters"]}]
    assert messages(messages=HELLO, tools=claude, tool_choice={"type": "any"}).grammar == call
    for choice in ({"type": "tool", "name": "add"}, {"type": "any", "disable_parallel_tool_use": True}):
        assert messages(messages=HELLO, tools=claude, tool_choice=choice).grammar == alone


OPEN: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
    {"allOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]},
    {"type": "object", "properties": {}, "unevaluatedProperties": False},
]


@pytest.mark.parametrize("schema", OPEN)
def test_a_forced_call_may_have_other_arguments_where_the_schema_says_so(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
    asked = chat(messages=HELLO, tools=[tool], tool_choice="required")
    assert asked.grammar == Grammar(tools=(("add", json.dumps(schema)),), parallel=True)


def test_a_forced_call_has_no_arguments_but_the_described_ones() -> None:
    inner = {"type": "object", "properties": {"default": {"type": "string", "default": {"properties": {}}}}}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"type": "array", "items": inner}, "c": {"anyOf": [inner]}},
        "$defs": {"A": inner, "Free": {"type": "object"}},
    }
    closed = {**inner, "additionalProperties": False}
    wanted = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"type": "array", "items": closed}, "c": {"anyOf": [closed]}},
        "$defs": {"A": closed, "Free": {"type": "object"}},
        "additionalProperties": False,
    }
    for parameters, told in (
        (schema, wanted),
        (None, {"type": "object", "properties": {}, "additionalProperties": False}),
    ):
        function = {"name": "add", **({} if parameters is None else {"parameters": parameters})}
        asked = chat(messages=HELLO, tools=[{"type": "function", "function": function}], tool_choice="required")
        assert asked.tools == ({"type": "function", "function": function},)  # what the model is told stays as it is
        assert asked.grammar is not None
        assert [json.loads(text) for _, text in asked.grammar.tools] == [told]


def test_arguments_that_are_objects_become_text_in_ollamas_chat() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    asked = ollama_chat(messages=[*HELLO, called], think=True, options={"num_predict": -1, "seed": -1, "top_k": 4})
    assert asked.messages[1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert (asked.max_tokens, asked.sampling, asked.variables) == (
        None,
        {"top_k": 4},
        {"enable_thinking": True, "thinking": True},
    )


def test_null_is_unset_and_unknown_fields_are_ignored() -> None:
    fields = dict.fromkeys(("temperature", "stop", "tools", "n", "logit_bias", "max_tokens", "functions"))
    assert chat(messages=HELLO, user="anna", store=True, **fields) == Question(messages=HELLO)


def test_content_is_a_text_null_or_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    asked = chat(messages=[{"role": "developer", "content": parts}, {"role": "assistant", "content": None}])
    assert asked.messages == [{"role": "system", "content": "Hello"}, {"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "'image_url'"),
        ({"messages": HELLO, "temperature": 11}, "temperature"),
        ({"messages": HELLO, "temperature": "warm"}, "$.temperature"),
        ({"messages": HELLO, "n": 1_000_000}, "n must be 1"),
        ({"messages": HELLO, "stop": 5}, "$.stop"),
        ({"messages": HELLO, "top_logprobs": 3}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HELLO, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "'x'"),
        ({"messages": HELLO, "tool_choice": "any"}, "'any'"),
        ({"messages": HELLO, "tools": [{"type": "retrieval"}]}, "tools[0]"),
        (
            {"messages": HELLO, "tools": [{"function": {"name": "x", "parameters": [[]]}}]},
            "tools[0].function.parameters",
        ),
        ({"messages": HELLO, "tools": [{"function": {"name": "x", "parameters": nested(100)}}]}, "nested too deeply"),
        ({"messages": HELLO, "functions": [{}]}, "functions"),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": HELLO, "logit_bias": {"5": 1000}}, "logit_bias"),
        ({"messages": HELLO, "reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"messages": HELLO * 10_001}, "10,001"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(**fields)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"messages": [{"role": "\xff"}]}', b'{"messages": ' + b"[" * 100_000, b'{"messages": NaN}'],
    ids=["empty", "list", "cut", "not UTF-8", "deep", "NaN"],
)
def test_a_body_that_is_not_json_of_the_right_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read(body, openai_chat.ChatBody)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    field=st.sampled_from([*openai_chat.ChatBody.__struct_fields__]),
    value=JSON,
    message=st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "reasoning_content"]), JSON, max_size=4),
)
def test_any_body_is_a_question_or_refused(field: str, value: Any, message: Any) -> None:
    for ask in (chat, messages, ollama_chat):
        try:
            ask(**{"messages": [{"role": "user", **message}], field: value})
        except InvalidRequestError:
            continue


def test_the_prompt_is_scored_where_it_is_told_with_log_probabilities() -> None:
    def asked(**fields: Any) -> tuple[bool, int, int | None]:
        body = read(json.dumps({"prompt": [1, 2], **fields}).encode(), openai_text.TextBody)
        (question,) = openai_text.questions_of(body)
        return question.prompt_logprobs, question.top_logprobs, question.max_tokens

    assert asked(echo=True, logprobs=1, max_tokens=1) == (True, 1, 1)
    assert asked(echo=True, logprobs=0, max_tokens=0) == (True, 0, 1)
    assert asked(logprobs=20) == (False, 20, 16)
    assert asked(echo=True, max_tokens=0) == (False, 0, 1)
    for wrong in ({"logprobs": 21}, {"logprobs": -1}, {"echo": True, "logprobs": 1, "stream": True}):
        with pytest.raises(InvalidRequestError, match="logprobs"):
            asked(**wrong)


def test_prompts_are_texts_or_token_ids() -> None:
    def prompts(prompt: Any) -> list[Any]:
        body = read(json.dumps({"prompt": prompt}).encode(), openai_text.TextBody)
        return [question.prompt for question in openai_text.questions_of(body)]

    assert prompts("a") == ["a"]
    assert prompts([1, 2]) == [(1, 2)]
    assert prompts(["a", [1, 2]]) == ["a", (1, 2)]
    for wrong in ([], [[]], [1, "a"], [True], ["a"] * 65):
        with pytest.raises(InvalidRequestError):
            prompts(wrong)
