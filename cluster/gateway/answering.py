"""Answering: asks the served model a question, and yields its answer in pieces that every API can write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from cluster.client import Begun, ModelClient, Prefilled, PromptScored, Written
from cluster.gateway.question import Question
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall

PROMPT_ENDING = 64
"""Number of tokens at the end of a prompt that may contain the beginning of the answer, such as an open thought."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The prompt is being read: `done` of `total` positions. `scored` are tokens of it; some may come again."""

    done: int
    total: int
    scored: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, and the parts of the answer that it completed."""

    token: Token
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class End:
    """The end of the answer: the parts that were still held back, and what it cost."""

    parts: tuple[Part, ...]
    finish_reason: FinishReason
    stats: GenerationStats
    reasoning_tokens: int
    calls: int


async def prompt_of(model: ModelClient, question: Question) -> list[int]:
    """Return the token ids of a question's prompt.

    Raises:
        InvalidRequestError: the messages cannot be rendered, or the model has no chat template.
        UnsupportedModelError: the model has no tokenizer.
    """
    if not isinstance(question.prompt, str):
        return list(question.prompt)
    if model.description.text_failure:
        raise UnsupportedModelError(model.description.text_failure)
    if not question.messages:
        return await model.encode(question.prompt, add_special_tokens=not question.prompt_as_is)
    if not model.description.has_chat_template:
        raise InvalidRequestError(
            f"{model.description.model} has no chat template: send its prompt to /v1/completions instead"
        )
    tools = {"tools": list(question.tools)} if question.tools else {}
    return await model.format_chat(question.messages, {**question.variables, **tools})


async def answer(
    model: ModelClient, question: Question, prompt_ids: list[int], *, exact: bool
) -> AsyncIterator[Prefill | Piece | End]:
    """Ask, and yield the progress of the prompt, then the tokens, then the end. Closing it ends the answer everywhere.

    If not `exact`, kept prefixes of any length are used, see Request.borrows_any.

    Raises:
        MoeClusterError: the request is refused, or the answer failed.
    """
    description = model.description
    sampling = description.sampling.updated(**question.sampling)
    most = question.max_tokens
    if question.fits_context and most is not None and most > description.context_tokens - len(prompt_ids):
        most = None
    request = Request(
        tuple(prompt_ids),
        sampling,
        most,
        question.stop,
        grammar=question.grammar,
        top_logprobs=question.top_logprobs,
        prompt_logprobs=question.prompt_logprobs,
        borrows_any=not exact,
    )
    parser = description.dialect.parser(question.tools, opening=await _opening(model, question, prompt_ids))
    reasoning_tokens = calls = 0
    stream = model.answer(request)
    try:
        async for event in stream:
            if isinstance(event, Begun):
                yield Prefill(0, len(prompt_ids))
            elif isinstance(event, Prefilled):
                yield Prefill(event.done, event.total)
            elif isinstance(event, PromptScored):
                yield Prefill(event.tokens[-1].position + 1, len(prompt_ids), event.tokens)
            elif isinstance(event, Written):
                text = event.token.text
                parts = parser.feed(text) if question.messages else [Content(text, text)]
                reasoning_tokens += bool(parts) and all(isinstance(part, Reasoning) for part in parts)
                calls += sum(isinstance(part, ToolCall) for part in parts)
                yield Piece(event.token, tuple(parts))
                if event.finish_reason is not None:
                    rest = parser.finish()
                    calls += sum(isinstance(part, ToolCall) for part in rest)
                    yield End(tuple(rest), event.finish_reason, event.stats, reasoning_tokens, calls)
    finally:
        stream.cancel()


async def _opening(model: ModelClient, question: Question, prompt_ids: list[int]) -> str:
    if not question.messages or model.description.text_failure:
        return ""
    ending = await model.decode(prompt_ids[-PROMPT_ENDING:], skip_special_tokens=False)
    return model.description.dialect.opening(ending)
