"""Service: a node that the system starts when the machine starts, and again when it fails.

Pure: texts of service files and the commands that install them. launchd and systemd are two implementations.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STOP_S = 45
"""How long the system waits after SIGTERM: a node unloads its model and tells the others, which takes up to 30 s."""

RESTART_S = 15
"""How long the system waits before it starts a node again that failed."""

OPEN_FILES = 8192
"""A process that launchd starts may open 256 files; a node opens some for each other node and each weight file."""

KEPT_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "MOE_CLUSTER_MODELS")
"""Environment variables that a service keeps. Never tokens: every user of the machine can read a service file."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is run: a command with its environment, for a user. What it writes to standard error goes to `errors`."""

    command: tuple[str, ...]
    user: str
    environment: Mapping[str, str]
    directory: Path
    errors: Path


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the system says about the service. `detail` is for people; `pid` is 0 if it does not run."""

    is_installed: bool
    pid: int
    detail: str


class ServiceManager(Protocol):
    """The part of a system that runs services."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def path(self) -> Path:
        """Where it reads the service's file."""

    @property
    def needs_root(self) -> bool:
        """Whether only root may install a service."""

    def text(self, service: Service) -> str:
        """Return the service's file."""

    def install(self) -> Sequence[Sequence[str]]:
        """Return the commands that start the service, now and at each start of the machine, once its file is there."""

    def uninstall(self) -> Sequence[Sequence[str]]:
        """Return the commands that stop it and forget it, before its file is deleted."""

    def status(self) -> Sequence[str]:
        """Return the command that tells the service's status."""

    def parse_status(self, output: str) -> ServiceStatus:
        """Return the status in the output of that command, "" if it failed."""


def install_script(manager: ServiceManager, staged: Path) -> str:
    """Return the commands, one a line to paste, with which a person installs a staged file as root."""
    copy = ("sudo", "install", "-m", "644", str(staged), str(manager.path))
    return "\n".join(shlex.join(command) for command in (copy, *(("sudo", *each) for each in manager.install())))


def uninstall_script(manager: ServiceManager) -> str:
    """Return the commands, one a line to paste, with which a person uninstalls the service as root."""
    commands = (*manager.uninstall(), ("rm", str(manager.path)))
    return "\n".join(shlex.join(("sudo", *command)) for command in commands)


def matched(pattern: str, text: str) -> str:
    """Return what the pattern's group matches at the beginning of a line, "" if nothing does."""
    found = re.search(rf"^\s*{pattern}", text, re.MULTILINE)
    return found[1].strip() if found else ""
