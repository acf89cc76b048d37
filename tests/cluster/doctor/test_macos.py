"""The checks of a Mac, on outputs written after the commands' documentation: no Mac has run them yet."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor import macos
from cluster.doctor.check import Check
from cluster.doctor.finding import Finding, State

PYTHON = "/opt/homebrew/Cellar/python@3.12/3.12.4/Frameworks/Python.framework/Versions/3.12/Resources/Python.app"
PROGRAM = f"{PYTHON}/Contents/MacOS/Python"
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
CHECKS = {check.name: check for check in macos.checks(PROGRAM, NOW)}

SYSCTL = """hw.memsize: 68719476736
iogpu.wired_limit_mb: {limit}
kern.memorystatus_vm_pressure_level: {pressure}
vm.swapusage: total = {total}  used = {used}  free = 840.75M  (encrypted)
"""

PMSET = """System-wide power settings:
Currently in use:
 standby              0
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                {sleep}
 hibernatemode        0
 ttyskeepawake        1
 displaysleep         10 (display sleep prevented by Safari)
 tcpkeepalive         1
 autorestart          {autorestart}
 womp                 1
"""
AC = "Now drawing from 'AC Power'\n"
BATTERY = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=4653155)\t84%; discharging\n"

APPS = f"""Total number of apps = 3

1 :   {PYTHON}
             ({{rule}} incoming connections)

2 :   /usr/bin/ruby
             (Block incoming connections)

3 : /Applications/Some App.app
 \t ( Allow incoming connections )
"""
ON = "Firewall is enabled. (State = 1)\n"
OFF = "Firewall is disabled. (State = 0)\n"
NOT_ALL = "Firewall has block all state set to disabled.\n"
REPORTS = """Analytics_2026-11-25-235902.ips.ca.synced
JetsamEvent-2026-10-02-081500.ips
JetsamEvent-2026-11-21-230000.ips
JetsamEvent-2026-11-24-101112.ips
python3.12-2026-11-24-101113.ips
"""


def judged(name: str, *texts: str) -> Finding:
    return CHECKS[name].judged(*texts)


def sysctl(limit: int = 0, pressure: int = 1, used: str = "207.25M") -> str:
    return SYSCTL.format(limit=limit, pressure=pressure, total="2048.00M", used=used)


def test_the_default_memory_limit_of_a_mac_is_told() -> None:
    found = judged("memory limit", sysctl())
    assert found.state is State.OK
    assert found.found[0] == "the GPU may use 51.5 GB of 68.7 GB, macOS's default"
    assert not found.cures


def test_a_raised_memory_limit_is_told_and_too_high_a_one_is_a_problem() -> None:
    assert judged("memory limit", sysctl(57344)).found[0].startswith("the GPU may use 60.1 GB of 68.7 GB, set by")
    too_high = judged("memory limit", sysctl(65000))
    assert (too_high.state, too_high.cures) == (State.PROBLEM, ("sudo sysctl iogpu.wired_limit_mb=0",))


@pytest.mark.parametrize(("pressure", "state"), [(1, State.OK), (2, State.WARNING), (4, State.PROBLEM)])
def test_memory_pressure_is_judged(pressure: int, state: State) -> None:
    assert judged("memory limit", sysctl(pressure=pressure)).state is state


def test_much_swap_is_a_warning() -> None:
    found = judged("memory limit", sysctl(used="3.50G"))
    assert (found.state, found.found[-1]) == (State.WARNING, "3.8 GB are swapped out")


def test_a_mac_whose_sysctl_knows_no_gpu_limit_is_still_judged() -> None:
    assert judged("memory limit", "hw.memsize: 17179869184\n").found[0].startswith("the GPU may use 11.5 GB of 17.2 GB")


def test_recent_kills_are_counted() -> None:
    found = judged("killed for memory", REPORTS)
    assert found.state is State.WARNING
    assert found.found == ("jetsam killed processes 2 times in the last 7 days, last on 2026-11-24 at 10:11",)
    assert judged("killed for memory", "").state is State.OK


def test_a_mac_that_sleeps_is_told_how_to_stay_awake() -> None:
    found = judged("sleep", PMSET.format(sleep="10 (sleep prevented by caffeinate, powerd)", autorestart=0), AC)
    assert found.state is State.WARNING
    assert found.found == (
        "it sleeps after 10 min without use, prevented now by caffeinate, powerd",
        "it stays off after a power failure",
    )
    assert found.cures == ("sudo pmset -a sleep 0 autorestart 1",)


def test_a_mac_that_stays_awake_is_fine_but_not_on_battery() -> None:
    settings = PMSET.format(sleep="0", autorestart=1)
    assert judged("sleep", settings, "").state is State.OK
    assert judged("sleep", settings, AC).state is State.OK
    assert judged("sleep", settings, BATTERY).state is State.WARNING


@pytest.mark.parametrize(
    ("state", "block_all", "apps", "wanted", "cure"),
    [
        (OFF, "", "", State.OK, ""),
        (ON, "Firewall has block all state set to enabled.\n", "", State.PROBLEM, "--setblockall off"),
        (ON, NOT_ALL, APPS.format(rule="Allow"), State.OK, ""),
        (ON, NOT_ALL, APPS.format(rule="Block"), State.PROBLEM, f"--unblockapp {PYTHON}"),
        (ON, "Block all DISABLED! \n", "Total number of apps = 0\n", State.WARNING, f"--add {PROGRAM}"),
    ],
)
def test_the_firewall_is_judged_by_its_rule_for_this_program(
    state: str, block_all: str, apps: str, wanted: State, cure: str
) -> None:
    found = judged("firewall", state, block_all, apps)
    assert found.state is wanted, found
    assert cure in "".join(found.cures)
    assert bool(found.cures) == bool(cure)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_an_unknown_output_is_not_checked(check: Check) -> None:
    if check.name != "killed for memory":  # a list of files, of any names
        found = check.judged(*["command not known\n"] * len(check.sources))
        assert found.state is State.NOT_CHECKED
        assert "said something unknown" in found.found[0]


@given(st.sampled_from(list(CHECKS.values())), st.data())
def test_no_output_makes_a_check_fail(check: Check, data: st.DataObject) -> None:
    known = [SYSCTL, PMSET, AC, BATTERY, APPS, ON, OFF, REPORTS, "hw.memsize: 9\n", "JetsamEvent-2026-99-99-999999"]
    noise = st.one_of(st.sampled_from(known), st.text(max_size=40))
    assert check.judged(*(data.draw(noise) for _ in check.sources)).found
