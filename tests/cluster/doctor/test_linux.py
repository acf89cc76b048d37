"""The checks of a Linux machine, on recorded texts and on this machine."""

from __future__ import annotations

import asyncio
import sys

import pytest

from cluster.doctor import linux
from cluster.doctor.check import Check
from cluster.doctor.finding import Finding, State

CHECKS = {check.name: check for check in linux.checks(7420)}
MEMINFO = """MemTotal:       65536000 kB
MemFree:         1000000 kB
MemAvailable:   {available} kB
SwapTotal:       8000000 kB
SwapFree:        {swap} kB
HugePages_Total:       0
"""


def judged(name: str, *texts: str) -> Finding:
    return CHECKS[name].judged(*texts)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' files")
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_each_check_runs_here(check: Check) -> None:
    found = asyncio.run(check.run())
    assert found.name == check.name
    assert "unknown" not in "".join(found.found)


def test_little_free_memory_and_a_limit_are_warnings() -> None:
    assert judged("memory limit", MEMINFO.format(available=60000000, swap=8000000), "max\n").state is State.OK
    assert judged("memory limit", MEMINFO.format(available=600000, swap=8000000), "").state is State.WARNING
    assert judged("memory limit", MEMINFO.format(available=60000000, swap=1000000), "").state is State.WARNING
    limited = judged("memory limit", MEMINFO.format(available=60000000, swap=8000000), "8589934592\n")
    assert (limited.state, limited.found[1]) == (State.WARNING, "a control group limits it to 8.6 GB")


def test_kills_for_memory_are_counted() -> None:
    assert judged("killed for memory", "pgfault 7\noom_kill 0\n").state is State.OK
    assert judged("killed for memory", "oom_kill 2\n").found == ("the kernel killed 2 processes since the start",)
    assert judged("killed for memory", "").state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("power", "action", "state"),
    [
        ("", "", State.OK),
        ("freeze mem disk\n", 's "ignore"\n', State.OK),
        ("freeze mem disk\n", 's "suspend"\n', State.WARNING),
        ("freeze mem disk\n", "", State.NOT_CHECKED),
    ],
)
def test_sleep_is_judged_by_what_logind_does(power: str, action: str, state: State) -> None:
    assert judged("sleep", power, action).state is state


@pytest.mark.parametrize(
    ("ufw", "firewalld", "ruleset", "state", "cure"),
    [
        ("ENABLED=yes\nLOGLEVEL=low\n", "", "", State.WARNING, "sudo ufw allow 7420:7421/tcp"),
        ("ENABLED=no\n", "", "", State.OK, ""),
        ("", "running\n", "", State.WARNING, "sudo firewall-cmd --add-port=7420-7421/tcp"),
        ("", "not running\n", "", State.OK, ""),
        ("", "", "chain input { type filter hook input priority 0; policy drop; }", State.WARNING, "sudo nft add rule"),
        ("", "", "", State.NOT_CHECKED, ""),
    ],
)
def test_firewalls_are_judged(ufw: str, firewalld: str, ruleset: str, state: State, cure: str) -> None:
    found = judged("firewall", ufw, firewalld, ruleset)
    assert found.state is state
    assert "".join(found.cures).startswith(cure)
    assert bool(found.cures) == bool(cure)
