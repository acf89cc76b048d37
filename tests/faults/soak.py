"""Soak: cycles of random faults over a running cluster that answers all the time: python -m tests.faults.soak.

Each cycle puts in one fault, waits until the model is served by all nodes again, and measures every process. It prints
its seed; the same seed makes the same faults in the same order.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.client import OwnNode, RemoteModel, Wanted
from mlx_moe.decoding.request import Token
from mlx_moe.errors import MoeClusterError
from tests.cluster.running import Cluster, RunningNode, running_cluster
from tests.faults.checker import Heard, Violation
from tests.faults.disturbed import is_serving
from tests.faults.network import Network, network
from tests.faults.toxics import BLACK_HOLE, Toxics
from tests.faults.trio import request
from tests.patience import PATIENCE_S

N_NODES = 3
READERS = 3
GAP_S = 0.3
"""Time in which answers begin before the next fault."""

Undisturbed = Mapping[tuple[int, ...], Sequence[Token]]


@dataclass(slots=True)
class Readers:
    """Clients that ask, read, stop reading, and read slowly, until they are told to end; each token is checked."""

    wanted: Undisturbed
    own: OwnNode
    seed: int
    violations: list[Violation] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: int = 0
    tokens: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin to ask."""
        for n in range(READERS):
            thread = threading.Thread(target=self._run, args=(random.Random(self.seed * 100 + n), n), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Ask no more; return when all answers have ended."""
        self._ends.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                self.violations.append(Violation(thread.name, 0, "an answer hangs"))

    def _run(self, chance: random.Random, n: int) -> None:
        model: RemoteModel | None = None
        while not self._ends.is_set():
            prompt = chance.choice(list(self.wanted))
            heard = Heard(f"{n}.{self.answers}", len(prompt), self.wanted[prompt])
            try:
                model = model or self.own.model(self.own.status())
                self._answer(model, prompt, heard, chance)
            except MoeClusterError as error:
                heard.ended(None)
                with self._lock:
                    self.errors.append(f"{type(error).__name__}: {error}")
                if model is not None:
                    model.close()
                    model = None
                time.sleep(0.3)
            with self._lock:
                self.answers += 1
                self.tokens += len(heard.tokens)
                self.violations += heard.violations
        if model is not None:
            model.close()

    def _answer(self, model: RemoteModel, prompt: tuple[int, ...], heard: Heard, chance: random.Random) -> None:
        stop_after = chance.randrange(1, 30) if chance.random() < 0.2 else None
        pause_s = chance.choice((0.0, 0.0, 0.0, 0.05))
        conversation = model.new_conversation()
        try:
            answer = conversation.answer(request(prompt))
            for token in answer:
                heard.token(token)
                if stop_after is not None and len(heard.tokens) >= stop_after:
                    answer.close()
                    return
                if pause_s:
                    time.sleep(pause_s)
            heard.ended(answer.finish_reason)
        finally:
            conversation.close()


class Faults:
    """The faults of a soak, by name. Each leaves a cluster that becomes whole by itself, or by `mend`."""

    def __init__(self, cluster: Cluster, between: Network, chance: random.Random) -> None:
        self.cluster = cluster
        self.between = between
        self.chance = chance
        self.kinds: dict[str, Callable[[], str]] = {
            "kill worker": self._kill_worker,
            "kill node": self._kill_node,
            "stop": self._stop,
            "reset": self._reset,
            "black hole": self._black_hole,
            "one way": self._one_way,
            "jitter": self._jitter,
            "flip": self._flip,
            "load": self._load,
        }

    def one(self) -> str:
        """Put in a random fault; return what it was."""
        name = self.chance.choice(sorted(self.kinds))
        return f"{name} {self.kinds[name]()}"

    def mend(self) -> None:
        """Heal the network and start the nodes that have ended."""
        self.between.heal()
        for node in self.cluster.nodes:
            if node.process.poll() is not None:
                self.cluster.join(node)
        self.cluster.wait_for_all()

    def _other(self) -> int:
        return self.chance.randrange(1, N_NODES)

    def _kill_worker(self) -> str:
        other = self._other()
        for worker in self.cluster.nodes[other].workers():
            worker.kill()
        return self.cluster.nodes[other].name

    def _kill_node(self) -> str:
        node = self.cluster.nodes[self._other()]
        node.kill()
        return node.name

    def _stop(self) -> str:
        node, seconds = self.cluster.nodes[self._other()], self.chance.choice((0.5, 2.5, 8.0))
        pids = [node.process.pid, *(worker.pid for worker in node.workers())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return f"{node.name} for {seconds:g} s"

    def _reset(self) -> str:
        one, other = self.chance.sample(range(N_NODES), 2)
        return f"{self.between.reset(one, other)} links between {one + 1} and {other + 1}"

    def _black_hole(self) -> str:
        other, seconds = self._other(), self.chance.choice((1.0, 3.0, 8.0))
        self.between.isolate(other)
        time.sleep(seconds)
        self.between.heal()
        return f"around {other + 1} for {seconds:g} s"

    def _one_way(self) -> str:
        one, other = self.chance.sample(range(N_NODES), 2)
        self.between.one_way(one, other, BLACK_HOLE)
        time.sleep(2.0)
        self.between.heal()
        return f"from {one + 1} to {other + 1} for 2 s"

    def _jitter(self) -> str:
        other = self._other()
        self.between.around(other, Toxics(latency_s=0.1, jitter_s=0.08, bytes_per_s=2e6))
        time.sleep(3.0)
        self.between.heal()
        return f"around {other + 1}"

    def _flip(self) -> str:
        one, other = self.chance.sample(range(N_NODES), 2)
        self.between.one_way(one, other, Toxics(flip_rate=0.2))
        time.sleep(1.0)
        self.between.heal()
        return f"bits from {one + 1} to {other + 1}"

    def _load(self) -> str:
        layers = self.chance.choice(((2, 2, 2), (1, 3, 2), (3, 1, 2), (3, 3)))
        placement = self.cluster.place("demo", layers)
        with suppress(MoeClusterError):  # a model that is answering stays where it is
            list(self.cluster.own.load(Wanted("demo", placement, replace=True)))
        return f"on {layers}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process had at a time."""

    cycle: int
    rss_bytes: int
    fds: int
    threads: int


class Growth:
    """The sizes of all processes of a cluster after each cycle, by node, kind and start of the process."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str, int], list[Sample]] = {}

    def take(self, cycle: int, nodes: Sequence[RunningNode]) -> None:
        """Measure all processes."""
        for node in nodes:
            daemon = psutil.Process(node.process.pid)
            for kind, process in (("daemon", daemon), *(("worker", worker) for worker in node.workers())):
                with suppress(psutil.Error), process.oneshot():
                    sample = Sample(cycle, process.memory_info().rss, process.num_fds(), process.num_threads())
                    self.samples.setdefault((node.name, kind, process.pid), []).append(sample)

    def rows(self, least: int = 4) -> Iterator[tuple[str, str, int, float, float, float]]:
        """Yield node, kind, cycles, and the growth of MB, descriptors and threads a cycle, without each first third."""
        for (name, kind, _), samples in self.samples.items():
            late = samples[len(samples) // 3 :]
            if len(late) >= least:
                cycles = [sample.cycle for sample in late]
                values = ([s.rss_bytes / 1e6 for s in late], [s.fds for s in late], [s.threads for s in late])
                slopes = [statistics.linear_regression(cycles, of_one).slope for of_one in values]
                yield name, kind, len(samples), slopes[0], slopes[1], slopes[2]


@dataclass(slots=True)
class Outcome:
    """What a soak gave."""

    seed: int
    cycles: int = 0
    faults: list[str] = field(default_factory=list)
    not_whole: list[str] = field(default_factory=list)
    growth: Growth = field(default_factory=Growth)


def soak(
    cluster: Cluster,
    between: Network,
    wanted: Undisturbed,
    seed: int,
    cycles: int,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Outcome, Readers]:
    """Run cycles of faults; the model must be loaded."""
    outcome, chance = Outcome(seed), random.Random(seed)
    faults = Faults(cluster, between, chance)
    readers = Readers(wanted, cluster.own, seed)
    readers.start()
    try:
        for cycle in range(cycles):
            time.sleep(GAP_S + chance.random())
            began_s = time.monotonic()
            fault = faults.one()
            faults.mend()
            if not _becomes_whole(cluster):
                outcome.not_whole.append(f"cycle {cycle}: {fault}: {_state(cluster)}")
                _load_again(cluster)
            outcome.faults.append(fault)
            outcome.cycles += 1
            outcome.growth.take(cycle, cluster.nodes)
            tell(
                f"{cycle:4} {time.monotonic() - began_s:6.1f} s  {fault:40} answers {readers.answers}, tokens "
                f"{readers.tokens}, errors {len(readers.errors)}, violations {len(readers.violations)}"
            )
    finally:
        readers.end()
    return outcome, readers


def _becomes_whole(cluster: Cluster) -> bool:
    ends_at = time.monotonic() + PATIENCE_S / 2
    while time.monotonic() < ends_at:
        with suppress(MoeClusterError):
            if is_serving(cluster.own):
                return True
        time.sleep(0.05)
    return False


def _state(cluster: Cluster) -> str:
    with suppress(MoeClusterError):
        status = cluster.own.status()
        return f"{status.serving and (status.serving.state, status.serving.failure)}, {len(status.here)} nodes"
    return "the node does not answer"


def _load_again(cluster: Cluster) -> None:
    with suppress(MoeClusterError):
        list(cluster.own.load(Wanted("demo", cluster.place("demo", (2, 2, 2)), replace=True)))


@contextmanager
def soaked_cluster(directory: Path, hardware: Path) -> Iterator[tuple[Cluster, Network]]:
    """Run a cluster with a network that can be spoiled, and the model."""
    with network(N_NODES) as between, running_cluster(directory, N_NODES, hardware, between.prefixes) as cluster:
        between.begin(cluster.nodes)
        cluster.load("demo", cluster.place("demo", (2, 2, 2)))
        yield cluster, between


def report(outcome: Outcome, readers: Readers) -> str:
    """Return what a soak gave, as text."""
    lines = [
        f"seed {outcome.seed}: {outcome.cycles} cycles, {readers.answers} answers, {readers.tokens} tokens checked, "
        f"{len(readers.errors)} answers ended with an error, {len(readers.violations)} violations, "
        f"{len(outcome.not_whole)} times not whole by itself",
        *map(str, readers.violations[:20]),
        *outcome.not_whole,
    ]
    by_error: dict[str, int] = {}
    for error in readers.errors:
        by_error[error[:160]] = by_error.get(error[:160], 0) + 1
    lines += [f"{count:5} {error}" for error, count in sorted(by_error.items(), key=lambda item: -item[1])[:12]]
    lines.append(f"{'node':8} {'process':8} {'cycles':>6} {'MB/cycle':>9} {'fds/cycle':>9} {'threads/cycle':>13}")
    for name, kind, n, memory, fds, threads in outcome.growth.rows():
        lines.append(f"{name:8} {kind:8} {n:6} {memory:9.3f} {fds:9.3f} {threads:13.3f}")
    return "\n".join(lines)


def main() -> int:
    """Run a soak; return how many violations there were."""
    import asyncio

    import mlx_moe
    from cluster.membership import hardware
    from mlx_moe.decoding.chunking import DEFAULT_RULE
    from tests.faults.trio import PROMPTS

    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    wanted = {prompt: list(model.generate(request(prompt))) for prompt in PROMPTS}
    model.close()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        measured = Path(directory) / "hardware.json"
        hardware.DEADLINE_S = PATIENCE_S
        asyncio.run(hardware.hardware(measured))
        with soaked_cluster(Path(directory) / "nodes", measured) as (cluster, between):
            outcome, readers = soak(
                cluster, between, wanted, arguments.seed, arguments.cycles, lambda line: print(line, flush=True)
            )
            print(report(outcome, readers))
    return min(len(readers.violations) + len(outcome.not_whole), 100)


if __name__ == "__main__":
    sys.exit(main())
