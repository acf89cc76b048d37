"""TextProcess: the parent's handle on the process that renders templates and encodes texts, within limits.

It is started at the first question, or before by `begin`; kept, and replaced when it was stopped or has died. Whatever
a template or a tokenizer does there ends one question only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_moe.errors import CheckpointError, InvalidRequestError, TemplateError, UnsupportedModelError

DEADLINE_S = 1.5
"""For one question; including the start and end of a child, a call takes less than 2 s."""

ENCODED_BYTES_PER_S = 500_000
"""A long text may take longer, by this rate: a tenth of what tokenizers do alone on a core."""

START_DEADLINE_S = 10.0
LOAD_DEADLINE_S = 120.0
"""For the child's start on a cold disk, and for loading a tokenizer in it."""

MEMORY_BYTES = 512 << 20
MEMORY_PER_FILE_BYTE = 16
MOST_MEMORY_BYTES = 2 << 30
"""Limits of the child's memory: MEMORY_BYTES, and more for large tokenizer files."""

WATCHED_SHARE = 1.25
"""Resident memory, by the child's limit, at which the parent stops it: macOS does not enforce limits."""

POLL_S = 0.02
MAX_BYTES = 16 << 20
"""Of a question and of an answer, both as JSON."""

_FILES = ("tokenizer.json", "tiktoken.model", "tokenizer_config.json")
_INHERITED = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_PACKAGES = ("mlx_moe", "jinja2", "markupsafe", "tokenizers", "huggingface_hub")


class StoppedError(Exception):
    """The child did not answer a question and was stopped, or ended; says why, as the end of a sentence."""


class TextProcess:
    """A child process; with a directory it has the tokenizer in it. One thread asks at a time, others wait."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        sizes = [path.stat().st_size for name in _FILES if directory and (path := directory / name).is_file()]
        self._memory_bytes = min(MEMORY_BYTES + MEMORY_PER_FILE_BYTE * sum(sizes), MOST_MEMORY_BYTES)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._is_loaded = False
        self._lock = threading.Lock()
        _PROCESSES.add(self)

    @property
    def pid(self) -> int | None:
        """The child's process id, None if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def has_begun(self) -> bool:
        """Whether there is a child."""
        return self._process is not None

    def begin(self) -> None:
        """Start the child and let it load, without waiting for it."""
        with self._lock:
            self._begin()

    def load(self) -> None:
        """Wait until the tokenizer is loaded.

        Raises:
            CheckpointError: its files are damaged or not supported, or loading them takes too much memory or time.
        """
        with self._lock:
            try:
                self._load()
            except StoppedError as exc:
                raise CheckpointError(f"{self._directory}: the tokenizer {exc}") from exc

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return the text that a chat template makes of variables.

        Raises:
            InvalidRequestError: the variables cannot be written as JSON, or are too large.
            TemplateError: the template refused them, is invalid, or exceeded its limits.
        """
        try:
            answer = self._ask({"source": source, "variables": variables}, DEADLINE_S)
        except StoppedError as exc:
            raise TemplateError(f"the chat template {exc}; use --raw") from exc
        if "text" in answer:
            return str(answer["text"])
        if answer["kind"] == "refused":
            raise TemplateError(f"the chat template refused the conversation: {answer['error']}")
        raise TemplateError(f"the chat template failed: {answer['error']}; use --raw, or another template")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text.

        Raises:
            InvalidRequestError: the text is too long.
            CheckpointError: the tokenizer failed, or exceeded its limits.
        """
        question = {"encode": text, "special": add_special_tokens}
        try:
            answer = self._ask(question, DEADLINE_S + len(text) / ENCODED_BYTES_PER_S)
        except StoppedError as exc:
            raise CheckpointError(f"the tokenizer {exc}: it cannot encode this text") from exc
        if "ids" in answer:
            ids: list[int] = answer["ids"]
            return ids
        raise CheckpointError(f"the tokenizer cannot encode this text: {answer['error']}")

    def stop(self) -> None:
        """End the process; the next question starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, question: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Return the answer to a question. Raises StoppedError, InvalidRequestError, and what `load` raises."""
        line = _line({**question, "cpu_s": int(deadline_s) + 2, "max_bytes": MAX_BYTES})
        with self._lock:
            self._load()
            answer = self._exchange(line, deadline_s)
            if answer.get("kind") == "memory":  # the child may not release all of its memory
                self._stop()
        return answer

    def _load(self) -> None:
        self._begin()
        if self._is_loaded:
            return
        answer = self._exchange(b"", START_DEADLINE_S if self._directory is None else LOAD_DEADLINE_S)
        if "error" in answer:
            self._stop()
            kind = UnsupportedModelError if answer["kind"] == UnsupportedModelError.code else CheckpointError
            raise kind(answer["error"])
        self._is_loaded = True

    def _begin(self) -> None:
        """Start a child unless one is there. Raises StoppedError."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        self._stop()
        command = [sys.executable, "-P", "-S", "-m", "mlx_moe.text.limited_process", str(self._memory_bytes)]
        command += [] if self._directory is None else [str(self._directory.absolute())]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(package_directories()), "TOKENIZERS_PARALLELISM": "false"}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # so that Ctrl-C in a chat does not reach it
            )
        except OSError as exc:
            raise StoppedError(f"has no process, which did not start: {' '.join(command)}") from exc
        self._process, self._owner, self._is_loaded = process, os.getpid(), False
        self._end = weakref.finalize(self, _end, process, self._owner)

    def _stop(self) -> None:
        self._is_loaded = False
        if self._process is not None:
            self._process = None
            self._end()

    def _exchange(self, question: bytes, deadline_s: float) -> dict[str, Any]:
        """Return the answer to a question. On any exception the process is stopped, so that no stale answer is left."""
        assert self._process is not None
        try:
            until = time.monotonic() + deadline_s
            answer = json.loads(_converse(self._process, question, until, self._memory_bytes * WATCHED_SHARE))
            if not isinstance(answer, dict):
                raise ValueError(f"it answered {type(answer).__name__}")
        except TimeoutError as exc:
            self._stop()
            raise StoppedError(f"did not end within {deadline_s:g} s and was stopped") from exc
        except MemoryError as exc:
            self._stop()
            raise StoppedError(f"took more than {self._memory_bytes >> 20} MiB and was stopped") from exc
        except (OSError, EOFError, ValueError) as exc:
            has_begun = self._is_loaded
            self._stop()
            what = f"ended its process ({exc})" if has_begun else f"has no process, which did not start ({exc})"
            raise StoppedError(what) from exc
        except BaseException:
            self._stop()
            raise
        return answer


def _converse(process: subprocess.Popen[bytes], line: bytes, deadline: float, memory_bytes: float) -> bytes:
    """Write a line to the process and read its answer, as the pipes become ready. Without a line it only reads.

    Raises:
        TimeoutError: the deadline (of `time.monotonic`) has passed.
        MemoryError: the process uses more than `memory_bytes`.
        EOFError, OSError: the process ended.
        ValueError: the answer is longer than MAX_BYTES.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdin.fileno(), False)
    unwritten, answer = memoryview(line), bytearray()
    with selectors.DefaultSelector() as selector:
        if line:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            ready = selector.select(POLL_S)
            if time.monotonic() > deadline:
                raise TimeoutError
            if not ready:
                _check_memory(process, memory_bytes)
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


def _check_memory(process: subprocess.Popen[bytes], most_bytes: float) -> None:
    import psutil

    try:
        resident_bytes = psutil.Process(process.pid).memory_info().rss
    except psutil.Error as exc:
        raise EOFError("it is gone") from exc
    if resident_bytes > most_bytes:
        raise MemoryError


def _line(question: Mapping[str, Any]) -> bytes:
    """Return the line that asks a question. Raises InvalidRequestError."""
    try:
        line = json.dumps(question).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the messages cannot be written as JSON: {str(exc)[:200]}") from exc
    if len(line) > MAX_BYTES:
        raise InvalidRequestError(f"the prompt has {len(line):,} bytes as JSON; the limit is {MAX_BYTES:,}")
    return line


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid():  # after a fork the process belongs to the parent
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def package_directories() -> list[str]:
    """Return the directories of the packages that the child imports, without the working directory (not trusted)."""
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    return list(dict.fromkeys(str(Path(s.origin).absolute().parents[1]) for s in specs if s and s.origin))


_PROCESSES: weakref.WeakSet[TextProcess] = weakref.WeakSet()


def child_pids() -> list[int]:
    """Return the ids of all of this process's children that read texts."""
    return [process.pid for process in list(_PROCESSES) if process.pid is not None]


SHARED = TextProcess()
"""Renders templates that have no tokenizer beside them."""
