"""OpenAI's Completions: POST /v1/completions, which continues a text or token ids as they are."""

from __future__ import annotations

import codecs
import itertools
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from cluster.gateway.answering import End, Piece
from cluster.gateway.events import DONE, KEEP_ALIVE, event
from cluster.gateway.failures import Failure
from cluster.gateway.openai_chat import StreamOptions, finish_reason, sampling_of, spelled, usage
from cluster.gateway.openai_errors import error_body
from cluster.gateway.question import Question, refuse, stops
from cluster.gateway.shape import Accepted, Whole
from mlx_moe.decoding.request import Token, TokenLogprob
from mlx_moe.errors import InvalidRequestError

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default."""

MAX_PROMPTS = 64


class TextBody(msgspec.Struct):
    """The body of a request; null is the same as absent. Fields that are not here are ignored."""

    prompt: str | list[Any]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None


def questions_of(body: TextBody) -> list[Question]:
    """Return what a body asks: a question for each of its prompts. Raises InvalidRequestError.

    A prompt that is echoed has the tokens of its text alone, since clients (lm-eval) count those of their own
    tokenizer; one that is only continued begins as the tokenizer begins texts. Token ids are taken as they are.
    """
    for name, value in (("n", body.n), ("best_of", body.best_of)):
        if value not in (None, 1):
            raise InvalidRequestError(f"{name} must be 1, got {value}: one answer is written for each prompt")
    refuse(body, suffix="text is only continued at its end")
    scores_prompt = bool(body.echo) and body.logprobs is not None
    if scores_prompt and body.stream:
        raise InvalidRequestError("stream with echo and logprobs is not supported: leave one of them out")
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return [
        Question(
            prompt=prompt,
            sampling=sampling_of(body),
            max_tokens=1 if echoes_alone(body) else max_tokens,
            stop=stops(body.stop),
            top_logprobs=body.logprobs or 0,
            prompt_logprobs=scores_prompt,
            prompt_as_is=bool(body.echo),
        )
        for prompt in prompts_of(body.prompt)
    ]


def echoes_alone(body: TextBody) -> bool:
    """Whether only the prompt is asked for; a token is written all the same, and not told."""
    return bool(body.echo) and body.max_tokens == 0


def prompts_of(prompt: str | Sequence[Any]) -> list[str | tuple[int, ...]]:
    """Return the prompts of a field that is a text, token ids, or a list of these."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(map(_is_id, prompt)):
        return [tuple(map(int, prompt))]
    prompts: list[str | tuple[int, ...]] = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(item)
        elif isinstance(item, list) and item and all(map(_is_id, item)):
            prompts.append(tuple(item))
        else:
            raise InvalidRequestError("prompt must be a text, a list of token ids, or a list of these")
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequestError(f"prompt must have 1 to {MAX_PROMPTS} prompts, got {len(prompts)}")
    return prompts


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


class TextShape:
    """Writes an answer as a text completion, or as its chunks. Reasoning and calls stay in the text as written."""

    media_type = "text/event-stream"

    def __init__(self, body: TextBody, prompt: str, accepted: Accepted) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": accepted.model,
        }
        self._echo = prompt if body.echo else ""
        self._echoes_alone = echoes_alone(body)
        self._offset = len(self._echo)  # of the next token's text
        self._with_logprobs = body.logprobs is not None
        self._with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def begin(self) -> bytes:
        """Return the prompt, if it shall be repeated."""
        return self._chunk(self._echo) if self._echo else b""

    def piece(self, piece: Piece) -> bytes:
        """Return the chunk of a token."""
        text = "" if self._echoes_alone else piece.token.text
        return self._chunk(text, [piece.token]) if text or self._with_logprobs else b""

    def end(self, end: End) -> bytes:
        """Return the chunk with the finish reason, and the usage if it was asked for."""
        last = self._chunk("", reason=finish_reason(end))
        if self._with_usage:
            last += event({**self._head, "choices": [], "usage": usage(end)})
        return last + DONE

    def pause(self) -> bytes:
        """Return a comment."""
        return KEEP_ALIVE

    def cut(self, failure: Failure) -> bytes:
        """Return the error as OpenAI's clients raise it."""
        return event(error_body(failure))

    def whole(self, answer: Whole) -> Any:
        """Return the completion."""
        tokens = () if self._echoes_alone else answer.tokens
        text = self._echo + "".join(token.text for token in tokens)
        reason = "length" if self._echoes_alone else finish_reason(answer.end)
        return {
            **self._head,
            "choices": [self._choice(text, tokens, reason, answer.prompt)],
            "usage": usage(answer.end, told=len(tokens)),
        }

    def _chunk(self, text: str, tokens: Sequence[Token] = (), reason: str | None = None) -> bytes:
        return event({**self._head, "choices": [self._choice(text, tokens, reason)]})

    def _choice(
        self, text: str, tokens: Sequence[Token], reason: str | None, prompt: Sequence[Token] = ()
    ) -> dict[str, Any]:
        logprobs = None
        if self._with_logprobs:
            every = [*prompt, *tokens]
            has_logprob = [token.position > 0 for token in every]
            logprobs = {
                "tokens": [spelled(token.piece) for token in every],
                "token_logprobs": [t.logprob if has else None for t, has in zip(every, has_logprob, strict=True)],
                "top_logprobs": [_top(t) if has else None for t, has in zip(every, has_logprob, strict=True)],
                "text_offset": [*_prompt_offsets(prompt), *self._offsets(tokens)],
            }
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _offsets(self, tokens: Sequence[Token]) -> list[int]:
        *starts, self._offset = itertools.accumulate((len(token.text) for token in tokens), initial=self._offset)
        return starts


def _top(token: Token) -> dict[str, float]:
    """Return the likeliest tokens and the token itself; of several that are spelled alike the likeliest counts."""
    top: dict[str, float] = {}
    every: tuple[Token | TokenLogprob, ...] = (*token.top, token)
    for one in every:
        top.setdefault(spelled(one.piece), one.logprob)
    return top


def _prompt_offsets(prompt: Sequence[Token]) -> list[int]:
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    lengths = (len(utf8.decode(token.piece)) for token in prompt)
    return list(itertools.accumulate(lengths, initial=0))[:-1]


def merged(completions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the completions of several prompts as one, with a choice for each."""
    choices = [{**completion["choices"][0], "index": n} for n, completion in enumerate(completions)]
    counts = [completion["usage"] for completion in completions]
    total = {name: sum(count[name] for count in counts) for name in counts[0] if name.endswith("_tokens")}
    return {**completions[0], "choices": choices, "usage": total}
