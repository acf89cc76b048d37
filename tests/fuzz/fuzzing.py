"""Fuzzing: runs a target on damaged inputs, and tells which of them it does not handle."""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mlx_moe.errors import MoeClusterError
from tests.fuzz.mutation import Mutate

CORPUS = Path(__file__).parent / "corpus"

LIMIT_S = 2.0
"""Most seconds that this process may compute for one input of at most 1 MiB: the machine may be busy besides."""

LIMIT_BYTES = 300 << 20
"""Most memory by which one input may raise the peak of the process."""

MAX_POOL = 500


@dataclass(frozen=True, slots=True)
class Target:
    """A parser of outside bytes. `parse` may return anything and raise errors of our tree.

    `slowness` divides the number of inputs in the tests: of parsers that ask another process.
    """

    name: str
    seeds: Sequence[bytes]
    mutate: Mutate
    parse: Callable[[bytes], object]
    slowness: int = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that was not handled, and what happened."""

    data: bytes
    what: str
    where: str


@dataclass(slots=True)
class Outcome:
    """What a run of a target gave: one finding for each place in the code."""

    executions: int = 0
    slowest_s: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)


class _TooSlowError(BaseException):
    """Not an Exception, so that no parser takes it for one of its own."""


def check(target: Target, data: bytes) -> tuple[Finding | None, str]:
    """Run a target on one input; return what was not handled, if anything, and a text that tells outcomes apart."""
    peak, began_s = _peak_bytes(), time.process_time()
    try:
        with _limited():
            target.parse(data)
        outcome = "value"
    except MoeClusterError as error:
        outcome = f"{type(error).__name__} {_innermost(error)}"
    except _TooSlowError:
        return Finding(data, f"took longer than {LIMIT_S:g} s", "time"), "slow"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Finding(data, f"{type(error).__name__}: {str(error)[:200]}", _innermost(error)), "escaped"
    seconds, grown = time.process_time() - began_s, _peak_bytes() - peak
    if seconds > LIMIT_S:
        return Finding(data, f"took {seconds:.1f} s", "time"), "slow"
    if grown > LIMIT_BYTES:
        return Finding(data, f"took {grown >> 20} MiB of memory", "memory"), "large"
    return None, outcome


def fuzz(target: Target, seed: int, *, executions: int | None = None, seconds: float | None = None) -> Outcome:
    """Run a target until it has had so many executions or seconds. An input with a new outcome is damaged further."""
    chance, outcome = random.Random(f"{seed} {target.name}"), Outcome()
    pool, seen = list(target.seeds), set[str]()
    ends_at = time.monotonic() + (seconds if seconds is not None else 1e9)
    while outcome.executions < (executions or sys.maxsize) and time.monotonic() < ends_at:
        data = target.mutate(chance.choice(pool), chance)
        began_s = time.perf_counter()
        finding, told = check(target, data)
        outcome.executions += 1
        outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - began_s)
        if finding is not None:
            outcome.findings.setdefault(finding.where, finding)
        elif told not in seen:
            seen.add(told)
            pool = [*pool[-MAX_POOL:], data]
    return outcome


def kept(target: Target) -> list[Path]:
    """Return the files of inputs that were once not handled."""
    return sorted(path for path in (CORPUS / target.name).glob("*") if path.is_file())


def keep(target: Target, finding: Finding) -> Path:
    """Store a finding's input; return its file."""
    path = CORPUS / target.name / hashlib.sha256(finding.data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(finding.data)
    return path


@contextmanager
def _limited() -> Iterator[None]:
    """Raise _TooSlowError in the block after LIMIT_S; only in a main thread, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_slow(_signum: int, _frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of the time that this process computes: the machine may be busy
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _innermost(error: BaseException) -> str:
    """Return where an error was raised: the last place in this project's code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/tests/fuzz/" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {type(error).__name__}"


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
