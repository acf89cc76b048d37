"""Request messages: conversion of requests and answers to and from wire messages, for client and coordinator."""

from __future__ import annotations

import dataclasses
import itertools
from typing import cast

from google.protobuf.unknown_fields import UnknownFieldSet

from cluster.printable import MAX_ERROR, printable
from cluster.wire import coordinator_pb2 as pb
from mlx_moe.decoding.replay import PromptFrames, Replay
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token, TokenLogprob
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.grammar import Grammar

MAX_UINT32 = (1 << 32) - 1

MAX_FRAMES = 1 << 20
"""Frames of a prompt: each has a position or more, and no model has more positions."""


def to_sampling_message(params: SamplingParams) -> pb.Sampling:
    """Return sampling parameters as a message. Raises InvalidRequestError for a token id above MAX_UINT32."""
    bias = dict(params.logit_bias)
    _require_uint32("logit_bias", max(bias, default=0))
    return pb.Sampling(**{**dataclasses.asdict(params), "logit_bias": bias})


def from_sampling_message(message: pb.Sampling) -> SamplingParams:
    """Return the sampling parameters of a message. Raises InvalidRequestError for invalid values or unknown fields."""
    if len(UnknownFieldSet(message)):
        raise InvalidRequestError("the request has a sampling parameter that this version does not have")
    given = {field.name: value for field, value in message.ListFields()}
    if "logit_bias" in given:
        given["logit_bias"] = dict(message.logit_bias)
    return SamplingParams(**given)


def to_request_message(
    request: Request, conversation_id: bytes, request_id: bytes, replay: Replay | None = None
) -> pb.AnswerRequest:
    """Return a request as a message. Raises InvalidRequestError for a token id above MAX_UINT32."""
    _require_uint32("input_ids", max(request.input_ids))
    return pb.AnswerRequest(
        conversation_id=conversation_id,
        input_ids=request.input_ids,
        sampling=to_sampling_message(request.sampling),
        max_tokens=None if request.max_tokens is None else min(request.max_tokens, MAX_UINT32),
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        detect_loops=request.detect_loops,
        request_id=request_id,
        grammar=None if request.grammar is None else _to_grammar_message(request.grammar),
        top_logprobs=request.top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        borrows_any=request.borrows_any,
        answer_ids=() if replay is None else replay.answer_ids,
        frames=None if replay is None or replay.frames is None else to_frames_message(replay.frames),
    )


def from_request_message(message: pb.AnswerRequest) -> Request:
    """Return the request of a message. Raises InvalidRequestError for invalid values."""
    return Request(
        tuple(message.input_ids),
        sampling=from_sampling_message(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
        detect_loops=message.detect_loops,
        grammar=_from_grammar_message(message.grammar) if message.HasField("grammar") else None,
        top_logprobs=message.top_logprobs,
        prompt_logprobs=message.prompt_logprobs,
        borrows_any=message.borrows_any,
    )


def from_replay(message: pb.AnswerRequest) -> Replay | None:
    """Return what was computed of a request elsewhere; None if nothing was. Raises InvalidRequestError."""
    if not message.answer_ids and not message.HasField("frames"):
        return None
    frames = from_frames_message(message.frames) if message.HasField("frames") else None
    return Replay(tuple(message.answer_ids), frames)


def to_frames_message(frames: PromptFrames) -> pb.PromptFrames:
    """Return the frames of a prompt as a message."""
    lengths = (end - start for start, end in itertools.pairwise((0, *frames.ends)))
    runs = [(length, sum(1 for _ in run)) for length, run in itertools.groupby(lengths)]
    return pb.PromptFrames(
        lengths=[length for length, _ in runs],
        counts=[count for _, count in runs],
        cut_lengths=dict(frames.cut_lengths),
        chunk_length=frames.chunk_length,
        rest_length=frames.rest_length,
    )


def from_frames_message(message: pb.PromptFrames) -> PromptFrames:
    """Return the frames of a prompt. Raises InvalidRequestError for frames that cannot be."""
    if len(message.lengths) != len(message.counts) or sum(message.counts) > MAX_FRAMES:
        raise InvalidRequestError(f"a prompt has one count for each length, and at most {MAX_FRAMES:,} frames")
    lengths = (length for length, count in zip(message.lengths, message.counts, strict=True) for _ in range(count))
    cut_lengths = tuple(sorted(message.cut_lengths.items()))
    return PromptFrames(tuple(itertools.accumulate(lengths)), cut_lengths, message.chunk_length, message.rest_length)


def _to_grammar_message(grammar: Grammar) -> pb.Grammar:
    tools = [pb.GrammarTool(name=name, schema=schema) for name, schema in grammar.tools]
    return pb.Grammar(schema=grammar.schema, tools=tools, parallel=grammar.parallel)


def _from_grammar_message(message: pb.Grammar) -> Grammar:
    return Grammar(message.schema, tuple((tool.name, tool.schema) for tool in message.tools), message.parallel)


def to_token_message(
    token: Token, stats: GenerationStats | None = None, finish_reason: FinishReason | None = None
) -> pb.AnswerToken:
    """Return a token as a message, with the answer's counts and times at this token; a prompt's token has none."""
    return pb.AnswerToken(
        id=token.id,
        text=token.text,
        logprob=token.logprob,
        position=token.position,
        piece=token.piece,
        top=[pb.TokenLogprob(id=other.id, piece=other.piece, logprob=other.logprob) for other in token.top],
        stats=None if stats is None else pb.AnswerStats(**dataclasses.asdict(stats)),
        finish_reason=finish_reason or "",
    )


def from_token_message(message: pb.AnswerToken) -> tuple[Token, GenerationStats, FinishReason | None]:
    """Return the token of a message, and the answer's statistics and finish reason at this token."""
    stats = {field.name: getattr(message.stats, field.name) for field in dataclasses.fields(GenerationStats)}
    for name in ("compared_by_depth", "accepted_by_depth"):
        stats[name] = tuple(stats[name])
    stats["waited_for"] = printable(message.stats.waited_for, MAX_ERROR)
    top = tuple(TokenLogprob(other.id, other.piece, other.logprob) for other in message.top)
    token = Token(message.id, message.text, message.logprob, message.position, message.piece, top)
    return token, GenerationStats(**stats), cast("FinishReason | None", message.finish_reason or None)


def _require_uint32(name: str, token_id: int) -> None:
    if token_id > MAX_UINT32:
        raise InvalidRequestError(f"{name} has token {token_id}; no vocabulary has so many tokens")
