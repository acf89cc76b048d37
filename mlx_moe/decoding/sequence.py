"""Sequence: the state of one conversation and of its answer, as plain data.

It can be written to bytes and resumed by another coordinator with other stages. Knows nothing about MLX and links.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Sequence as List
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mlx_moe.decoding.chunking import chunk_start, cut
from mlx_moe.decoding.replay import PromptFrames, Replay
from mlx_moe.decoding.request import GenerationStats, Request
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.grammar import Grammar

BLOCK = 256
"""Number of tokens that are compared at once: two lists are compared much faster than their elements."""


class Phase(StrEnum):
    """The state of a sequence's answer."""

    IDLE = "idle"
    """There is no answer."""
    WAITING = "waiting"
    """An answer was requested; nothing is reserved or sent yet."""
    PREFILL = "prefill"
    """Known tokens are computed: those of the prompt, and written ones whose positions were lost."""
    DECODE = "decode"
    """The answer is being written."""


@dataclass(slots=True)
class Sequence:
    """The tokens whose positions the stages keep, and the answer that continues them.

    Attributes:
        token_ids: tokens of the positions that all stages are known to keep, from position 0.
        frame_ends: ends of the frames that computed these positions, ascending. Frames of other lengths give other last
            bits, so positions that are computed again are cut at the same ends.
        cut_lengths: lengths, by their ends, of frames whose last positions were removed later.
        chunk_length: length of the chunks in which positions are prefilled from position 0.
        reused: number of positions of the last request's prompt that were kept already.
        answer_ids: tokens written for the request, including those whose positions are not kept yet.
        planned: ends of the frames that must return before the answer continues; some may be in flight.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    token_ids: list[int] = field(default_factory=list)
    frame_ends: list[int] = field(default_factory=list)
    cut_lengths: dict[int, int] = field(default_factory=dict)
    chunk_length: int = 1
    reused: int = 0
    phase: Phase = Phase.IDLE
    request: Request | None = None
    seed: int = 0
    limit: int = 0
    answer_ids: list[int] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)

    def ask(self, request: Request, seed: int, limit: int, stats: GenerationStats) -> None:
        """Request an answer of up to `limit` tokens, sampled with `seed` and counted in `stats`."""
        self.request, self.seed, self.limit = request, seed, limit
        self.answer_ids, self.planned, self.reused = [], [], 0
        self.stats = stats
        self.phase = Phase.WAITING

    @property
    def asked(self) -> Request:
        """The request that is being answered."""
        assert self.request is not None  # `ask` comes before
        return self.request

    @property
    def n_known(self) -> int:
        """The number of tokens of the prompt and of the answer so far."""
        return len(self.asked.input_ids) + len(self.answer_ids)

    def known(self, start: int, end: int) -> list[int]:
        """Return the tokens of positions start, ..., end - 1 of prompt and answer."""
        prompt = self.asked.input_ids
        return [*prompt[start:end], *self.answer_ids[max(0, start - len(prompt)) : max(0, end - len(prompt))]]

    def plan(self) -> None:
        """Plan the frames of all known tokens that are not kept: chunks of the prompt, then one token each."""
        n_prompt, start = len(self.asked.input_ids), len(self.token_ids)
        chunks = cut(start, n_prompt, self.stats.chunk_length)
        self.planned = [*chunks, *range(max(start, n_prompt) + 1, self.n_known + 1)]
        self.phase = Phase.PREFILL

    def replan(self, position: int) -> None:
        """Plan to compute everything from `position` on again, in the same frames: stages keep nothing after it.

        If `position` is within a frame, this whole frame is computed again.
        """
        if self.phase is Phase.DECODE:
            self.plan()
        boundary = max((end for end in self.frame_ends if end <= position), default=0)
        self.planned[:0] = [end for end in self.frame_ends if end > boundary]
        self.frame_ends = [end for end in self.frame_ends if end <= boundary]
        del self.token_ids[boundary:]

    def uncut(self) -> bool:
        """Plan to run the kept positions of cut frames alone; return whether there were any."""
        had_any = bool(self.cut_lengths)
        self.cut_lengths = {}
        return had_any

    @property
    def prompt_frames(self) -> PromptFrames:
        """The frames in which the prompt of the answer is computed, once they are planned."""
        n_prompt = len(self.asked.input_ids)
        ends = tuple(end for end in (*self.frame_ends, *self.planned) if end <= n_prompt)
        return PromptFrames(ends, tuple(self.cut_lengths.items()), self.chunk_length, self.stats.chunk_length)

    def go_on(self, replay: Replay) -> None:
        """Go on with an answer that was asked for, and that another coordinator has begun; nothing is kept of it."""
        self.answer_ids = list(replay.answer_ids)
        if (frames := replay.frames) is not None:
            self.chunk_length, self.stats.chunk_length = frames.chunk_length, frames.rest_length
            self.cut_lengths = dict(frames.cut_lengths)
            self.planned = [*frames.ends, *range(frames.ends[-1] + 1, self.n_known + 1)]
            self.phase = Phase.PREFILL

    def put_back(self, frames: PromptFrames | None) -> None:
        """Plan to compute everything again when the answer, which has ended, is submitted again; nothing is kept."""
        self.rewind(0)
        self.planned, self.phase = [], Phase.WAITING
        self.go_on(Replay(tuple(self.answer_ids), frames))

    def restart(self) -> None:
        """Plan to compute everything again, on other stages that keep nothing."""
        if self.phase in (Phase.PREFILL, Phase.DECODE):
            self.replan(0)
        else:
            self.rewind(0)

    @property
    def replayed(self) -> tuple[int, int]:
        """The number of positions that are kept, and of those that are kept before the answer continues."""
        return len(self.token_ids), self.planned[-1] if self.planned else len(self.token_ids)

    def keep(self, token_ids: List[int]) -> None:
        """Record that the positions of these tokens are kept, after their frame has returned."""
        self.token_ids.extend(token_ids)
        self.frame_ends.append(len(self.token_ids))

    def rewind(self, position: int) -> None:
        """Remove the positions from `position` on."""
        while self.frame_ends and self.frame_ends[-1] > position:
            end = self.frame_ends.pop()
            start = self.frame_ends[-1] if self.frame_ends else 0
            if start < position:
                self.frame_ends.append(position)
                self.cut_lengths[position] = self.cut_lengths.get(end, end - start)
                break
        self.cut_lengths = {end: length for end, length in self.cut_lengths.items() if end <= position}
        del self.token_ids[position:]

    def begin_as(self, lender: Sequence, positions: int) -> None:
        """Record that its caches were replaced by a fork of the first `positions` of another sequence's."""
        self.token_ids = list(lender.token_ids)
        self.frame_ends = list(lender.frame_ends)
        self.cut_lengths = dict(lender.cut_lengths)
        self.chunk_length = lender.chunk_length
        self.rewind(positions)

    def shared(self, input_ids: List[int]) -> int:
        """Return the number of leading tokens of `input_ids` that are kept, without its last one, which must be run."""
        end = min(len(self.token_ids), len(input_ids) - 1)
        for start in range(0, end, BLOCK):
            kept, wanted = self.token_ids[start : start + BLOCK], input_ids[start : start + BLOCK]
            if kept != list(wanted):
                differs = (n for n, (a, b) in enumerate(zip(kept, wanted, strict=False)) if a != b)
                return min(end, start + next(differs, BLOCK))
        return end

    def covers(self, other: Sequence) -> bool:
        """Whether it can lend all that another sequence can lend."""
        whole = other.in_whole_chunks
        same = self.chunk_length == other.chunk_length and self.token_ids[:whole] == other.token_ids[:whole]
        return same and self.in_whole_chunks >= whole

    def lend(self, input_ids: List[int], chunk_length: int, *, exactly: bool = True) -> int:
        """Return the number of positions that another sequence's request with this chunk length may borrow.

        If not `exactly`, the bits of the answer may depend on what was borrowed.
        """
        if not exactly:
            return self.shared(input_ids)
        if chunk_length != self.chunk_length:
            return 0
        return chunk_start(min(self.shared(input_ids), self.in_whole_chunks), chunk_length)

    @property
    def in_whole_chunks(self) -> int:
        """Length of the prefix whose KV is bit-identical across sequences with equal chunk_length; only it is lent."""
        whole = 0
        for end in self.frame_ends:
            if end != whole + self.chunk_length or end in self.cut_lengths:
                break
            whole = end
        return whole

    def to_bytes(self) -> bytes:
        """Return the sequence as JSON."""
        value = asdict(self)
        value["frame_ends"] = _runs(self.frame_ends)
        value["cut_lengths"] = list(self.cut_lengths.items())
        return json.dumps(value).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Sequence:
        """Read a sequence from `to_bytes`. Raises ValueError, LookupError or TypeError for other data."""
        value: dict[str, Any] = json.loads(data)
        request = value.pop("request")
        if request is not None:
            sampling = request.pop("sampling")
            grammar = request.pop("grammar")
            bias = tuple((token_id, amount) for token_id, amount in sampling.pop("logit_bias"))
            request = Request(
                input_ids=tuple(request.pop("input_ids")),
                sampling=SamplingParams(**sampling, logit_bias=bias),
                stop=tuple(request.pop("stop")),
                grammar=None if grammar is None else Grammar(**{**grammar, "tools": _pairs(grammar["tools"])}),
                **request,
            )
        stats: dict[str, Any] = value.pop("stats")
        for name in ("compared_by_depth", "accepted_by_depth"):
            stats[name] = tuple(stats[name])
        parsed = {
            "request": request,
            "stats": GenerationStats(**stats),
            "phase": Phase(value.pop("phase")),
            "frame_ends": _ends(value.pop("frame_ends")),
            "cut_lengths": dict(value.pop("cut_lengths")),
        }
        return cls(**value, **parsed)


def _pairs(tools: List[List[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, schema) for name, schema in tools)


def _runs(ends: List[int]) -> list[tuple[int, int]]:
    """Return frame ends as (length, count) of equal frames in a row."""
    lengths = (end - start for start, end in itertools.pairwise([0, *ends]))
    return [(length, sum(1 for _ in group)) for length, group in itertools.groupby(lengths)]


def _ends(runs: List[List[int]]) -> list[int]:
    """Return the frame ends of `_runs`."""
    return list(itertools.accumulate(length for length, count in runs for _ in range(count)))
