"""Grammars: an answer obeys its grammar, with drafts too; everything that obeys it is allowed."""

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from mlx_moe.checkpoint import library
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.decoding.drafting.ngram_drafter import NgramDrafter
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.chat_template import ChatTemplate
from mlx_moe.text.dialects import ToolCall
from mlx_moe.text.grammar import MAX_CALLS, Grammar
from mlx_moe.text.tokenizer import Tokenizer
from mlx_moe.text.vocabulary import Vocabulary
from tests.mlx_moe.demo_pipeline import STORY, Pipeline, constraints, plain, prompt, tokenizer

FEW = settings(max_examples=20, suppress_health_check=list(HealthCheck))

leaves = st.sampled_from(
    [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "integer", "minimum": -5, "maximum": 99},
        {"type": "string", "maxLength": 6},
        {"type": "string", "pattern": "^[a-c]{1,3}$"},
        {"enum": ["yes", "no", 3, None]},
        {"const": "é"},
    ]
)


def _object(properties: dict[str, Any], n_required: int) -> dict[str, Any]:
    required = sorted(properties)[:n_required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


schemas = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3))
        | st.builds(_object, st.dictionaries(st.sampled_from("abc"), inner, max_size=3), st.integers(0, 3))
        | st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2))
    ),
    max_leaves=6,
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return the values that obey one of these schemas, with fields in the order of the schema, as they are written."""
    match schema:
        case {"enum": options}:
            return st.sampled_from(options)
        case {"const": value}:
            return st.just(value)
        case {"anyOf": options}:
            return st.one_of(*map(values, options))
        case {"type": "array", "items": items, "maxItems": most}:
            return st.lists(values(items), max_size=most)
        case {"type": "object", "properties": properties, "required": required}:
            fields = {name: values(field) for name, field in properties.items()}
            optional = {name: field for name, field in fields.items() if name not in required}
            chosen = st.fixed_dictionaries({name: fields[name] for name in required}, optional=optional)
            return chosen.map(lambda found: {name: found[name] for name in properties if name in found})
        case {"type": "integer"}:
            return st.integers(-5, 99)
        case {"pattern": pattern}:
            return st.from_regex(pattern, fullmatch=True)
        case {"type": "string"}:
            return st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
        case {"type": "boolean"}:
            return st.booleans()
    return st.none()


def request(grammar: Grammar, sampling: SamplingParams, max_tokens: int = 80) -> Request:
    return Request(prompt(STORY), sampling, max_tokens, grammar=grammar)


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


@FEW
@given(schema=schemas, seed=st.integers(0, 1000))
def test_every_finished_answer_is_valid(schema: dict[str, Any], seed: int) -> None:
    tokens = plain(request(Grammar.of_schema(schema), SamplingParams(temperature=1.0, top_p=1.0)), seed)
    if len(tokens) < 80:
        jsonschema.validate(json.loads(text_of(tokens)), schema)


@FEW
@given(data=st.data(), schema=schemas)
def test_whatever_obeys_a_schema_is_allowed(data: st.DataObject, schema: dict[str, Any]) -> None:
    value = data.draw(values(schema))
    constraint = constraints().new(Grammar.of_schema(schema), prompt(STORY))
    before: list[int] = []
    for token_id in tokenizer().encode(json.dumps(value, ensure_ascii=False), add_special_tokens=False):
        assert constraint.allows(before, token_id)
        assert constraint.allowed(before)[token_id].item()
        before.append(token_id)
    allowed = constraint.allowed(before)
    assert all(allowed[end].item() for end in tokenizer().eos_token_ids)


LIST = Grammar.of_schema({"type": "array", "items": {"enum": ["Mac", "node"]}, "minItems": 6, "maxItems": 9})


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_p=1.0)])
@pytest.mark.parametrize("n_stages", [2, 6])
def test_drafts_change_no_token_of_a_constrained_answer(sampling: SamplingParams, n_stages: int) -> None:
    asked = request(LIST, sampling)
    pipeline = Pipeline(n_stages, NgramDrafter)
    answer = pipeline.ask(asked)
    (tokens,) = pipeline.finish(answer)
    assert tokens == plain(asked)
    assert answer.stats.accepted > 0
    pipeline.close()


def test_a_constraint_goes_back_where_the_tokens_differ() -> None:
    ids = tokenizer().encode('["Mac", "node", "Mac"]', add_special_tokens=False)
    used, fresh = constraints().new(LIST, ()), constraints().new(LIST, ())
    used.allowed(ids[:8])
    for n in (2, 5, 0, 7):
        assert used.allowed(ids[:n]).tolist() == fresh.allowed(ids[:n]).tolist()


@cache
def thinking() -> Tokenizer:
    """Return the demo model's tokenizer with the marks of a thought as special tokens, and a dialect of JSON calls."""
    vocabulary = Vocabulary.read(library.locate("demo"), {})
    vocabulary.tokenizer.add_tokens([AddedToken(text, special=True) for text in ("<think>", "</think>")])
    template = "<tool_call>{{ messages[0].content }}<think>\n"
    return Tokenizer(vocabulary, frozenset({2}), ChatTemplate(template, {}), model_type="qwen3_moe")


def follows(tokenizer: Tokenizer, grammar: Grammar, prompt_ids: list[int], text: str) -> bool:
    """Whether a text is a whole answer by the grammar."""
    compiled = Constraints(tokenizer, tokenizer.vocab_size).new(grammar, prompt_ids)
    before: list[int] = []
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        if not compiled.allows(before, token_id):
            return False
        before.append(token_id)
    return bool(compiled.allowed(before)[2].item())


def test_a_grammar_holds_for_what_follows_the_thought() -> None:
    model, number = thinking(), Grammar.of_schema({"type": "integer", "maximum": 9, "minimum": 0})
    open_thought = model.format_chat([{"role": "user", "content": "x"}])
    assert model.opening(open_thought)
    assert follows(model, number, open_thought, 'Let me see. {"a"\n: 7}</think>\n\n7')
    assert not follows(model, number, open_thought, "7")
    assert follows(model, number, [5], "7")
    assert follows(model, number, [5], "<think>A thought.</think>\n7")
    assert not follows(model, number, [5], "<think>A thought.</think>\nSeven")


def test_forced_calls_are_in_the_models_own_dialect() -> None:
    model = thinking()
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    one = Grammar(tools=(("add", schema), ("now", '{"type": "object"}')))
    call = model.dialect.write([("add", '{"a": 1}')])
    assert [part.name for part in model.dialect.split(call) if isinstance(part, ToolCall)] == ["add"]
    assert follows(model, one, [5], call)
    assert follows(model, one, [5], model.dialect.write([("now", '{"b": [1]}')]))
    indented = call.replace('{"a"', '{\n    "a"')
    for wrong in ("Hello", call.replace('"a"', '"c"'), call.replace("add", "sub"), indented, call + "\n" + call):
        assert not follows(model, one, [5], wrong)
    several = Grammar(tools=one.tools, parallel=True)
    assert follows(model, several, [5], "\n".join([call] * MAX_CALLS))
    assert not follows(model, several, [5], "\n".join([call] * (MAX_CALLS + 1)))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "nope"}, "nope"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://example.com/x"}, "http://example.com/x"),
        ({"enum": []}, "Unsatisfiable"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_before_any_work(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError, match="the grammar is not supported") as refused:
        constraints().new(Grammar.of_schema(schema), ())
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"schema": "{"},
        {"schema": "5"},
        {"schema": "[" * 100_000},
        {"schema": "{}", "tools": (("a", "{}"),)},
        {"tools": (("a", "{}"),) * 129},
        {"schema": '{"a": "' + "x" * (256 << 10) + '"}'},
    ],
    ids=["nothing", "cut", "number", "deep", "both", "many", "long"],
)
def test_a_grammar_is_checked_when_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        Grammar(**fields)
