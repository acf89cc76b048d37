"""Recovery of answers after a loss, by its parts: python -m bench.recovery CHECKPOINT [CASE ...].

Three nodes with the checkpoint on their disks. A worker is killed with -9 while a prompt is read or an answer is
written. The tokens must be those of an undisturbed run. It prints a Markdown table; CASE is a part of a case's name.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from cluster.client import OwnNode, RemoteAnswer, RemoteModel, ServingState, Wanted
from cluster.cost_reader import read_costs
from cluster.placement import Placement, with_standby
from mlx_moe.errors import MoeClusterError

N_NODES = 3
PROMPT_TOKENS, ANSWER_TOKENS = 192, 30
BEFORE_TOKENS = 15
"""Tokens of each answer before a loss in decoding."""

BEFORE_PROMPT = 0.5
"""Part of the prompt that is read before a loss in prefill."""

POLL_S = 0.01
GIVE_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A loss: `victim` is the number of the node; with `peer` it owns experts of a stage that another one leads."""

    victim: int
    phase: str
    users: int = 1
    draft: str = "none"
    peer: bool = False
    spared: bool = False

    @property
    def name(self) -> str:
        """What is lost, and when."""
        lost = "expert peer" if self.peer else ("first", "middle", "last")[self.victim]
        more = (
            [f"{self.users} users"] * (self.users > 1) + ["drafts"] * (self.draft != "none") + ["spare"] * self.spared
        )
        return ", ".join((lost, self.phase, *more))


LOST = (Case(0, ""), Case(1, ""), Case(2, ""), Case(2, "", peer=True))
CASES = [
    replace(lost, phase=phase, users=users, draft=draft)
    for lost in LOST
    for phase, users, draft in (
        ("prefill", 1, "none"),
        ("decode", 1, "none"),
        ("decode", 1, "ngram"),
        ("decode", 4, "none"),
    )
] + [Case(1, "decode", spared=True)]


@dataclass(slots=True)
class Watch:
    """When the coordinator's node saw the loss, had another placement, and had loaded it; seconds of perf_counter."""

    own: OwnNode
    seen: float = 0.0
    planned: float = 0.0
    ready: float = 0.0
    load_s: float = 0.0
    _ends: threading.Event = field(default_factory=threading.Event)

    def run(self, killed: threading.Event) -> None:
        """Look until it is loaded, or `end`."""
        status = self.own.status().serving
        epoch = status.epoch if status else 0
        killed.wait()
        while not self._ends.is_set() and not self.ready:
            with suppress(MoeClusterError):
                serving, now = self.own.status().serving, time.perf_counter()
                if not self.seen and (
                    serving is None or serving.state is not ServingState.READY or serving.epoch > epoch
                ):
                    self.seen = now
                if not self.planned and serving is not None and serving.epoch > epoch:
                    self.planned = now
                if self.planned and serving is not None and serving.state is ServingState.READY:
                    self.ready, self.load_s = now, serving.load_s
            time.sleep(POLL_S)

    def end(self) -> None:
        """Stop looking."""
        self._ends.set()


@dataclass(slots=True)
class Reader:
    """One answer: its tokens, when they came, and how much of the prompt was read when."""

    ids: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    read: list[tuple[int, float]] = field(default_factory=list)
    error: str = ""
    waited_s: float = 0.0
    prefill_tps: float = 0.0

    def run(self, model: RemoteModel, seed: int, on_event: Callable[[], None]) -> None:
        """Read an answer to its end."""

        def progress(done: int, _total: int) -> None:
            self.read.append((done, time.perf_counter()))
            on_event()

        try:
            answer: RemoteAnswer = model.new_conversation().answer(greedy(PROMPT_TOKENS, ANSWER_TOKENS, seed), progress)
            for token in answer:
                self.ids.append(token.id)
                self.at.append(time.perf_counter())
                on_event()
            self.waited_s, self.prefill_tps = answer.stats.waited_s, answer.stats.prefill_tps
        except MoeClusterError as error:
            self.error = str(error)

    def went_on_at(self, killed: float) -> float:
        """Return when it went on: at the end of the longest wait after the loss; in prefill, where it had been."""
        if not self.at or self.at[0] > killed:
            reached = max((done for done, at in self.read if at <= killed), default=0)
            back = [at for done, at in self.read if at > killed and done >= reached]
            fell_back = next((at for done, at in self.read if at > killed and done < reached), None)
            if fell_back is not None:
                back = [at for at in back if at > fell_back]
            return min([*back, *self.at[:1]], default=0.0)
        ends = [(after - before, after) for before, after in pairwise(self.at) if after > killed]
        return max(ends, default=(0.0, 0.0))[1]


def main(path: str, wanted: Sequence[str] = ()) -> None:
    """Print a row for each case."""
    columns = (
        "lost, when",
        "seen s",
        "planned s",
        "loaded s",
        "replayed s",
        "in all s",
        "3 s + load + replay at prefill speed",
        "tokens",
        "load",
    )
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    with running_nodes([set(range(os.cpu_count() or 1))] * N_NODES) as nodes:
        cases = [case for case in CASES if not wanted or any(part in case.name for part in wanted)]
        undisturbed = _undisturbed(nodes, path, max(case.users for case in cases))
        for case in cases:
            print(_row(case, *_measure(nodes, path, case), undisturbed), flush=True)


def _undisturbed(nodes: Nodes, path: str, users: int) -> list[Reader]:
    """Return the answers without a loss, one after the other: how many are written at once changes no token."""
    model = _loaded(nodes, path, Case(1, "decode"))
    readers = [Reader() for _ in range(users)]
    for seed, reader in enumerate(readers):
        reader.run(model, seed, lambda: None)
        if reader.error:
            raise SystemExit(reader.error)
    return readers


def _measure(nodes: Nodes, path: str, case: Case) -> tuple[float, Watch, list[Reader]]:
    """Load, answer, kill; return when it was killed, and what was seen."""
    model = _loaded(nodes, path, case)
    (worker,) = (w for w in nodes.workers() if str(nodes.homes[case.victim].path) in w.cmdline())
    readers = [Reader() for _ in range(case.users)]
    watch, killed = Watch(nodes.own), threading.Event()
    killed_at = [0.0]

    def kill_in_time() -> None:
        if case.phase == "prefill":
            is_time = all(r.read and r.read[-1][0] >= BEFORE_PROMPT * PROMPT_TOKENS for r in readers)
        else:
            is_time = all(len(reader.ids) >= BEFORE_TOKENS for reader in readers)
        if is_time and not killed.is_set():
            killed_at[0] = time.perf_counter()
            killed.set()
            worker.kill()

    looking = threading.Thread(target=watch.run, args=(killed,))
    looking.start()
    threads = [
        threading.Thread(target=reader.run, args=(model, seed, kill_in_time)) for seed, reader in enumerate(readers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(reader.error for reader in readers):
        ends_at = time.monotonic() + GIVE_UP_S
        while not watch.ready and time.monotonic() < ends_at:
            time.sleep(POLL_S)
    killed.set()
    watch.end()
    looking.join()
    return killed_at[0], watch, readers


def _row(case: Case, killed: float, watch: Watch, readers: Sequence[Reader], undisturbed: Sequence[Reader]) -> str:
    load = f"{os.getloadavg()[0]:.1f}"
    same = all(reader.ids == other.ids[: len(reader.ids)] for reader, other in zip(readers, undisturbed, strict=False))
    whole = all(len(reader.ids) == ANSWER_TOKENS for reader in readers)
    tokens = f"{'the same' if same else 'DIFFER'}" + (
        "" if whole else f", ended after {min(len(r.ids) for r in readers)}: {readers[0].error[:80]}"
    )
    seen, planned, ready = (at - killed if at else None for at in (watch.seen, watch.planned, watch.ready))
    on = max(reader.went_on_at(killed) for reader in readers) - killed if whole else None
    positions = sum(_positions_before(reader, killed) for reader in readers)
    speed = min(reader.prefill_tps for reader in undisturbed)
    aim = 3 + watch.load_s + positions / speed if speed and ready is not None else None
    parts = [
        seen,
        planned - seen if planned is not None and seen is not None else None,
        watch.load_s if ready is not None else None,
        on - ready if on is not None and ready is not None else None,
        on if whole else ready,
        aim,
    ]
    cells = [case.name, *("-" if part is None else f"{part:.2f}" for part in parts), tokens, load]
    return "| " + " | ".join(cells) + " |"


def _positions_before(reader: Reader, killed: float) -> int:
    """Return the positions that were computed before the loss."""
    read = max((done for done, at in reader.read if at <= killed), default=0)
    written = sum(at <= killed for at in reader.at)
    return PROMPT_TOKENS + written if written else read


def _loaded(nodes: Nodes, path: str, case: Case) -> RemoteModel:
    nodes.unload()
    for _ in nodes.own.load(Wanted(path, _placement(nodes, path, case), draft=case.draft)):
        pass
    return nodes.model()


def _placement(nodes: Nodes, path: str, case: Case) -> Placement:
    if case.peer:
        return nodes.placement(path, layer_shares(path, 2), (0, 1))
    placement = nodes.placement(path, layer_shares(path, N_NODES))
    if not case.spared:
        return placement
    spared = with_standby(placement, read_costs(path, float_bytes=4), nodes.own.status().capacities())
    assert spared.standby is not None
    return spared


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
