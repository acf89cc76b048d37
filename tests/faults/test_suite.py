"""The fault suite: what becomes of answers on a running cluster, a test for each row that no test elsewhere shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cluster.client import OwnNode
from tests.cluster.running import ROOT
from tests.faults.disturbed import is_serving
from tests.faults.record import Record
from tests.faults.toxics import BLACK_HOLE, Toxics
from tests.faults.trio import LONG, PACE, PROMPTS, WITHIN_S, Seen, Trio, kill_worker
from tests.patience import until

pytestmark = pytest.mark.slow

CLIENT = """
import json, sys
from pathlib import Path
from cluster.client import OwnNode
from cluster.home import Home
from mlx_moe.decoding.request import Request

own = OwnNode.connect(Home(Path(sys.argv[1])))
conversation = own.model(own.status()).new_conversation()
for token in conversation.answer(Request(tuple(range(1, 200)), max_tokens=1800, ignore_eos=True, detect_loops=False)):
    print(token.id, flush=True)
"""


def same_tokens(seen: Seen) -> None:
    """Require that all answers went on, soon, and have the tokens of the undisturbed run."""
    assert not seen.answers.violations
    assert seen.answers.are_whole, seen.answers.errors
    assert seen.on_s < WITHIN_S


def sound_so_far(seen: Seen) -> None:
    """Require that nothing was streamed that the undisturbed run does not have."""
    assert not seen.answers.violations


def later(seconds: float, do: Callable[[], object]) -> None:
    """Do something after a while, without waiting for it."""
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


@pytest.mark.usefixtures("by_hand")
def test_a_killed_middle_worker_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    seen = trio.disturb(lambda: kill_worker(trio.nodes[1]))
    record.append(seen.record(1, "SIGKILL to the middle stage's worker"))
    same_tokens(seen)
    assert seen.detect_s is not None
    assert all("node mac-2" in reading.waited_for for reading in seen.answers.readings)


@pytest.mark.usefixtures("by_hand")
def test_a_killed_middle_node_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    seen = trio.disturb(trio.nodes[1].kill)
    record.append(seen.record(1, "SIGKILL to the middle stage's daemon, whose worker ends with it"))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_killed_last_worker_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    seen = trio.disturb(lambda: kill_worker(trio.nodes[2]))
    record.append(seen.record(2, "SIGKILL to the last stage's worker"))
    same_tokens(seen)


def test_a_killed_first_worker_changes_no_token(trio: Trio, record: list[Record]) -> None:
    """The first stage's worker is the coordinator, which has the answers."""
    trio.load()
    seen = trio.disturb(lambda: kill_worker(trio.nodes[0]))
    record.append(seen.record(2, "SIGKILL to the first stage's worker, which coordinates"))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_killed_coordinators_node_is_replaced_and_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    kept = [worker.pid for node in trio.nodes[1:] for worker in node.workers()]
    with OwnNode.connect(trio.nodes[1].home) as second:
        seen = trio.disturb(trio.nodes[0].kill, own=second)
        until(lambda: is_serving(second))
    same = [worker.pid for node in trio.nodes[1:] for worker in node.workers()] == kept
    told = "the workers of the others went on" if same else "workers were started again"
    record.append(seen.record(5, "SIGKILL to the daemon of the coordinator's node, asked through another node", told))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_worker_killed_while_prompts_are_read_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()

    def kill_amid_prefill() -> None:
        stage = trio.nodes[1]
        until(lambda: trio.cluster.holding(stage).stats.kv_positions > 0)
        kill_worker(stage)

    seen = trio.disturb(kill_amid_prefill, after=0, prompts=[LONG], n_tokens=4)
    record.append(seen.record(3, "SIGKILL to the middle stage's worker while 1,200 positions are read"))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_stop_of_three_seconds_is_a_stall(trio: Trio, record: list[Record]) -> None:
    trio.load()
    (worker,) = trio.nodes[1].workers()
    stopped = [worker.pid, trio.nodes[1].process.pid]
    epoch = trio.cluster.own.status().serving

    def stop() -> None:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        later(3.0, lambda: [os.kill(pid, signal.SIGCONT) for pid in stopped])

    seen = trio.disturb(stop)
    served = trio.cluster.own.status().serving
    is_same = epoch is not None and served is not None and served.epoch == epoch.epoch
    told = "the same epoch went on" if is_same else "the model was placed again"
    record.append(seen.record(6, "SIGSTOP for 3 s to the middle node's daemon and worker", told))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_node_that_is_stopped_for_long_is_lost_and_comes_back(trio: Trio, record: list[Record]) -> None:
    trio.load()
    (worker,) = trio.nodes[1].workers()
    stopped = [worker.pid, trio.nodes[1].process.pid]
    seen = trio.disturb(lambda: [os.kill(pid, signal.SIGSTOP) for pid in stopped])
    time.sleep(30.0)  # stopped for long, which is the fault
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    trio.cluster.wait_for_all()
    until(lambda: not worker.is_running())
    record.append(seen.record(6, "SIGSTOP for 30 s to the middle node", "back after SIGCONT, its old worker ended"))
    same_tokens(seen)


@pytest.mark.usefixtures("by_hand")
def test_a_one_way_partition_loses_the_node_at_both_ends(trio: Trio, record: list[Record]) -> None:
    trio.load()

    def cut() -> None:
        for other in (0, 2):
            trio.between.one_way(1, other, BLACK_HOLE)

    seen = trio.disturb(cut)
    lost = trio.nodes[1]
    until(lambda: lost.address not in trio.cluster.present())
    until(lambda: lost.said.count("lost mac-") >= 2)
    record.append(seen.record(7, "what the middle node sends is held, what it is sent arrives", "both sides say lost"))
    same_tokens(seen)
    trio.between.heal()
    trio.cluster.wait_for_all()


def test_a_black_hole_is_seen_and_changes_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    seen = trio.disturb(lambda: trio.between.isolate(1))
    record.append(seen.record(8, "all bytes from and to the middle node are held, nothing is closed"))
    same_tokens(seen)
    assert seen.detect_s is not None
    trio.between.heal()


def test_a_link_that_two_others_have_lost_is_not_used(trio: Trio, record: list[Record]) -> None:
    trio.load()
    seen = trio.disturb(lambda: trio.between.between(1, 2, BLACK_HOLE))
    record.append(seen.record(8, "all bytes between two nodes are held that the coordinator's node both reaches"))
    same_tokens(seen)
    served = trio.cluster.own.status().ready
    assert served is not None
    assert len(served.node_ids) == 2
    trio.between.heal()


def test_links_that_are_reset_reconnect_and_change_no_token(trio: Trio, record: list[Record]) -> None:
    trio.load()
    before = [trio.cluster.holding(node).stats.positions for node in trio.nodes]
    reset: list[int] = []

    def reset_all() -> None:
        reset.extend(trio.between.reset(one, other) for one, other in ((0, 1), (1, 2), (2, 0)))

    seen = trio.disturb(reset_all)
    again = _positions_again(trio, before, seen)
    record.append(seen.record(9, f"RST on all {sum(reset)} links between the three nodes", again))
    same_tokens(seen)


def _positions_again(trio: Trio, before: list[int], seen: Seen) -> str:
    """Return how many positions more than the answers have were computed by the stages that have counted on."""
    needed = sum(len(reading.request.input_ids) + len(reading.at) - 1 for reading in seen.answers.readings)
    time.sleep(2.5)  # statistics come once a second, in greetings
    after = [trio.cluster.holding(node).stats.positions for node in trio.nodes]
    more = [late - early - needed for early, late in zip(before, after, strict=True) if late >= early]
    return "no position was computed twice" if more and max(more) == 0 else f"positions computed again: {more}"


def test_a_bad_link_is_slow_and_right(trio: Trio, record: list[Record]) -> None:
    trio.load()
    epoch = trio.cluster.own.status().serving
    bad = Toxics(latency_s=0.2, jitter_s=0.1, bytes_per_s=1e6)
    later(8.0, lambda: trio.between.between(1, 2, PACE))
    seen = trio.disturb(lambda: trio.between.between(1, 2, bad))
    served = trio.cluster.own.status().serving
    record.append(seen.record(10, "200 ms +- 100 ms and 1 MB/s between two nodes for 8 s", "no node was lost"))
    same_tokens(seen)
    assert epoch is not None
    assert served is not None
    assert served.epoch == epoch.epoch
    assert trio.cluster.present() == {node.address for node in trio.nodes}


@pytest.mark.parametrize(
    ("toxics", "told"),
    [
        (Toxics(latency_s=0.004, flip_rate=0.2), "a bit of every fifth piece of bytes is flipped for 1 s"),
        (Toxics(latency_s=0.004, cut_after_bytes=3000), "links break amid a frame, after 3,000 bytes each, for 1 s"),
    ],
    ids=["flipped", "cut"],
)
def test_spoiled_bytes_never_become_tokens(trio: Trio, record: list[Record], toxics: Toxics, told: str) -> None:
    trio.load()
    later(1.0, lambda: trio.between.one_way(0, 1, PACE))
    seen = trio.disturb(lambda: trio.between.one_way(0, 1, toxics))
    record.append(seen.record(11, told))
    same_tokens(seen)


def test_a_killed_client_is_cancelled_on_all_nodes(trio: Trio, record: list[Record]) -> None:
    trio.load()

    def kv_bytes() -> list[int]:
        return [trio.cluster.holding(node).stats.kv_bytes for node in trio.nodes]

    until(lambda: not any(kv_bytes()))
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(trio.nodes[0].home.path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert client.stdout is not None
    assert client.stdout.readline()
    until(lambda: all(kv_bytes()))
    client.kill()
    began_s = time.monotonic()
    until(lambda: not any(kv_bytes()))
    freed_s = time.monotonic() - began_s
    client.communicate()
    outcome = "KV bytes of all nodes are as before (statistics come once a second)"
    record.append(Record(13, "SIGKILL to the client while it reads", outcome, None, freed_s, None))
    assert trio.cluster.own.status().coordinator_stats.active_requests == 0


def test_all_answers_are_undisturbed_after_all_that(trio: Trio) -> None:
    trio.load()
    seen = trio.disturb(lambda: None, prompts=PROMPTS)
    same_tokens(seen)
