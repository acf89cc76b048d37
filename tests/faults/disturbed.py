"""Disturbed answers: answers that are read while faults are put in, each token checked, and when each came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cluster.client import OwnNode, RemoteAnswer, RemoteModel, ServingState
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import MoeClusterError
from tests.faults.checker import Heard, Violation
from tests.patience import PATIENCE_S, until

POLL_S = 0.05


@dataclass(slots=True)
class Reading:
    """An answer that a thread reads. `at` are the monotonic times of its tokens."""

    heard: Heard
    request: Request
    at: list[float] = field(default_factory=list)
    error: MoeClusterError | None = None
    finish_reason: str | None = None
    waited_for: str = ""
    answer: RemoteAnswer | None = None
    thread: threading.Thread | None = None

    def longest_wait_s(self, since: float) -> float:
        """Return the longest wait for a token after a time: from the one before it, or, for the first, from then."""
        times = [since, *self.at] if self.at and self.at[0] > since else self.at
        waits = [after - max(before, since) for before, after in pairwise(times) if after >= since]
        return max(waits, default=0.0)


class Answers:
    """Answers of one model at once, in the order of their requests."""

    def __init__(self, model: RemoteModel, requests: Sequence[Request], wanted: Sequence[Sequence[Token]]) -> None:
        self.readings = [
            Reading(Heard(str(n), len(request.input_ids), tokens), request)
            for n, (request, tokens) in enumerate(zip(requests, wanted, strict=True))
        ]
        for reading in self.readings:
            reading.thread = threading.Thread(target=self._read, args=(model, reading), daemon=True)
            reading.thread.start()

    def until_tokens(self, count: int) -> None:
        """Wait until each answer has so many tokens."""
        until(lambda: all(len(reading.at) >= count or reading.error for reading in self.readings))

    def until_done(self) -> None:
        """Wait until all have ended, with an error or not."""
        for reading in self.readings:
            assert reading.thread is not None
            reading.thread.join(PATIENCE_S)
            assert not reading.thread.is_alive(), f"{reading.heard.request} hangs after {len(reading.at)} tokens"

    @property
    def violations(self) -> list[Violation]:
        """What must not have happened."""
        return [violation for reading in self.readings for violation in reading.heard.violations]

    @property
    def errors(self) -> list[str]:
        """The errors of answers."""
        return [str(reading.error) for reading in self.readings if reading.error is not None]

    @property
    def are_whole(self) -> bool:
        """Whether all have all tokens of the undisturbed run."""
        return not self.violations and all(r.finish_reason == "length" for r in self.readings)

    def longest_wait_s(self, since: float) -> float:
        """Return the longest wait for a token after a time."""
        return max(reading.longest_wait_s(since) for reading in self.readings)

    def _read(self, model: RemoteModel, reading: Reading) -> None:
        conversation = None
        try:
            conversation = model.new_conversation()
            answer = reading.answer = conversation.answer(reading.request)
            for token in answer:
                reading.heard.token(token)
                reading.at.append(time.monotonic())
            reading.finish_reason = answer.finish_reason
            reading.waited_for = answer.stats.waited_for
        except MoeClusterError as error:
            reading.error = error
        reading.heard.ended(reading.finish_reason)
        if conversation is not None:
            conversation.close()


class Watch:
    """When a node first sees the cluster disturbed after a time, and when it is whole again. Asks in a thread."""

    def __init__(self, own: OwnNode, is_whole: Callable[[OwnNode], bool]) -> None:
        self.began_s = time.monotonic()
        self.seen_s: float | None = None
        self.whole_s: float | None = None
        self._own, self._is_whole = own, is_whole
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop asking."""
        self._ends.set()
        self._thread.join(PATIENCE_S)

    def _look(self) -> None:
        while not self._ends.wait(POLL_S):
            try:
                whole = self._is_whole(self._own)
            except MoeClusterError:
                whole = False
            now_s = time.monotonic() - self.began_s
            if not whole and self.seen_s is None:
                self.seen_s = now_s
            if whole and self.seen_s is not None:
                self.whole_s = now_s


def is_serving(own: OwnNode) -> bool:
    """Whether a node sees a model that is ready, on nodes that are all present."""
    status = own.status()
    served = status.serving
    return served is not None and served.state is ServingState.READY and set(served.node_ids) <= set(status.here)
