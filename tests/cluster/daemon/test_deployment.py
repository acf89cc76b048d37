"""Deployment: whatever happens to workers in whatever order, it serves with all of them, or ends and says why."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.daemon.deployment import (
    ANSWER_S,
    FAREWELL_S,
    ROOT_CAUSE_S,
    TRIES,
    Deployment,
    Phase,
)
from cluster.daemon.deployment_events import (
    CallEnded,
    Cancel,
    Command,
    Connect,
    Connected,
    Disconnected,
    EndAsked,
    Event,
    Failed,
    Loaded,
    Progressed,
    Reconfigure,
    ReconfigureAsked,
    Repair,
    RepairFailed,
    Start,
    Stop,
    Tick,
)
from cluster.errors import ClusterError, NodeLostError
from cluster.placement import Placement, StagePlacement, Standby


def placed(*node_ids: str) -> Placement:
    stages = tuple(StagePlacement(node_id, range(i, i + 1)) for i, node_id in enumerate(node_ids))
    return Placement("demo", "hash", stages, 512, 1, 512, {})


def applied(deployment: Deployment, *events: Event, now: float = 0.0) -> tuple[Deployment, list[Command]]:
    told: list[Command] = []
    for event in events:
        deployment, commands = deployment.apply(event, now)
        told += commands
    return deployment, told


def loaded(*node_ids: str, epoch: int = 1) -> list[Event]:
    return [Loaded(node_id, epoch, 7000 + i) for i, node_id in enumerate(node_ids)]


def connected(*node_ids: str, epoch: int = 1) -> list[Event]:
    return [Connected(node_id, epoch) for node_id in node_ids]


def ready(*node_ids: str) -> Deployment:
    deployment, told = Deployment.begin(placed(*node_ids), 1, 0.0)
    assert told == tuple(Start(node_id) for node_id in node_ids)
    deployment, _ = applied(deployment, *loaded(*node_ids), *connected(*node_ids), now=2.0)
    assert (deployment.phase, deployment.ready_at) == (Phase.READY, 2.0)
    return deployment


LOST = NodeLostError("node a: the link to node b broke")
KILLED = NodeLostError("node b: the worker was ended by SIGKILL")
DAMAGED = ClusterError("node b: the file is damaged")


def test_workers_hear_of_each_other_when_all_are_loaded() -> None:
    deployment, _ = Deployment.begin(placed("a", "b"), 1, 0.0)
    deployment, told = applied(deployment, Progressed("a", 3, 4), Loaded("a", 1, 7000))
    assert told == []
    assert deployment.workers["a"].progress == Progressed("a", 3, 4)
    ports = {"a": 7000, "b": 7001}
    deployment, told = applied(deployment, Loaded("b", 1, 7001))
    assert told == [Connect("a", ports), Connect("b", ports)]
    deployment, _ = applied(deployment, Connected("b", 1))
    assert deployment.phase is Phase.LOADING


def test_the_root_cause_is_told_in_place_of_the_link_that_broke_of_it() -> None:
    deployment, told = applied(ready("a", "b"), Disconnected("a", 1, LOST))
    assert (deployment.phase, told) == (Phase.READY, [])
    deployment, told = applied(deployment, Failed("b", DAMAGED))
    assert deployment.error is DAMAGED
    assert told == [Stop("a", str(DAMAGED)), Stop("b", str(DAMAGED))]


def test_a_link_that_broke_by_itself_is_opened_again() -> None:
    deployment, _ = applied(ready("a", "b"), Disconnected("a", 1, LOST), now=5.0)
    assert deployment.wakes_at == 5.0 + ROOT_CAUSE_S
    deployment, told = applied(deployment, Tick(), now=5.0 + ROOT_CAUSE_S)
    assert (deployment.phase, told) == (Phase.LOADING, [Repair(frozenset(), 0.0)])
    deployment, told = applied(deployment, ReconfigureAsked(placed("a", "b"), 2), now=6.0)
    assert told == [Reconfigure("a"), Reconfigure("b")]
    assert deployment.cause is LOST
    deployment, _ = applied(deployment, *loaded("a", "b", epoch=2), *connected("a", "b", epoch=2), now=7.0)
    assert (deployment.phase, deployment.cause, deployment.wakes_at) == (Phase.READY, None, None)


def test_a_lost_node_gets_no_part_until_it_is_ready_again() -> None:
    deployment, told = applied(ready("a", "b", "c"), CallEnded("b", LOST, is_gone=True))
    assert told == [Repair(frozenset("b"), 0.0)]
    deployment, told = applied(deployment, Disconnected("a", 1, LOST), Disconnected("c", 1, LOST), Tick(), now=9.0)
    assert (deployment.suspicion, told) == (None, [])
    deployment, told = applied(deployment, CallEnded("c", LOST, is_gone=True))
    assert told == [Repair(frozenset("bc"), 0.0)]
    deployment, told = applied(deployment, ReconfigureAsked(placed("a"), 2))
    assert told == [Reconfigure("a")]
    deployment, _ = applied(deployment, *loaded("a", epoch=2), *connected("a", epoch=2))
    assert (deployment.phase, deployment.lost) == (Phase.READY, frozenset())


def test_the_loss_of_a_node_that_only_has_a_spare_copy_disturbs_nothing() -> None:
    spared = replace(placed("a", "b"), standby=Standby("c", range(1, 2)))
    deployment, told = Deployment.begin(spared, 1, 0.0)
    assert told == (Start("a"), Start("b"), Start("c"))
    deployment, _ = applied(deployment, *loaded("a", "b", "c"), *connected("a", "b"))
    assert deployment.phase is Phase.LOADING
    deployment, _ = applied(deployment, Connected("c", 1))
    deployment, told = applied(deployment, Failed("c", DAMAGED), CallEnded("c", LOST, is_gone=True))
    assert (deployment.phase, deployment.placement, told) == (Phase.READY, placed("a", "b"), [])
    _, told = applied(deployment, CallEnded("b", LOST, is_gone=True))
    assert told == [Repair(frozenset("b"), 0.0)]


def test_a_dead_worker_is_not_started_again_where_another_node_has_its_weights_in_memory() -> None:
    spared = replace(placed("a", "b"), standby=Standby("c", range(1, 2)))
    deployment, _ = applied(ready("a", "b"), ReconfigureAsked(spared, 2), Disconnected("a", 1))
    events = [*loaded("a", "b", "c", epoch=2), *connected("a", "b", "c", epoch=2)]
    deployment, _ = applied(deployment, *events)
    assert deployment.phase is Phase.READY
    _, told = applied(deployment, Failed("b", KILLED), CallEnded("b", LOST))
    assert told == [Repair(frozenset("b"), 0.0)]
    _, told = applied(deployment, CallEnded("b", LOST))  # the link to it broke: it may still hold its part
    assert told == [Repair(frozenset(), 0.0)]


def test_a_worker_that_dies_again_and_again_is_left_out() -> None:
    deployment, told = ready("a", "b"), list[Command]()
    for count in range(1, TRIES + 2):
        deployment, told = applied(deployment, Failed("b", KILLED), CallEnded("b", LOST), now=float(count))
        assert told == [Repair(frozenset("b" if count > TRIES else ""), float(count - 1))]
        assert deployment.cause is KILLED
        deployment, _ = applied(deployment, ReconfigureAsked(placed("a", "b"), 1 + count))
        events = [*loaded("a", "b", epoch=1 + count), *connected("a", "b", epoch=1 + count)]
        deployment, _ = applied(deployment, Disconnected("a", count), *events)


def test_a_worker_that_does_not_begin_with_its_new_part_is_lost() -> None:
    deployment, _ = applied(ready("a", "b"), Disconnected("a", 1, LOST), now=1.0)
    deployment, _ = applied(deployment, Tick(), ReconfigureAsked(placed("a", "b"), 2), now=2.0)
    deployment, _ = applied(deployment, Loaded("a", 2, 7000), now=3.0)
    assert deployment.wakes_at == 2.0 + ANSWER_S
    _, told = applied(deployment, Tick(), now=2.0 + ANSWER_S)
    assert told == [Cancel("b")]


def test_it_goes_on_with_another_coordinator() -> None:
    deployment, told = applied(ready("a", "b"), Failed("a", KILLED), CallEnded("a", LOST))
    assert (deployment.phase, told) == (Phase.LOADING, [Repair(frozenset(), 0.0)])
    _, told = applied(deployment, ReconfigureAsked(placed("a", "b"), 2))
    assert told == [Start("a"), Reconfigure("b")]
    _, told = applied(deployment, ReconfigureAsked(placed("b"), 2))
    assert told == [Reconfigure("b")]


def test_what_is_taken_over_outlives_a_loss_at_once() -> None:
    deployment, told = Deployment.begin(placed("b", "c"), 2, 0.0, KILLED, frozenset("a"))
    assert told == (Start("b"), Start("c"))
    deployment, commands = applied(deployment, CallEnded("c", LOST, is_gone=True))
    assert commands == [Repair(frozenset("ac"), 0.0)]
    assert deployment.cause is KILLED


def test_without_room_it_ends() -> None:
    deployment, _ = applied(ready("a", "b"), CallEnded("b", LOST, is_gone=True))
    deployment, told = applied(deployment, RepairFailed(ClusterError("demo needs 3 GB")))
    assert told == [Stop("a", f"{LOST}; demo needs 3 GB")]


@pytest.mark.parametrize("dies", ["a", "b"])
def test_a_worker_that_dies_at_every_load_is_tried_a_few_times_then_said_plainly(dies: str) -> None:
    deployment, _ = Deployment.begin(placed("a", "b"), 1, 0.0)
    for count in range(1, TRIES):
        deployment, commands = applied(deployment, Failed(dies, KILLED), CallEnded(dies, LOST), now=float(count))
        assert commands == [Repair(frozenset(), float(count - 1))]
        deployment, commands = applied(deployment, ReconfigureAsked(placed("a", "b"), 1 + count))
        assert Start(dies) in commands
    deployment, commands = applied(deployment, Failed(dies, KILLED), CallEnded(dies, LOST), now=9.0)
    assert str(deployment.error).startswith(f"{KILLED}. It was worker {TRIES} of {TRIES} there")
    assert commands == [Stop("ba"["ab".index(dies)], str(deployment.error))]


def test_what_was_never_ready_ends_with_a_node_that_is_gone_or_has_ended_its_worker() -> None:
    for event in (CallEnded("b", LOST, is_gone=True), CallEnded("b", LOST)):
        deployment, _ = Deployment.begin(placed("a", "b"), 1, 0.0)
        deployment, told = applied(deployment, event)
        assert (deployment.error, told) == (LOST, [Stop("a", str(LOST))])


def test_it_ends_with_the_last_call_and_cancels_one_that_does_not_end() -> None:
    deployment, told = applied(ready("a", "b"), EndAsked("enough"), EndAsked("again"))
    assert told == [Stop("a", "enough"), Stop("b", "enough")]
    deployment, _ = applied(deployment, CallEnded("a", KILLED))
    assert deployment.wakes_at == FAREWELL_S
    deployment, told = applied(deployment, Tick(), Tick(), now=FAREWELL_S)
    assert told == [Cancel("b")]
    deployment, _ = applied(deployment, CallEnded("b", KILLED))
    assert (deployment.phase, deployment.error) == (Phase.ENDED, None)


def test_a_new_placement_is_told_first_where_answers_are_written() -> None:
    deployment, told = applied(ready("a", "b"), ReconfigureAsked(placed("a", "c"), 2))
    assert told == [Reconfigure("a")]
    deployment, told = applied(deployment, Disconnected("b", 1, LOST), Disconnected("a", 1))
    assert told == [Start("c"), Stop("b", "demo is placed on other nodes: ask again")]
    ports = {"a": 7000, "c": 7001}
    deployment, told = applied(deployment, CallEnded("b", LOST), *loaded("a", "c", epoch=2))
    assert told == [Connect("a", ports), Connect("c", ports)]
    deployment, _ = applied(deployment, *connected("a", "c", epoch=2))
    assert (deployment.phase, deployment.error) == (Phase.READY, None)


def test_the_coordinator_may_move() -> None:
    deployment, told = applied(ready("a", "b"), ReconfigureAsked(placed("b", "c"), 2))
    assert told == [Stop("a", "demo is placed on other nodes: ask again")]
    deployment, told = applied(deployment, CallEnded("a", LOST))
    assert told == [Reconfigure("b"), Start("c")]


def test_a_node_that_leaves_and_comes_again_gets_a_new_worker_when_the_old_one_has_ended() -> None:
    deployment, _ = applied(ready("a", "b"), ReconfigureAsked(placed("a"), 2), Disconnected("a", 1))
    deployment, told = applied(deployment, ReconfigureAsked(placed("a", "b"), 3))
    assert told == [Reconfigure("a")]
    deployment, told = applied(deployment, CallEnded("b", LOST))
    assert told == [Start("b")]


def test_what_is_said_of_an_earlier_epoch_counts_no_more() -> None:
    deployment, _ = applied(ready("a", "b"), ReconfigureAsked(placed("b", "a"), 2), Disconnected("a", 1))
    deployment, told = applied(deployment, Disconnected("b", 1, LOST), *loaded("a", "b"), *connected("a", "b"))
    assert (deployment.phase, deployment.suspicion, told) == (Phase.LOADING, None, [])


def test_a_lost_link_is_forgotten_where_the_model_is_placed_without_it() -> None:
    deployment, _ = applied(ready("a", "b", "c"), Disconnected("a", 1, LOST), Disconnected("c", 1, LOST))
    deployment, told = applied(deployment, ReconfigureAsked(placed("a", "c"), 2))
    assert told == [Reconfigure("a"), Reconfigure("c"), Stop("b", "demo is placed on other nodes: ask again")]
    assert deployment.suspicion is None


NODES = "abcd"


@dataclass
class World:
    """Workers that do as they are told, each in its own time, or are lost."""

    deployment: Deployment
    said: dict[str, deque[Event]] = field(default_factory=dict)
    stops: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    serving: set[str] = field(default_factory=set)
    causes: list[Exception] = field(default_factory=list)
    repairs: list[frozenset[str]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    now: float = 0.0

    def obey(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            match command:
                case Start(node_id):
                    assert node_id not in self.said, "two workers on a node"
                    self.said[node_id] = deque([Loaded(node_id, self.deployment.epoch, 7000)])
                    self.stops[node_id], self.parts[node_id] = 0, self.deployment.epoch
                    self.dead.discard(node_id)
                case Reconfigure(node_id) | Connect(node_id) if node_id in self.dead:
                    pass
                case Stop(node_id) if node_id in self.dead:
                    self.stops[node_id] += 1
                case Reconfigure(node_id):
                    self.leave(node_id)
                    self.parts[node_id] = self.deployment.epoch
                    self.said[node_id].append(Loaded(node_id, self.deployment.epoch, 7000))
                case Connect(node_id, ports):
                    assert set(ports) == set(self.deployment.placement.node_ids)
                    self.serving.add(node_id)
                    self.said[node_id].append(Connected(node_id, self.parts[node_id]))
                case Stop(node_id):
                    self.stops[node_id] += 1
                    self.leave(node_id)
                    self.said[node_id].append(CallEnded(node_id, NodeLostError(f"{node_id} ended")))
                case Cancel(node_id):
                    self.lose(node_id)  # unless it was told to stop
                case Repair(lost):
                    self.repairs = [lost]
            if isinstance(command, Reconfigure | Connect):
                assert not self.stops[command.node_id], "told something after its stop"

    def leave(self, node_id: str) -> None:
        if node_id in self.serving:
            self.serving.discard(node_id)
            self.said[node_id].append(Disconnected(node_id, self.parts[node_id]))
            self.break_links(node_id)

    def break_links(self, node_id: str) -> None:
        """Let the others of a worker's epoch find out that it has closed its links."""
        for other in self.serving:
            if self.parts[other] == self.parts[node_id]:
                self.said[other].append(Disconnected(other, self.parts[other], LOST))
        self.serving = {other for other in self.serving if self.parts[other] != self.parts[node_id]}

    def apply(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            del self.said[event.node_id]
        before = self.deployment
        self.deployment, commands = before.apply(event, self.now)
        self.obey(commands)
        assert all(count <= 1 for count in self.stops.values())
        if self.deployment.phase is Phase.READY:
            assert set(self.deployment.placement.node_ids) <= set(self.said)

    def hear(self, node_id: str) -> None:
        """Let one worker say its next thing."""
        if self.said.get(node_id):
            self.apply(self.said[node_id].popleft())

    def lose(self, node_id: str) -> None:
        """Kill a worker: what it had not said is never said."""
        if node_id in self.said and not self.stops[node_id]:
            error = NodeLostError(f"{node_id} was killed")
            self.causes += [error, LOST]
            self.dead.add(node_id)
            self.serving.discard(node_id)
            self.break_links(node_id)
            self.said[node_id] = deque([Failed(node_id, error), CallEnded(node_id, NodeLostError(f"{node_id} ended"))])

    def repair(self) -> None:
        """Answer what was asked last: a placement without the lost nodes, if there is one."""
        if self.repairs:
            lost, first = self.repairs.pop(), self.deployment.placement.coordinator
            left = [node_id for node_id in self.deployment.placement.node_ids if node_id not in lost]
            if first in left:
                self.apply(ReconfigureAsked(placed(*left), self.deployment.epoch + 1))
            else:
                self.apply(RepairFailed(ClusterError(f"{first} is lost")))

    def run_out(self) -> None:
        """Let all workers say all that they have to say."""
        while any(self.said.values()) or self.repairs:
            self.repair()
            for node_id in list(self.said):
                self.hear(node_id)


steps = st.one_of(
    st.tuples(st.just("hear"), st.sampled_from(NODES)),
    st.tuples(st.just("lose"), st.sampled_from(NODES)),
    st.tuples(st.just("place"), st.permutations(NODES).map("".join)),
    st.tuples(st.just("end"), st.just("")),
    st.tuples(st.just("repair"), st.just("")),
    st.tuples(st.just("wait"), st.just("")),
)


@pytest.mark.parametrize("ends", [False, True])
@given(st.lists(steps, max_size=40), st.data())
def test_it_serves_with_all_workers_or_ends_with_the_first_cause(
    ends: bool, script: list[tuple[str, str]], data: st.DataObject
) -> None:
    deployment, commands = Deployment.begin(placed("a", "b"), 1, 0.0)
    world = World(deployment)
    world.obey(commands)
    asked_to_end = False
    for verb, argument in script:
        match verb:
            case "hear":
                world.hear(argument)
            case "lose":
                world.lose(argument)
            case "place":
                wanted = placed(*argument[: data.draw(st.integers(1, len(NODES)))])
                world.apply(ReconfigureAsked(wanted, world.deployment.epoch + 1))
            case "repair":
                world.repair()
            case "end":
                asked_to_end = True
                world.apply(EndAsked("enough"))
            case "wait":
                world.now += FAREWELL_S
                world.apply(Tick())
    if ends:
        asked_to_end = True
        world.apply(EndAsked("enough"))
    for _ in range(2):  # where the only news of a loss is a broken link, the second time it has ended
        world.run_out()
        world.now += ROOT_CAUSE_S
        world.apply(Tick())
    if world.deployment.phase is Phase.READY:
        assert set(world.said) == world.serving == set(world.deployment.placement.node_ids)
        assert not asked_to_end
    else:
        assert world.deployment.phase is Phase.ENDED
        assert world.said == {}
        error = world.deployment.error
        assert asked_to_end if error is None else any(str(error).startswith(str(cause)) for cause in world.causes)
