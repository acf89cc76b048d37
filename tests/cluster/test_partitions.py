"""Partitions of machines, which are network namespaces: a minority serves nothing, and all agree afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import mlx_moe
from cluster.placement import Placement, StagePlacement
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.hosts import Hosts, ip, permitted_hosts
from tests.cluster.machines import Machine
from tests.cluster.running import ROOT, processes_with
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

N_TOKENS = 400
PROMPT = tuple(range(30, 90))
NAMES = ("mac-1", "mac-2", "mac-3")
NOWHERE = "02:00:00:00:00:99"

ASK = """
import json, sys
from pathlib import Path
from cluster.client import OwnNode
from cluster.home import Home
from mlx_moe.decoding.request import Request
from mlx_moe.sampling_params import SamplingParams

prompt, n_tokens = json.loads(sys.argv[2])
with OwnNode.connect(Home(Path(sys.argv[1]))) as own:
    model = own.model(own.status())
    greedy = SamplingParams(temperature=0)
    asked = Request(tuple(prompt), greedy, max_tokens=n_tokens, ignore_eos=True, detect_loops=False)
    for token in model.new_conversation().answer(asked):
        print(token.id, flush=True)
"""


@pytest.fixture(scope="module")
def wanted() -> list[int]:
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    greedy = SamplingParams(temperature=0)
    asked = Request(PROMPT, greedy, max_tokens=N_TOKENS, ignore_eos=True, detect_loops=False)
    ids = [token.id for token in model.generate(asked)]
    model.close()
    return ids


class Three:
    """Three machines on a switch, with the demo in three stages; the first one coordinates."""

    def __init__(self, hosts: Hosts, directory: Path, hardware: Path) -> None:
        self.namespaces = [hosts.add(str(n)) for n in (1, 2, 3)]
        self.switch = hosts.join(self.namespaces, "eth0")
        for n, namespace in enumerate(self.namespaces, 1):
            ip(namespace, "addr", "add", f"10.77.0.{n}/24", "dev", "eth0")
            ip(namespace, "link", "set", "eth0", "up")
        self.machines = [
            Machine(hosts, namespace, directory / f"node-{n}", f"mac-{n}", hardware)
            for n, namespace in enumerate(self.namespaces, 1)
        ]
        first, *others = self.machines
        first.start("--new")
        first.wait_up()
        for machine in others:
            machine.start("--join", first.node.token())
            machine.wait_up()
        self.until_all_present()
        stages = tuple(StagePlacement(first.ids[name], range(2 * n, 2 * n + 2)) for n, name in enumerate(NAMES))
        first.load_demo(json.dumps(Placement("demo", "", stages, 512, 2, 4096, {}).to_json()))
        until(lambda: all(machine.epoch for machine in self.machines))

    def until_all_present(self) -> None:
        until(lambda: all(machine.states == dict.fromkeys(NAMES, "present") for machine in self.machines))

    def ask(self, n: int) -> subprocess.Popen[str]:
        """Let machine n ask its node for an answer."""
        command = self.machines[n - 1].python(ASK, json.dumps((PROMPT, N_TOKENS)))
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def states(self, n: int) -> Mapping[str, str]:
        """How machine n sees the others."""
        return self.machines[n - 1].states


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Three]:
    directory = tmp_path_factory.mktemp("partitions")
    with permitted_hosts() as hosts:
        yield Three(hosts, directory, measured_hardware)
        for process in processes_with(str(directory)):
            process.kill()


def tokens_of(client: subprocess.Popen[str]) -> tuple[list[int], str]:
    """Return all tokens that a client has read, and how it failed, "" if it has not."""
    assert client.stdout is not None  # both are read from here on: `communicate` would lose what was read ahead
    assert client.stderr is not None
    with client:
        tokens, error = [int(line) for line in client.stdout], client.stderr.read()
        return tokens, error if client.wait(PATIENCE_S) else ""


def test_a_coordinator_that_is_cut_off_serves_nothing_and_the_others_go_on(three: Three, wanted: list[int]) -> None:
    first, second, third = three.machines
    before = first.epoch
    inside, outside = three.ask(1), three.ask(2)
    for client in (inside, outside):
        assert client.stdout is not None
        assert int(client.stdout.readline()) == wanted[0]
    ip(three.switch, "link", "set", "port1", "nomaster")
    tokens, error = tokens_of(outside)
    assert (tokens, error) == (wanted[1:], "")
    until(lambda: second.epoch == third.epoch > before)
    tokens, error = tokens_of(inside)
    assert tokens == wanted[1 : 1 + len(tokens)] != wanted[1:]
    assert "mac-" in error
    until(lambda: not first.epoch)
    assert tokens_of(three.ask(1))[1]

    ip(three.switch, "link", "set", "port1", "master", "bridge")
    three.until_all_present()
    until(lambda: first.epoch == second.epoch == third.epoch > before)
    tokens, error = tokens_of(three.ask(1))
    assert (tokens, error) == (wanted, "")


def test_both_ends_of_a_way_that_works_in_one_direction_say_that_the_other_is_lost(
    three: Three, wanted: list[int]
) -> None:
    first, second, third = three.machines
    client = three.ask(2)
    assert client.stdout is not None
    assert int(client.stdout.readline()) == wanted[0]
    ip(three.namespaces[2], "neigh", "replace", "10.77.0.1", "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")
    until(lambda: three.states(1)["mac-3"] == three.states(3)["mac-1"] == "lost")
    assert three.states(2) == dict.fromkeys(NAMES, "present")
    tokens, error = tokens_of(client)
    assert (tokens, error) == (wanted[1:], "")
    until(lambda: second.epoch)

    ip(three.namespaces[2], "neigh", "del", "10.77.0.1", "dev", "eth0")
    three.until_all_present()
    until(lambda: first.epoch == second.epoch == third.epoch > 0)
