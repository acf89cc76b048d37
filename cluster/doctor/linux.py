"""Linux: memory, the out-of-memory killer, sleep and firewalls, read from files and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cluster.doctor.check import Check, Command
from cluster.doctor.finding import Remark, State
from mlx_moe.units import bytes_text

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
VMSTAT = Path("/proc/vmstat")
POWER = Path("/sys/power/state")
IDLE_ACTION: Command = (
    *("busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1"),
    *("org.freedesktop.login1.Manager", "IdleAction"),
)
UFW = Path("/etc/ufw/ufw.conf")
FIREWALLD: Command = ("firewall-cmd", "--state")
NFT: Command = ("nft", "list", "ruleset")

LITTLE_SHARE = 0.1
MUCH_SWAP_BYTES = 1 << 30

_AWAKE = ("ignore", "lock", "")
"""What logind may do with an idle machine without putting it to sleep."""


def checks(port: int) -> tuple[Check, ...]:
    """Return the checks of a Linux machine whose node opens `port`."""
    return (
        Check("memory limit", (MEMINFO, CGROUP), memory, frozenset((CGROUP,))),
        Check("killed for memory", (VMSTAT,), killed),
        Check("sleep", (POWER, IDLE_ACTION), sleep, frozenset((POWER, IDLE_ACTION))),
        Check(
            "firewall",
            (UFW, FIREWALLD, NFT),
            lambda ufw, firewalld, ruleset: firewall(ufw, firewalld, ruleset, port),
            frozenset((UFW, FIREWALLD, NFT)),
        ),
    )


def memory(meminfo: str, cgroup: str) -> Iterator[Remark]:
    """Judge how much memory there is, and how much of it is free."""
    values = {name: int(kb) << 10 for name, kb in re.findall(r"^(\w+): +(\d+) kB$", meminfo, re.MULTILINE)}
    if "MemTotal" not in values:
        raise ValueError(meminfo)
    total, free = values["MemTotal"], values.get("MemAvailable", values.get("MemFree", 0))
    text = f"{bytes_text(free)} of {bytes_text(total)} are available"
    if free < LITTLE_SHARE * total:
        yield Remark(text, State.WARNING, "close other programs, or offer less: moe-cluster up --memory 8GB")
    else:
        yield Remark(text)
    if cgroup.strip().isdecimal() and int(cgroup) < total:
        yield Remark(f"a control group limits it to {bytes_text(int(cgroup))}", State.WARNING)
    swapped = values.get("SwapTotal", 0) - values.get("SwapFree", 0)
    if swapped > MUCH_SWAP_BYTES:
        yield Remark(f"{bytes_text(swapped)} are swapped out", State.WARNING, "close other programs")


def killed(vmstat: str) -> Iterator[Remark]:
    """Judge how often the kernel has killed a process for memory since the machine started."""
    found = re.search(r"^oom_kill (\d+)$", vmstat, re.MULTILINE)
    if found is None:
        raise ValueError("no oom_kill")
    count = int(found[1])
    if not count:
        yield Remark("the kernel has killed nothing since the start")
        return
    yield Remark(
        f"the kernel killed {count} process{'es' * (count > 1)} since the start",
        State.WARNING,
        "sudo dmesg | grep -i 'killed process'",
    )


def sleep(power: str, idle_action: str) -> Iterator[Remark]:
    """Judge whether the machine sleeps while nobody uses it."""
    action = re.search(r'^s "([\w-]*)"', idle_action)
    if not power.strip():
        yield Remark("this machine cannot sleep")
    elif action is None:
        yield Remark("logind does not say whether the machine sleeps when it is idle", State.NOT_CHECKED)
    elif action[1] in _AWAKE:
        yield Remark("logind lets it stay awake when it is idle; a desktop may not")
    else:
        yield Remark(
            f"logind does {action[1]} when it is idle",
            State.WARNING,
            "sudo systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target",
        )


def firewall(ufw: str, firewalld: str, ruleset: str, port: int) -> Iterator[Remark]:
    """Judge whether a firewall may keep other nodes away; most of its rules only root can read."""
    ports = f"{port}:{port + 1}/tcp"
    known = False
    if re.search(r"^ENABLED=yes", ufw, re.MULTILINE):
        known = True
        yield Remark("ufw is on", State.WARNING, f"sudo ufw allow {ports} && sudo ufw allow 5353/udp")
    if firewalld.strip() == "running":
        known = True
        cure = f"sudo firewall-cmd --add-port={port}-{port + 1}/tcp --add-service=mdns --permanent && sudo firewall-cmd"
        yield Remark("firewalld is on", State.WARNING, f"{cure} --reload")
    elif re.search(r"hook input .*policy drop", ruleset) and not known:
        known = True
        yield Remark(
            "nftables drops what is not allowed",
            State.WARNING,
            f"sudo nft add rule inet filter input tcp dport {port}-{port + 1} accept",
        )
    if not known and (ufw or firewalld or ruleset):
        yield Remark("none is on")
    elif not known:
        yield Remark(
            "no rules can be read: ufw and firewalld are not installed, and nft is missing or needs root",
            State.NOT_CHECKED,
        )
