"""The child process that renders templates and encodes texts: python -m mlx_moe.text.limited_process BYTES [DIRECTORY].

Chat templates and tokenizer files come with a checkpoint and are not trusted: a template may loop for ever, and a
normalizer may turn one letter into gigabytes. So both run here, within limits that the operating system enforces: BYTES
of memory, and the CPU time that each question brings with it. Reads one JSON object per line from stdin, writes one
answer per line to stdout, the first when the tokenizer in DIRECTORY is loaded; ends when stdin closes.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe.errors import MoeClusterError
from mlx_moe.text.rendering import RefusedError, Renderer

if TYPE_CHECKING:
    from mlx_moe.text.vocabulary import Vocabulary

LOAD_CPU_S = 120
MAX_ERROR_CHARACTERS = 500


def main() -> None:
    """Answer questions until stdin closes."""
    memory_bytes = int(sys.argv[1])
    _limit_process(memory_bytes)
    _limit_cpu(LOAD_CPU_S)
    reader = _Reader()
    _write(_answer({"load": sys.argv[2]} if sys.argv[2:] else {}, reader, memory_bytes))
    for line in sys.stdin.buffer:
        try:
            asked = json.loads(line)
        except RecursionError:
            _write(b'{"kind": "failed", "error": "it is nested too deeply"}\n')
            continue
        _limit_cpu(asked["cpu_s"])
        _write(_answer(asked, reader, memory_bytes))


class _Reader:
    """Renders and encodes."""

    def __init__(self) -> None:
        self._renderer = Renderer()
        self._vocabulary: Vocabulary | None = None

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a question."""
        if "load" in asked:
            from mlx_moe.text.stated_tokens import optional
            from mlx_moe.text.vocabulary import Vocabulary

            directory = Path(asked["load"])
            self._vocabulary = Vocabulary.read(directory, optional(directory / "tokenizer_config.json"))
            self._vocabulary.require_harmless()
        if "source" in asked:
            return {"text": self._renderer.text(asked["source"], asked["variables"])}
        if "encode" in asked:
            assert self._vocabulary is not None  # the parent gave a directory
            return {"ids": self._vocabulary.encode(asked["encode"], asked["special"])}
        return {}


def _answer(asked: dict[str, Any], reader: _Reader, memory_bytes: int) -> bytes:
    """Return the JSON line that answers a question, or `error` and its `kind`."""
    try:
        answer = reader.answer(asked)
        line = json.dumps(answer).encode()
        if len(line) < asked.get("max_bytes", len(line) + 1):
            return line + b"\n"
        answer = {"kind": "failed", "error": f"it wrote {len(line):,} bytes, more than is taken"}
    except RefusedError as exc:
        answer = {"kind": "refused", "error": str(exc)[:MAX_ERROR_CHARACTERS]}
    except MemoryError:
        answer = {"kind": "memory", "error": f"it needs more than {memory_bytes >> 20} MiB of memory"}
    except MoeClusterError as exc:
        answer = {"kind": exc.code, "error": str(exc)[:MAX_ERROR_CHARACTERS]}
    except Exception as exc:  # the process boundary: any failure is an answer
        answer = {"kind": "failed", "error": f"{type(exc).__name__}: {exc}"[:MAX_ERROR_CHARACTERS]}
    return json.dumps(answer).encode() + b"\n"


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _limit_process(memory_bytes: int) -> None:
    """Limit memory; forbid writing files and starting processes, which nothing here needs."""
    limits = {"AS": memory_bytes, "DATA": memory_bytes, "CORE": 0, "FSIZE": 0, "NPROC": 0}
    for name, limit in limits.items():
        # macOS refuses or ignores some limits: there the parent watches the memory
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _limit_cpu(seconds: int) -> None:
    """Allow the process so many more seconds of CPU time, in case no parent is left that would stop it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, highest = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + seconds, highest))


if __name__ == "__main__":
    main()
