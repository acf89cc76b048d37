"""ChatTemplate: turns a conversation into the text that the model reads, in a child process with limits."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text.thought import ThoughtMarkers

DEADLINE_S = 1.5
"""For one rendering; including the start and end of a child, a call takes less than 2 s."""

START_DEADLINE_S = 10.0
"""For the child's start on a cold disk; no template runs in it."""

MEMORY_BYTES = 640 << 20
"""Resident memory at which the parent stops the child. The child's own limit is lower; macOS does not enforce it."""

POLL_S = 0.02
MAX_SOURCE_CHARACTERS = 1 << 20
MAX_BYTES = 16 << 20
"""Of the conversation sent to the child, and of the text that comes back, both as JSON."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
_READS_REASONING = re.compile(rf"""[.'"]({"|".join(_REASONING)})\b""")
"""Matches `message.thinking`, `message['thinking']` and `message.get('thinking')`, not a variable of that name."""

_MEDIA = ("image", "image_url", "video", "audio")
"""Keys of parts that are no text: templates of models that read images look for them, whatever the part's type is."""

_PROBE = "a thought of an earlier turn"
_INHERITED = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


class ChatTemplate:
    """A jinja2 template and the special tokens that it may use (`bos_token`, ...).

    Raises:
        TemplateError: the template is too large. An invalid template fails only when it is rendered.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(
                f"the chat template has {len(source):,} characters; the limit is {MAX_SOURCE_CHARACTERS:,}"
            )
        self.source = source
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        keep_null: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, byte for byte that of transformers' `apply_chat_template`.

        As in transformers, keys of a message that are None are left out, unless `keep_null`. The model's earlier
        thoughts are passed under all names that templates use for them.

        Raises:
            InvalidRequestError: messages or variables cannot be written as JSON, or are too large.
            TemplateError: the template refused the messages, is invalid, or exceeded its limits.
        """
        values = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **variables,
            "messages": [_message(message, keep_null) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        return _CHILD.render(self.source, values)

    def takes_thoughts_apart(self, markers: ThoughtMarkers) -> bool:
        """Whether thoughts of earlier turns belong in `reasoning_content` instead of `content`.

        False for templates that know no such key and remove the thought from `content` themselves.
        """
        if _READS_REASONING.search(self.source):
            return True
        answer = f"{markers.open}{_PROBE}{markers.close}An answer."
        turns = (("user", "A question?"), ("assistant", answer), ("user", "Another?"))
        try:
            return _PROBE in self.render([{"role": role, "content": content} for role, content in turns])
        except TemplateError:
            return True


class _Child:
    """The rendering process: started at the first call, reused, and started again after it was stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return the rendered text. One thread at a time; others wait."""
        question = _question(source, variables)
        with self._lock:
            answer = self._ask(question)
            if answer.get("kind") == "memory":  # the child may not release all of its memory
                self._stop()
        if "text" in answer:
            return str(answer["text"])
        if answer["kind"] == "refused":
            raise TemplateError(f"the chat template refused the conversation: {answer['error']}")
        raise TemplateError(f"the chat template failed: {answer['error']}; use --raw, or another template")

    def stop(self) -> None:
        """End the process; the next rendering starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, question: bytes) -> dict[str, Any]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._start()
        try:
            return self._exchange(question, DEADLINE_S)
        except TimeoutError as exc:
            raise TemplateError(
                f"the chat template did not end within {DEADLINE_S} s and was stopped; use --raw"
            ) from exc
        except MemoryError as exc:
            raise TemplateError(
                f"the chat template took more than {MEMORY_BYTES >> 20} MiB and was stopped; use --raw"
            ) from exc
        except (OSError, EOFError, ValueError) as exc:
            raise TemplateError(f"the chat template ended its process ({exc}); use --raw") from exc

    def _start(self) -> None:
        self._stop()
        command = [sys.executable, "-P", "-S", "-m", "mlx_moe.text.template_process"]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(_package_directories())
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # so that Ctrl-C in a chat does not reach it
            )
            self._owner = os.getpid()
            self._exchange(_question("", {}), START_DEADLINE_S)
        except (OSError, EOFError, ValueError) as exc:
            raise TemplateError(f"the process that renders chat templates did not start: {command}") from exc

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner == os.getpid():  # after a fork the process belongs to the parent
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _exchange(self, question: bytes, deadline_s: float) -> dict[str, Any]:
        """Return the answer to a question. On any exception the process is stopped, so that no stale answer is left."""
        assert self._process is not None
        try:
            answer = json.loads(_converse(self._process, question, time.monotonic() + deadline_s))
            if not isinstance(answer, dict):
                raise ValueError(f"it answered {type(answer).__name__}")
        except BaseException:
            self._stop()
            raise
        return answer


def _converse(process: subprocess.Popen[bytes], line: bytes, deadline: float) -> bytes:
    """Write a line to the process and read its answer, as the pipes become ready.

    Raises:
        TimeoutError: the deadline (of `time.monotonic`) has passed.
        MemoryError: the process uses more than MEMORY_BYTES.
        EOFError, OSError: the process ended.
        ValueError: the answer is longer than MAX_BYTES.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdin.fileno(), False)
    unwritten, answer = memoryview(line), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            ready = selector.select(POLL_S)
            if time.monotonic() > deadline:
                raise TimeoutError
            if not ready:
                _check_memory(process)
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    unwritten = unwritten[os.write(key.fd, unwritten[: 1 << 16]) :]
                    if not unwritten:
                        selector.unregister(process.stdin)
                    continue
                read = os.read(key.fd, 1 << 20)
                if not read:
                    raise EOFError("it is gone")
                answer += read
                if len(answer) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
    return bytes(answer)


def _check_memory(process: subprocess.Popen[bytes]) -> None:
    import psutil

    try:
        resident_bytes = psutil.Process(process.pid).memory_info().rss
    except psutil.Error as exc:
        raise EOFError("it is gone") from exc
    if resident_bytes > MEMORY_BYTES:
        raise MemoryError


def _message(message: Mapping[str, Any], keep_null: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"a message must be a mapping with a role, got {type(message).__name__}")
    values = {key: value for key, value in message.items() if keep_null or value is not None}
    _require_text(values.get("content"))
    reasoning = next((values[name] for name in _REASONING if values.get(name) is not None), None)
    if reasoning is None:
        return values
    return {"thinking": reasoning, **values, "reasoning_content": reasoning}


def _require_text(content: object) -> None:
    """Raise InvalidRequestError for a part of a message that is not text."""
    for part in content if isinstance(content, list) else []:
        given = part if isinstance(part, Mapping) else {}
        kind = next((key for key in _MEDIA if key in given), given.get("type", "text"))
        if kind != "text":
            raise InvalidRequestError(
                f"a message has a part of type {str(kind)[:40]!r}, and models read only text here: send the message "
                f"without it"
            )


def _question(source: str, variables: Mapping[str, Any]) -> bytes:
    """Return the line that asks for a rendering. Raises InvalidRequestError."""
    try:
        asked = {"source": source, "variables": variables, "max_bytes": MAX_BYTES}
        line = json.dumps(asked).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the messages cannot be written as JSON: {str(exc)[:200]}") from exc
    if len(line) > MAX_BYTES:
        raise InvalidRequestError(f"the messages have {len(line):,} bytes; the limit is {MAX_BYTES:,}")
    return line


def _package_directories() -> list[str]:
    """Return the directories of the packages that the child imports, without the working directory (not trusted)."""
    specs = [importlib.util.find_spec(name) for name in ("mlx_moe", "jinja2", "markupsafe")]
    return list(dict.fromkeys(str(Path(s.origin).absolute().parents[1]) for s in specs if s and s.origin))


_CHILD = _Child()
atexit.register(_CHILD.stop)
