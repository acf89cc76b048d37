"""ChatTemplate: a conversation to the one text that a model was trained on. Rendered in a limited child process."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_moe.errors import TemplateError

DEADLINE_S = 2.0
"""For one rendering; the start of the child, a tenth of a second, is not counted."""

START_DEADLINE_S = 10.0
MAX_SOURCE_CHARACTERS = 1 << 20
MAX_ANSWER_BYTES = 16 << 20


class ChatTemplate:
    """A jinja2 template and the special tokens it may name (`bos_token`, ...)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(
                f"the chat template has {len(source)} characters, at most {MAX_SOURCE_CHARACTERS} are read"
            )
        self.source = source
        self._special_tokens = dict(special_tokens)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the text of a conversation, as transformers' `apply_chat_template`.

        Raises:
            TemplateError: the template refused the messages, is invalid, or was stopped at its limits.
        """
        values = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **variables,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        answer = _CHILD.ask({"source": self.source, "variables": values})
        if "error" in answer:
            raise TemplateError(f"the chat template failed: {answer['error']}")
        return str(answer["text"])


class _Child:
    """The rendering process: started when first needed, kept, and replaced after it was stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the child's answer. Raises TemplateError when it takes too long, says too much, or dies."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
            self._exchange({"source": "", "variables": {}}, START_DEADLINE_S)
        return self._exchange(question, DEADLINE_S)

    def stop(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.stop()
        return subprocess.Popen(
            [sys.executable, "-m", "mlx_moe.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PATH": os.environ.get("PATH", "")},
            start_new_session=True,  # Ctrl-C in a chat is not for it
        )

    def _exchange(self, question: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        try:
            line = json.dumps(question).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as exc:
            raise TemplateError(f"the messages cannot be sent to the chat template: {exc}") from exc
        try:
            return self._converse(line, time.monotonic() + deadline_s)
        except (TimeoutError, OSError, EOFError, ValueError) as exc:
            self.stop()
            what = f"took more than {deadline_s:.0f} s" if isinstance(exc, TimeoutError) else "exceeded its limits"
            raise TemplateError(f"the chat template {what} and was stopped; use --raw, or another template") from exc

    def _converse(self, line: bytes, deadline: float) -> dict[str, Any]:
        """Write a line and read one, whichever the child is ready for, until the deadline."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        answer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                ready = selector.select(max(deadline - time.monotonic(), 0))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        line = line[os.write(process.stdin.fileno(), line[:65536]) :]
                        if not line:
                            selector.unregister(process.stdin)
                    else:
                        read = os.read(process.stdout.fileno(), 1 << 20)
                        if not read or len(answer) + len(read) > MAX_ANSWER_BYTES:
                            raise EOFError
                        answer += read
        value = json.loads(answer)
        if not isinstance(value, dict):
            raise ValueError(f"the child answered {type(value).__name__}")
        return value


_CHILD = _Child()
atexit.register(_CHILD.stop)
