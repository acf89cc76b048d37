"""Trio: three nodes with a model in three stages, and answers that are disturbed while they are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cluster.client import OwnNode
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import MoeClusterError
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode
from tests.faults.disturbed import Answers, Watch, is_serving
from tests.faults.network import Network
from tests.faults.record import Record
from tests.faults.toxics import Toxics
from tests.patience import until

N_TOKENS = 80
PROMPTS = [tuple(range(30 + i, 90 + i)) for i in range(3)]
LONG = tuple(i % 200 for i in range(1200))

PACE = Toxics(latency_s=0.004)
"""On all ways between nodes, so that an answer takes more than a second on any machine."""

WITHIN_S = 30.0
"""Longest time until answers go on; a busy machine needs most of it."""


def request(prompt: tuple[int, ...], n_tokens: int = N_TOKENS) -> Request:
    """Return a request whose answer is sampled, and has so many tokens."""
    sampling = SamplingParams(temperature=1.2, top_p=0.9, seed=prompt[0])
    return Request(prompt, sampling, max_tokens=n_tokens, ignore_eos=True, detect_loops=False)


@dataclass(slots=True)
class Seen:
    """What was seen of answers that were disturbed."""

    answers: Answers
    detect_s: float | None
    on_s: float

    def record(self, row: int, injected: str, outcome: str = "") -> Record:
        """Return the record of a row; the outcome is told by the answers, and by `outcome` more of it."""
        told = "all answers went on" if self.answers.are_whole else "; ".join(sorted(set(self.answers.errors)))[:300]
        said = ". ".join(filter(None, (told or "the answers did not end", outcome)))
        on_s = self.on_s if self.answers.are_whole else None
        same = self.answers.are_whole if not self.answers.errors else not self.answers.violations
        return Record(row, injected, said, self.detect_s, on_s, same)


class Trio:
    """The cluster, its network, and what an undisturbed run answers."""

    def __init__(self, cluster: Cluster, between: Network, wanted: Mapping[tuple[int, ...], Sequence[Token]]) -> None:
        self.cluster = cluster
        self.between = between
        self.wanted = wanted

    @property
    def nodes(self) -> list[RunningNode]:
        """The nodes; the first one coordinates."""
        return self.cluster.nodes

    def load(self) -> None:
        """Heal the network, start nodes that ended, and load the model in three stages, unless it is."""
        self.between.heal()
        first, *others = self.nodes
        if first.process.poll() is not None:
            first.start("--peer", others[0].address)
            first.wait_up()
        for node in others:
            if node.process.poll() is not None:
                self.cluster.join(node)
        self.cluster.wait_for_all()
        if self.cluster.model is None or not self._is_in_three_stages():
            until(self._is_placed)
        self._pace()

    def disturb(
        self,
        fault: Callable[[], object],
        *,
        after: int = 10,
        prompts: Sequence[tuple[int, ...]] = PROMPTS[:2],
        n_tokens: int = N_TOKENS,
        own: OwnNode | None = None,
    ) -> Seen:
        """Put a fault in when all answers have `after` tokens; return what was seen when they have ended.

        `own` is the node that is asked, if it is not the first.
        """
        model = self.cluster.model if own is None else own.model(own.status())
        assert model is not None
        requests = [request(prompt, n_tokens) for prompt in prompts]
        answers = Answers(model, requests, [self.wanted[prompt] for prompt in prompts])
        answers.until_tokens(after)
        watch, began_s = Watch(own or self.cluster.own, is_serving), time.monotonic()
        fault()
        answers.until_done()
        watch.end()
        if own is not None:
            model.close()
        return Seen(answers, watch.seen_s, answers.longest_wait_s(began_s))

    def until_serving(self) -> None:
        """Wait until a model is served by nodes that are all present."""
        until(lambda: is_serving(self.cluster.own))

    def _is_placed(self) -> bool:
        """Load the model; return whether it was: while it is repaired or moved, it is not."""
        with suppress(MoeClusterError):
            self.cluster.load("demo", self.cluster.place("demo", (2, 2, 2)))
            return True
        return False

    def _is_in_three_stages(self) -> bool:
        served = self.cluster.own.status().ready
        return served is not None and list(served.node_ids) == [node.node_id for node in self.nodes]

    def _pace(self) -> None:
        for one in range(len(self.nodes)):
            for other in range(one):
                self.between.between(one, other, PACE)


def kill_worker(node: RunningNode) -> None:
    """Kill a node's worker with -9."""
    (worker,) = node.workers()
    worker.kill()
