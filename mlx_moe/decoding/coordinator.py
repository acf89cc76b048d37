"""Coordinator: owns the tokens. It embeds them, and samples from the hidden states that return.

It does no input or output: `step` yields frames to send and tokens that were written, and `receive` takes what the last
stage returns, so that it is the same in one process and over a network. Knows nothing about text.

Where stages would be idle it drafts: frames of predicted tokens follow the newest token's frame. Steps of several
answers leave together. Each position is computed as if alone, and its token is sampled from its own logits, so neither
drafts nor other answers change a bit of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import mlx.core as mx

from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule
from mlx_moe.decoding.constraint import Constraint, Constraints
from mlx_moe.decoding.drafting import Drafter
from mlx_moe.decoding.drafting.drafter import Observer
from mlx_moe.decoding.frames_in_flight import FramesInFlight
from mlx_moe.decoding.request import Request
from mlx_moe.decoding.sampling import Sampler, likeliest, scored
from mlx_moe.decoding.scheduler import Scheduler
from mlx_moe.decoding.sequence import Phase, Sequence
from mlx_moe.decoding.speculation import Acceptance, Speculation, worth_of
from mlx_moe.errors import EvictedError, MoeClusterError, NumericsError, RewindError
from mlx_moe.layers.steps import Wait
from mlx_moe.pipeline.embedding_and_lm_head import EmbeddingAndLMHead
from mlx_moe.pipeline.frame import Batch, Fork, Frame, FrameKind, Outgoing, Release, Returned

CLEAR_CACHE_EVERY = 256
"""Number of tokens after which MLX releases freed buffers."""

SCORED_BYTES = 64 << 20
"""Size of the float32 logits of the prompt's positions that are scored at once."""

FILLER_ID = 0
"""Token that pads a frame that is computed again to its former length; these positions are not kept."""


Top = tuple[tuple[int, float], ...]
"""The likeliest tokens of a position, and their log-probabilities."""


@dataclass(frozen=True, slots=True)
class Written:
    """A token that was written; its sequence is DECODE, or IDLE if the answer has reached its limit."""

    sequence: Sequence
    token_id: int
    logprob: float
    top: Top = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the prompt's tokens from `position` on, and the likeliest tokens at each of them.

    A position that is computed again is scored again.
    """

    sequence: Sequence
    position: int
    logprobs: list[float]
    tops: list[Top]


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that an error has ended; its sequence is IDLE and can be used again."""

    sequence: Sequence
    error: MoeClusterError


Output = Outgoing | Wait | Scored | Written | Failed
"""What a step yields. The caller handles each before it asks for the next; it calls a Wait, possibly in a thread."""


@dataclass(slots=True)
class _Answer:
    """What an answer needs while it is computed; all of it can be recreated from the sequence."""

    sequence: Sequence
    request: Request
    sampler: Sampler
    speculation: Speculation
    constraint: Constraint | None = None
    in_flight: FramesInFlight = field(default_factory=FramesInFlight)
    is_begun: bool = False
    went_back_to: tuple[int, int] = (-1, 0)  # position of the last recomputation, and the number of known tokens then
    is_checked: bool = False  # its frames find the layer that made NaN
    logits: mx.array | None = None  # `[V]` for its next token, if they were computed together with those of others

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's positions are scored when they return: those of an answer that has tokens were."""
        return self.request.prompt_logprobs and not self.sequence.answer_ids

    def sample(self, logits: mx.array, before: list[int]) -> tuple[mx.array, mx.array]:
        """Sample from logits `[V]` what follows the tokens `before` of the answer, see Sampler."""
        allowed = None if self.constraint is None else self.constraint.allowed(before)
        return self.sampler(logits, len(self.request.input_ids) + len(before), allowed)


class Coordinator:
    """Answers requests of many sequences on `n_stages` stages, with up to `frames_in_flight` prefill frames of each.

    `new_drafter` creates a sequence's drafter; it is not used with a single stage, which is never idle. `chunks` is the
    rule by which prompts are cut. `kv_positions` and `fixed_positions` limit the caches, see KVBudget.
    """

    def __init__(
        self,
        ends: EmbeddingAndLMHead,
        vocab_size: int,
        *,
        n_stages: int = 1,
        frames_in_flight: int = 1,
        kv_positions: int | None = None,
        fixed_positions: int = 0,
        new_drafter: Callable[[], Drafter] | None = None,
        chunks: ChunkRule = DEFAULT_RULE,
        constraints: Constraints | None = None,
    ) -> None:
        self.acceptance = Acceptance()
        self.scheduler = Scheduler(n_stages, self._decodes, kv_positions, fixed_positions)
        self.sequences: dict[str, Sequence] = {}
        self.drafters: dict[str, Drafter] = {}
        self._answers: dict[str, _Answer] = {}
        self._ends = ends
        self._vocab_size = vocab_size
        self._n_stages = n_stages
        self._frames_in_flight = frames_in_flight
        self._new_drafter = new_drafter if n_stages > 1 else None
        self._chunks = chunks
        self._constraints = constraints
        self._serial = 0

    def submit(self, sequence: Sequence) -> None:
        """Start the turns of a sequence that has a request, or that was `restart`ed after running elsewhere.

        The sequence must not be answering.
        """
        request = sequence.asked
        self._answers[sequence.id] = _Answer(
            sequence,
            request,
            Sampler(request.sampling, sequence.seed, self._vocab_size, request.input_ids, sequence.answer_ids),
            Speculation(self.acceptance, worth_of(self._n_stages), sequence.stats),
            self._constraint(request),
        )
        self.scheduler.ready(sequence.id)

    def receive(self, returned: Returned) -> None:
        """Process what the last stage returns; cancelled and void frames are ignored."""
        answer = self._answers.get(returned.sequence_id)
        if answer is not None and answer.in_flight.receive(returned):
            self.scheduler.ready(returned.sequence_id)

    def step(self, sequence_ids: Iterable[str]) -> Iterator[Output]:
        """Advance answers: each sends one frame, or processes a returned one and writes a token.

        Steps of several answers leave as one batch, before any of their tokens is read.
        """
        answers = [self._answers[sequence_id] for sequence_id in sequence_ids if sequence_id in self._answers]
        self._compute_logits(answers)
        turns = [self._turn(answer) for answer in answers]
        steps: list[tuple[_Answer, Frame]] = []
        for answer, turn in zip(answers, turns, strict=True):
            for output in turn:
                if isinstance(output, Frame) and output.is_step:
                    steps.append((answer, output))
                    break
                yield output
        frames = tuple(frame for answer, frame in steps if self._is_current(answer))
        if frames:
            yield frames[0] if len(frames) == 1 else Batch(frames)
        for turn in turns:
            yield from turn

    def _decodes(self, sequence_id: str) -> bool:
        answer = self._answers.get(sequence_id)
        return answer is not None and answer.sequence.phase is Phase.DECODE

    def _compute_logits(self, answers: list[_Answer]) -> None:
        """Compute the logits of all answers whose next token can be written together, so lm_head is read once."""
        rows = {}
        for n, answer in enumerate(answers):
            row = answer.in_flight.peek() if answer.sequence.phase is Phase.DECODE else None
            if row is not None and row.shape[0] == 1:
                rows[n] = row
        if len(rows) > 1:
            logits = self._ends.logits(mx.concatenate([*rows.values()]))
            for i, n in enumerate(rows):
                answers[n].logits = logits[i]

    def _turn(self, answer: _Answer) -> Iterator[Output]:
        if not self._is_current(answer):  # it was evicted in another one's turn
            return
        try:
            if not answer.is_begun:
                yield from self._begin(answer)
            elif answer.sequence.phase is Phase.PREFILL:
                yield from self._prefill(answer)
            else:
                yield from self._decode(answer)
        except RewindError as error:
            yield from self._run_again(answer, error)
        except MoeClusterError as error:
            yield from self.fail(answer.sequence, error)

    def end(self, sequence: Sequence) -> list[Outgoing]:
        """End a sequence's answer now, if it has one; its KV caches stay.

        Returns:
            The messages to send.
        """
        answer = self._answers.pop(sequence.id, None)
        if answer is None:
            return []
        self.scheduler.end(sequence.id)
        sequence.phase = Phase.IDLE
        return [*answer.in_flight.cancel()]

    def fail(self, sequence: Sequence, error: MoeClusterError) -> list[Output]:
        """End an answer by an error. Returns the messages to send and the Failed event."""
        error.sequence_id = error.sequence_id or sequence.id
        return [*self.end(sequence), Failed(sequence, error)]

    def release(self, sequence: Sequence) -> list[Outgoing]:
        """Free a sequence's KV caches on all stages and end its answer. Returns the messages to send."""
        return [*self.end(sequence), *self._free(sequence)]

    def _constraint(self, request: Request) -> Constraint | None:
        if request.grammar is None:
            return None
        assert self._constraints is not None  # `Model.writer` refuses grammars otherwise
        return self._constraints.new(request.grammar, request.input_ids)

    # The steps of an answer

    def _begin(self, answer: _Answer) -> Iterator[Output]:
        """Reserve KV cache, reuse the kept prefix of the prompt, and send the first frame."""
        sequence, request = answer.sequence, answer.request
        written = len(sequence.answer_ids)
        gone = self.scheduler.begin(sequence.id, len(request.input_ids), written, sequence.limit, request.max_tokens)
        answer.is_begun = True
        if sequence.id not in self.sequences:  # before others are evicted: the answer may end meanwhile
            self.sequences[sequence.id] = sequence
            if self._new_drafter is not None:
                self.drafters.setdefault(sequence.id, self._new_drafter())
        yield from self._give_way(gone)
        if not self._is_current(answer):
            return
        if sequence.phase is Phase.WAITING:
            yield from self._reuse(sequence, request)
        if self._is_current(answer):
            yield from self._prefill(answer)

    def _reuse(self, sequence: Sequence, request: Request) -> Iterator[Output]:
        """Plan the frames after the kept prefix of a prompt, or after a longer one borrowed from another sequence.

        A fresh prompt is chunked by its full length even if a prefix is borrowed, so that its result does not depend on
        what was borrowed, unless the request says that it may.
        """
        input_ids, exactly = request.input_ids, not request.borrows_any
        self._rewind(sequence, 0 if request.prompt_logprobs else sequence.shared(input_ids))
        length = self._chunks.length(len(input_ids))
        lender = max(self.sequences.values(), key=lambda other: other.lend(input_ids, length, exactly=exactly))
        lent, kept = lender.lend(input_ids, length, exactly=exactly), len(sequence.token_ids)
        if request.prompt_logprobs:  # each position's hidden state must return
            lent = 0
        if lent > kept:
            sequence.begin_as(lender, lent)
            length = length if exactly else self._chunks.length(len(input_ids) - lent)
            if lender.id in self.drafters:
                self.drafters[sequence.id] = self.drafters[lender.id].fork(lent)
        elif kept:
            length = self._chunks.length(len(input_ids) - kept)
        else:
            sequence.chunk_length = length
        sequence.reused = sequence.stats.cached_tokens = len(sequence.token_ids)
        sequence.stats.chunk_length = length
        sequence.plan()
        if lent > kept:  # last: while it is sent, the sequence's next answer may replace this one
            yield Fork(sequence.id, lender.id, lent)

    def _prefill(self, answer: _Answer) -> Iterator[Output]:
        """Process returned frames; after the last one write the first token, otherwise send the next frame."""
        sequence = answer.sequence
        while (taken := answer.in_flight.take()) is not None:
            start = len(sequence.token_ids)
            self._keep(sequence, *taken)
            del sequence.planned[0]
            hidden_states = taken[1]
            if answer.scores_prompt:
                yield from self._score(answer, start, hidden_states)
                if not self._is_current(answer):
                    return
        if not sequence.planned:
            sequence.phase = Phase.DECODE
            yield from self._write(answer, hidden_states[-1:])
        elif len(answer.in_flight) < min(self._frames_in_flight, len(sequence.planned)):
            yield from self._send_planned(answer)
            if self._frames_in_flight > 1:
                self.scheduler.ready(sequence.id)  # in another turn, so that this frame is sent first
        elif len(answer.in_flight) == len(sequence.planned):
            yield from self._catch_up(sequence)

    def _score(self, answer: _Answer, start: int, hidden_states: mx.array) -> Iterator[Output]:
        """Score the prompt's tokens that follow the kept positions from `start` on, `[L, D]`.

        The logits of all of them at once could be gigabytes.
        """
        sequence, prompt, count = answer.sequence, answer.request.input_ids, answer.request.top_logprobs
        if start == 0:
            yield Scored(sequence, 0, [0.0], [()])
        end = min(len(sequence.token_ids) + 1, len(prompt))
        rows = max(1, SCORED_BYTES // (4 * self._vocab_size))
        for position in range(start + 1, end, rows):
            targets = prompt[position : min(position + rows, end)]
            logits = self._ends.logits(hidden_states[position - 1 - start :][: len(targets)])
            logprobs = scored(logits, mx.array(targets))
            ids, values = likeliest(logits, count) if count else (mx.array([]), mx.array([]))
            mx.async_eval(logprobs, ids, values)
            yield partial(mx.eval, logprobs, ids, values)
            if not self._is_current(answer):
                return
            tops: list[Top] = _tops(ids, values) if count else [()] * len(targets)
            yield Scored(sequence, position, cast("list[float]", logprobs.tolist()), tops)

    def _decode(self, answer: _Answer) -> Iterator[Output]:
        """Process the newest token's frame and write the next token; draft while the frame is in flight."""
        taken = answer.in_flight.take()
        if taken is None:
            yield from self._draft(answer)
            return
        self._keep(answer.sequence, *taken)
        yield from self._write(answer, taken[1])

    def _write(self, answer: _Answer, hidden_states: mx.array) -> Iterator[Output]:
        """Choose the next token from the hidden state `[1, D]` of the last kept position.

        The token's frame is sent before the token is read, unless a draft is in flight in its place: its graph is
        built, or in a pipeline the frame travels, while the token is handled.
        """
        sequence, position = answer.sequence, len(answer.sequence.token_ids)
        logits = self._ends.logits(hidden_states)[0] if answer.logits is None else answer.logits
        answer.logits = None
        token, logprob = answer.sample(logits, sequence.answer_ids)
        count = answer.request.top_logprobs
        top = likeliest(logits[None], count) if count else ()
        mx.async_eval(token, logprob, *top)
        is_last = len(sequence.answer_ids) + 1 == sequence.limit
        is_drafted = bool(answer.speculation.token_ids)
        if not is_last and not is_drafted:
            yield from self._send_token(answer, position, token)
            if not self._is_current(answer):
                return
        token_id, token_logprob = cast(int, token.item()), cast(float, logprob.item())
        if not math.isfinite(token_logprob):
            yield from self._blame(answer)
            return
        if not answer.speculation.settle(token_id) and is_drafted:
            yield from self._send_token(answer, position, token)
            if not self._is_current(answer):
                return
        sequence.answer_ids.append(token_id)
        if answer.constraint is not None:  # while stages compute the token's frame
            answer.constraint.prepare(sequence.answer_ids)
        if is_last:
            yield from self.end(sequence)
        elif self._n_stages > 1:
            self.scheduler.ready(sequence.id)  # to draft
        yield Written(sequence, token_id, token_logprob, _tops(*top)[0] if top else ())
        if len(sequence.answer_ids) % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()

    def _draft(self, answer: _Answer) -> Iterator[Output]:
        """Send one more draft after the newest token if a stage would be idle."""
        sequence, speculation = answer.sequence, answer.speculation
        drafter = self.drafters.get(sequence.id)
        in_flight = [sequence.answer_ids[-1], *speculation.token_ids]
        position = len(sequence.token_ids) + len(in_flight)
        end = len(answer.request.input_ids) + sequence.limit - 1
        has_room = position < min(end, self.scheduler.budget.reserved(sequence.id))  # a draft evicts nobody
        if drafter is None or not has_room or not speculation.wants_draft(self.scheduler.frames_for_each):
            return
        before = [*sequence.answer_ids, *speculation.token_ids]
        draft = drafter.draft(
            sequence.token_ids, in_flight, lambda logits: cast(int, answer.sample(logits, before)[0].item())
        )
        if draft is not None and (answer.constraint is None or answer.constraint.allows(before, draft)):
            speculation.add(draft)
            yield from self._send_token(answer, position, mx.array(draft), FrameKind.DRAFT)
            self.scheduler.ready(sequence.id)

    def _catch_up(self, sequence: Sequence) -> Iterator[Output]:
        """Let the drafter process queued hidden states; called while the first stage is idle."""
        observer = self._observer(sequence)
        if observer is not None and self.scheduler.frames_for_each > 1:
            arrays = observer.catch_up(sequence.token_ids)
            if arrays:
                yield partial(mx.eval, arrays)

    def _blame(self, answer: _Answer) -> Iterator[Output]:
        """Compute the last position again, checked, so that the stage names the layer with NaN or Inf."""
        if answer.is_checked or not answer.sequence.answer_ids:  # a prompt's frames are always checked
            raise NumericsError("the output head's logits are not finite, although its input is")
        answer.is_checked = True
        yield from self._go_back(answer, len(answer.sequence.token_ids) - 1)

    def _run_again(self, answer: _Answer, error: RewindError) -> Iterator[Output]:
        """Recompute what a stage lost, or cannot rewind to.

        If the second try reaches no further, run the kept positions of a cut frame alone.
        """
        sequence = answer.sequence
        went_back_to, answer.went_back_to = answer.went_back_to, (error.reached, sequence.n_known)
        if went_back_to == answer.went_back_to and not sequence.uncut():
            yield from self.fail(sequence, error)
        else:
            yield from self._go_back(answer, error.reached)

    def _go_back(self, answer: _Answer, position: int) -> Iterator[Output]:
        """Compute everything from `position` on again, in the same frames."""
        sequence, cancelled = answer.sequence, answer.in_flight.cancel()
        answer.speculation.drop()
        sequence.replan(position)
        if drafter := self.drafters.get(sequence.id):
            drafter.rewind(len(sequence.token_ids))
        self.scheduler.ready(sequence.id)
        yield from cancelled

    # Frames

    def _send_planned(self, answer: _Answer) -> Iterator[Output]:
        sequence = answer.sequence
        start = len(sequence.token_ids) if answer.in_flight.end is None else answer.in_flight.end
        end = sequence.planned[len(answer.in_flight)]
        token_ids = sequence.known(start, end)
        token_ids += [FILLER_ID] * (sequence.cut_lengths.get(end, end - start) - len(token_ids))
        if start < len(answer.request.input_ids):
            wants_all = answer.scores_prompt or self._observer(sequence) is not None
            kind, outputs = FrameKind.PREFILL, None if wants_all else 1
        else:
            kind, outputs = FrameKind.DECODE, None
        embedded = self._ends.embed(mx.array(token_ids))
        yield from self._send(answer, Frame(sequence.id, start, embedded, kind, outputs=outputs), end)

    def _send_token(
        self, answer: _Answer, position: int, token: mx.array, kind: FrameKind = FrameKind.DECODE
    ) -> Iterator[Output]:
        embedded = self._ends.embed(token.reshape(1))
        yield from self._send(answer, Frame(answer.sequence.id, position, embedded, kind), position + 1)

    def _send(self, answer: _Answer, frame: Frame, end: int) -> Iterator[Output]:
        """Send a frame of which positions up to `end` will be kept; drop the frames that it makes void."""
        yield from self._give_way(
            self.scheduler.budget.use(frame.sequence_id, frame.position + frame.hidden_states.shape[0])
        )
        if not self._is_current(answer):
            return
        self._serial += 1
        frame = replace(frame, serial=self._serial, checked=answer.is_checked)
        answer.in_flight.add(frame, end)
        yield frame

    def _is_current(self, answer: _Answer) -> bool:
        """Whether an answer has not ended: it can end while one of its frames is sent."""
        return self._answers.get(answer.sequence.id) is answer

    def _keep(self, sequence: Sequence, end: int, hidden_states: mx.array) -> None:
        """Record that all stages keep positions up to `end`."""
        start = len(sequence.token_ids)
        sequence.keep(sequence.known(start, end))
        if (observer := self._observer(sequence)) is not None:
            observer.observe(hidden_states[: end - start], sequence.token_ids)

    def _observer(self, sequence: Sequence) -> Observer | None:
        """Return what takes the sequence's hidden states, if its drafter needs them."""
        drafter = self.drafters.get(sequence.id)
        return None if drafter is None else drafter.observer

    def _rewind(self, sequence: Sequence, position: int) -> None:
        sequence.rewind(position)
        if drafter := self.drafters.get(sequence.id):
            drafter.rewind(position)

    def _give_way(self, sequence_ids: Iterable[str]) -> Iterator[Output]:
        """Free evicted sequences and end their answers; an answer that has not begun will begin without KV caches."""
        for sequence_id in sequence_ids:
            sequence, answer = self.sequences.get(sequence_id), self._answers.get(sequence_id)
            if sequence is None:  # it was released while another one was evicted
                continue
            if answer is not None and answer.is_begun:
                error = EvictedError(
                    f"the answer was given up after {len(sequence.answer_ids)} tokens: older requests took the last of "
                    f"{self.scheduler.budget.positions} positions of KV cache; try again when one has ended"
                )
                yield from self.fail(sequence, error)
            yield from self._free(sequence)

    def _free(self, sequence: Sequence) -> list[Outgoing]:
        """Free a sequence's KV caches on all stages. Returns the messages to send."""
        drafter = self.drafters.pop(sequence.id, None)
        if drafter is not None:
            drafter.rewind(0)
        if self.sequences.pop(sequence.id, None) is not None:
            self.scheduler.budget.release(sequence.id)
            sequence.rewind(0)
        return [Release(sequence.id)]


def _tops(ids: mx.array, logprobs: mx.array) -> list[Top]:
    """Return the likeliest tokens of each row, `[L, K]`."""
    rows = zip(cast("list[list[int]]", ids.tolist()), cast("list[list[float]]", logprobs.tolist()), strict=True)
    return [tuple(zip(*row, strict=True)) for row in rows]
