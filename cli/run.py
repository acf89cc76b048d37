"""run: answers one prompt on stdout, as a stream of text or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.backend import Answer, Backend, Models
from cli.begun_answer import begun_answer
from cli.exit_codes import ExitCode
from cli.interrupt import Interrupt
from cli.keyboard import quiet_keyboard
from cli.options import AnswerOptions
from cli.progress import progress_bar
from cli.status_line import StatusLine
from cli.units import waited_text
from cli.visible import visible
from cli.written_answer import written_answer
from mlx_moe.decoding.chunking import cut
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import AnswerParser, Content, Part, Reasoning, ToolCall

if TYPE_CHECKING:
    from mlx_moe.decoding.request import GenerationStats, Request

STDIN_LIMIT_BYTES = 32 * 2**20
"""Maximum size of a prompt from stdin: larger than any context, much smaller than memory."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: text or token ids. `raw`: without the chat template."""

    text: str = ""
    input_ids: tuple[int, ...] | None = None
    raw: bool = False
    system: str | None = None

    def encode(self, backend: Backend) -> tuple[int, ...]:
        """Return the prompt's token ids. Without a chat template the text is encoded unchanged."""
        if self.input_ids is not None:
            return self.input_ids
        if self.raw or not backend.has_chat_template:
            if self.system is not None:
                raise InvalidRequestError(f"{backend.name} has no chat template, so --system cannot be used")
            if not self.raw:
                _notice(f"{backend.name} has no chat template: the prompt is sent unchanged")
            return tuple(backend.encode(self.text, add_special_tokens=True))
        messages = [{"role": "user", "content": self.text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return tuple(backend.format_chat(messages))


def read_prompt(prompt: str | None, input_ids: str | None, raw: bool, system: str | None) -> Prompt:
    """Return the prompt of the command line or of stdin.

    Raises:
        InvalidRequestError: no prompt, two prompts, or invalid text.
    """
    if system is not None and (raw or input_ids is not None):
        raise InvalidRequestError("--system needs the chat template, which --raw and --input-ids skip")
    if input_ids is not None:
        if prompt is not None:
            raise InvalidRequestError("give either PROMPT or --input-ids, not both")
        return Prompt(input_ids=_parse_ids(input_ids))
    if prompt is None and sys.stdin.isatty():
        raise InvalidRequestError('no prompt: give PROMPT, or pipe one in (echo "hello" | moe-cluster run …)')
    text = _read_stdin() if prompt is None or prompt == "-" else prompt
    if not text.strip():
        raise InvalidRequestError("the prompt is empty")
    return Prompt(text, raw=raw, system=system)


def run(models: Models, model: str, prompt: Prompt, options: AnswerOptions, as_json: bool) -> ExitCode:
    """Answer one prompt on stdout."""
    options.check()
    backend = models.open(model, needs_text=prompt.input_ids is None)
    try:
        for note in backend.notes:
            _notice(note)
        request = options.build(prompt.encode(backend), backend.sampling)
        conversation, status = backend.new_conversation(), StatusLine()
        with quiet_keyboard(), Interrupt() as interrupt, progress_bar("reading the prompt", "tokens") as bar:

            def progress(done: int, total: int) -> None:
                bar(done, total)
                interrupt.check()

            def waiting(line: str) -> None:
                status.show(line)
                interrupt.check()

            answer = conversation.answer(request, progress, waiting)
            opening = begun_answer(backend, request.input_ids) if prompt.input_ids is None else ""
            parser = backend.dialect.parser(opening=opening)
            written = _stream(answer, parser, interrupt, status, shown=not as_json)
        if as_json:
            print(json.dumps(_report(backend, answer, written, len(request.input_ids)), allow_nan=False))
        elif len(written.token_ids) > 1 and not written.text:
            _notice(f"the answer has no text; --json prints its {len(written.token_ids):,} token ids")
        _tell_why(answer, request, backend.context_tokens)
        conversation.close()
    finally:
        backend.close()
    return ExitCode.INTERRUPTED if answer.finish_reason == "cancelled" else ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Written:
    token_ids: list[int]
    text: str
    parts: list[Part]


def _stream(answer: Answer, parser: AnswerParser, interrupt: Interrupt, status: StatusLine, shown: bool) -> _Written:
    """Write the answer while it is generated."""
    out = written_answer(shown)
    token_ids: list[int] = []
    pieces: list[str] = []
    parts: list[Part] = []
    try:
        for token in answer:
            token_ids.append(token.id)
            pieces.append(token.text)
            parts += (new := parser.feed(token.text))
            out.write(token.text, new)
            if answer.finish_reason is None:
                interrupt.check()
    except KeyboardInterrupt:
        pass
    finally:
        answer.close()
        status.show("")
        parts += (rest := parser.finish())
        out.write("", rest)
        out.finish()
    return _Written(token_ids, "".join(pieces), parts)


def _report(backend: Backend, answer: Answer, written: _Written, prompt_tokens: int) -> dict[str, Any]:
    stats = answer.stats
    return {
        "model": backend.name,
        "prompt_tokens": prompt_tokens,
        "tokens": written.token_ids,
        "text": written.text,
        **_parts_report(written.parts),
        "finish_reason": answer.finish_reason,
        "seed": answer.seed,
        "timings": {
            "load_s": backend.load_s,
            "ttft_s": stats.ttft_s,
            "prefill_tps": stats.prefill_tps,
            "decode_tps": stats.decode_tps,
            "total_s": stats.total_s,
        },
        "prefill": {
            "cached_tokens": stats.cached_tokens,
            "chunk_length": stats.chunk_length,
            "chunk_ends": _chunk_ends(stats),
        },
        "placement": [
            {
                "node": p.node,
                "layers": [p.layers.start, p.layers.stop],
                "experts": p.experts,
                "weights_bytes": p.weights_bytes,
                "peak_memory_bytes": p.peak_memory_bytes,
            }
            for p in backend.placement
        ],
        "speculation": {
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "compared_by_depth": list(stats.compared_by_depth),
            "accepted_by_depth": list(stats.accepted_by_depth),
        },
    }


def _parts_report(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "reasoning": "".join(part.text for part in parts if isinstance(part, Reasoning)),
        "content": "".join(part.text for part in parts if isinstance(part, Content)),
        "tool_calls": [
            {"id": part.id, "name": part.name, "arguments": part.arguments}
            for part in parts
            if isinstance(part, ToolCall)
        ],
    }


def _chunk_ends(stats: GenerationStats) -> list[int]:
    """Return the end positions of the prompt's chunks; empty if it was stopped before."""
    return list(cut(stats.cached_tokens, stats.prompt_tokens, stats.chunk_length)) if stats.chunk_length else []


def _tell_why(answer: Answer, request: Request, context_tokens: int) -> None:
    """Say why an answer ended if the model did not end it."""
    tokens = answer.stats.generated_tokens
    is_full = len(request.input_ids) + tokens >= context_tokens
    limit = f"the context ({context_tokens:,} tokens) is full" if is_full else f"max_tokens ({tokens:,}) reached"
    reasons = {
        "loop": "stopped: the answer was repeating itself (--no-loop-detection turns this check off)",
        "length": f"stopped: {limit}",
        "cancelled": "stopped",
    }
    if answer.finish_reason in reasons:
        _notice(reasons[answer.finish_reason])
    if answer.stats.waited_for:
        _notice(waited_text(answer.stats))


def _notice(text: str) -> None:
    """Print a grey line on stderr if it is a terminal."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text(visible(text), style="bright_black"))


def _parse_ids(text: str) -> tuple[int, ...]:
    try:
        input_ids = tuple(int(piece) for piece in text.split(","))
    except ValueError:
        raise InvalidRequestError(f"--input-ids takes numbers like 1,2,3; got {text[:40]!r}") from None
    return input_ids


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(STDIN_LIMIT_BYTES + 1)
    if len(data) > STDIN_LIMIT_BYTES:
        raise InvalidRequestError(f"the prompt on stdin has more than {STDIN_LIMIT_BYTES:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the prompt on stdin is not UTF-8: invalid byte at offset {error.start}") from error
