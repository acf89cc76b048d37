"""macOS: memory for the GPU, jetsam, sleep and the firewall, read from the outputs of the system's commands.

No Mac has run this yet: the tests use outputs written after the commands' documentation.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePath

from cluster.doctor.check import Check, Command
from cluster.doctor.finding import Remark, State
from cluster.placement.chips import gpu_memory_bytes
from mlx_moe.units import bytes_text

SYSCTL: Command = (
    *("sysctl", "hw.memsize", "iogpu.wired_limit_mb", "kern.memorystatus_vm_pressure_level", "vm.swapusage"),
)
REPORTS: Command = ("ls", "/Library/Logs/DiagnosticReports")
SETTINGS: Command = ("pmset", "-g")
POWER: Command = ("pmset", "-g", "batt")
_FILTER = "/usr/libexec/ApplicationFirewall/socketfilterfw"
GLOBAL: Command = (_FILTER, "--getglobalstate")
BLOCK_ALL: Command = (_FILTER, "--getblockall")
APPS: Command = (_FILTER, "--listapps")

RECENT = timedelta(days=7)
MUCH_SWAP_BYTES = 1 << 30
LEFT_TO_MACOS = 1 / 16
"""Share of the memory that macOS needs at least for itself beside the GPU's."""

_PRESSURE = {1: "no memory pressure", 2: "memory pressure", 4: "critical memory pressure"}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def checks(program: str, now: datetime) -> tuple[Check, ...]:
    """Return the checks of a Mac. `program` is the executable that opens ports."""
    return (
        Check("memory limit", (SYSCTL,), memory),
        Check("killed for memory", (REPORTS,), lambda reports: killed(reports, now)),
        Check("sleep", (SETTINGS, POWER), sleep, frozenset((POWER,))),
        Check(
            "firewall",
            (GLOBAL, BLOCK_ALL, APPS),
            lambda state, block_all, apps: firewall(state, block_all, apps, program),
            frozenset((BLOCK_ALL, APPS)),
        ),
    )


def memory(sysctl: str) -> Iterator[Remark]:
    """Judge how much memory the GPU may use, and how much is in use."""
    values = dict(re.findall(r"^([\w.]+): (.*)$", sysctl, re.MULTILINE))
    if "hw.memsize" not in values:
        raise ValueError(sysctl)
    total, limit = int(values["hw.memsize"]), int(values.get("iogpu.wired_limit_mb", 0)) << 20
    whose = "set by iogpu.wired_limit_mb" if limit else "macOS's default"
    allowed = f"the GPU may use {bytes_text(limit or gpu_memory_bytes(total))} of {bytes_text(total)}, {whose}"
    if limit > total * (1 - LEFT_TO_MACOS):
        yield Remark(f"{allowed}: that leaves macOS too little", State.PROBLEM, "sudo sysctl iogpu.wired_limit_mb=0")
    else:
        yield Remark(allowed)
    level = int(values.get("kern.memorystatus_vm_pressure_level", 1))
    states = {1: State.OK, 2: State.WARNING}
    yield Remark(
        _PRESSURE.get(level, f"memory pressure {level}"),
        states.get(level, State.PROBLEM),
        "" if level == 1 else "close other programs, or offer less: moe-cluster up --memory 32GB",
    )
    swap = re.search(r"used = ([\d.]+)([KMG])", values.get("vm.swapusage", ""))
    used = int(float(swap[1]) * _UNITS[swap[2]]) if swap else 0
    if used > MUCH_SWAP_BYTES:
        yield Remark(f"{bytes_text(used)} are swapped out", State.WARNING, "close other programs, or restart the Mac")


def killed(reports: str, now: datetime) -> Iterator[Remark]:
    """Judge how often jetsam has killed processes, by the names of its reports."""
    times = [
        datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[misc,arg-type]
        for parts in re.findall(r"JetsamEvent-(\d{4})-(\d\d)-(\d\d)-(\d\d)(\d\d)(\d\d)", reports)
    ]
    recent = sorted(time for time in times if now - time < RECENT)
    if not recent:
        yield Remark(f"jetsam has killed nothing in the last {RECENT.days} days")
        return
    yield Remark(
        f"jetsam killed processes {len(recent)} time{'s' * (len(recent) > 1)} in the last {RECENT.days} days, last on "
        f"{recent[-1]:%Y-%m-%d at %H:%M}",
        State.WARNING,
        "offer less memory to models: moe-cluster up --memory 32GB",
    )


def sleep(settings: str, power: str) -> Iterator[Remark]:
    """Judge whether the Mac sleeps while nobody uses it, and starts again after a power failure."""
    values = dict(re.findall(r"^ ?(\w+) +(\d+)", settings, re.MULTILINE))
    if "sleep" not in values:
        raise ValueError(settings)
    minutes, restarts = int(values["sleep"]), values.get("autorestart")
    by = re.search(r"sleep +\d+ +\(sleep prevented by ([^)]+)\)", settings)
    prevented = f", prevented now by {by[1]}" if by else ""
    cure = "sudo pmset -a sleep 0 autorestart 1"
    if minutes:
        yield Remark(f"it sleeps after {minutes} min without use{prevented}", State.WARNING, cure)
    else:
        yield Remark("it does not sleep by itself")
    if restarts == "0":
        yield Remark("it stays off after a power failure", State.WARNING, cure)
    elif restarts == "1":
        yield Remark("it starts again after a power failure")
    if "'Battery Power'" in power:
        yield Remark("it runs on battery, where macOS slows it down and may sleep", State.WARNING, "plug it in")


def firewall(state: str, block_all: str, apps: str, program: str) -> Iterator[Remark]:
    """Judge whether others can connect to `program`, by the application firewall."""
    enabled = re.search(r"State = (\d)", state)
    if enabled is None:
        raise ValueError(state)
    if enabled[1] == "0":
        yield Remark("it is off")
        return
    if re.search(r"enabled|state = 1", block_all, re.IGNORECASE) and "disabled" not in block_all.lower():
        yield Remark(
            "it blocks all incoming connections: no node can reach this one",
            State.PROBLEM,
            f"sudo {_FILTER} --setblockall off",
        )
        return
    app = next((path for path in _rules(apps) if _covers(path, program)), None)
    quoted = shlex.quote(app or program)
    if app is None:
        yield Remark(
            f"it is on, and asks on the screen when {PurePath(program).name} first opens a port",
            State.WARNING,
            f"sudo {_FILTER} --add {quoted} && sudo {_FILTER} --unblockapp {quoted}",
        )
    elif _rules(apps)[app]:
        yield Remark(f"it is on, and lets others connect to {PurePath(app).name}")
    else:
        yield Remark(
            f"it is on, and blocks {PurePath(app).name}: no node can reach this one",
            State.PROBLEM,
            f"sudo {_FILTER} --unblockapp {quoted}",
        )


def _rules(apps: str) -> dict[str, bool]:
    """Return whether each app in the list may be connected to."""
    found = re.findall(r"^\s*\d+ *: +(/.+?) *\n\s*\( *(Allow|Block) incoming connections *\)", apps, re.MULTILINE)
    return {path: rule == "Allow" for path, rule in found}


def _covers(app: str, program: str) -> bool:
    return PurePath(program).is_relative_to(app)
