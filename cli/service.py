"""service: has the system start this machine's node, and tells whether it does."""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from cli.backend import lasting
from cli.exit_codes import ExitCode
from cli.failures import print_line
from cluster.client import is_running
from cluster.errors import ClusterError, NoClusterError
from cluster.home import VARIABLE, Home
from cluster.node.launchd import Launchd
from cluster.node.service import (
    KEPT_VARIABLES,
    Service,
    ServiceManager,
    ServiceStatus,
    install_script,
    uninstall_script,
)
from cluster.node.systemd import Systemd
from cluster.node.tokens import is_member
from mlx_moe.errors import InvalidRequestError

COMMAND_S = 60.0

_ONCE = {
    "join": "a token is valid for a while only: join first, with moe-cluster up --join -, then install the service",
    "new": "each start would try to create a cluster: create it first, with moe-cluster up --new",
    "detach": "the system runs it in the background already",
    "defaults": "it would forget the options at each start",
}
"""Options of `up` that a service cannot have, and why."""


def install(arguments: Sequence[str], parsed: Mapping[str, Any], *, system: bool, print_only: bool) -> None:
    """Install the service that runs `up` with these arguments, or print its file.

    Raises:
        InvalidRequestError: an argument makes no sense for each start.
        ClusterError: a node runs already, this machine is in no cluster yet, or the system refuses the service.
        typer.Exit: the commands that only root can run were printed.
    """
    home, manager = Home.default(), _manager(system)
    for name, reason in _ONCE.items():
        if parsed.get(name):
            raise InvalidRequestError(f"--{name} is not for a service: {reason}")
    text = manager.text(_service(home, arguments, parsed))
    if print_only:
        print(text, end="")
        return
    if is_running(home):
        raise ClusterError("a node runs on this machine: moe-cluster down, then install the service")
    if not is_member(home) and not parsed.get("insecure"):
        raise NoClusterError(
            "this machine is in no cluster yet: moe-cluster up creates one, moe-cluster up --join - joins one; then "
            "install the service"
        )
    home.create()
    if manager.needs_root and os.geteuid() != 0:
        home.service.mkdir(exist_ok=True)
        staged = home.service / manager.path.name
        staged.write_text(text)
        _paste(f"only root may install a service of {manager.name}; paste this:", install_script(manager, staged))
    _write(manager.path, text)
    for command in manager.install():
        _run(command)
    print(f"the node starts with this machine from now on, and has been started ({manager.path})")


def uninstall(*, system: bool) -> None:
    """Stop the service and delete its file. Raises NoClusterError if there is none, ClusterError."""
    manager = _manager(system)
    if not manager.path.exists():
        raise NoClusterError(f"there is no service: {manager.path} does not exist")
    if manager.needs_root and os.geteuid() != 0:
        _paste(f"only root may uninstall a service of {manager.name}; paste this:", uninstall_script(manager))
    for command in manager.uninstall():
        _run(command)
    manager.path.unlink()
    print(f"the node does not start with this machine any more ({manager.path} is deleted)")


def status(*, system: bool) -> None:
    """Print whether the service is installed and runs. Raises NoClusterError if it is not installed."""
    manager = _manager(system)
    told = service_status(manager)
    if not manager.path.exists() and not told.is_installed:
        raise NoClusterError("no service is installed: moe-cluster service install")
    print(f"{manager.path}")
    print(f"{manager.name}: {told.detail}")
    print(f"it runs as process {told.pid}" if told.pid else "it does not run: moe-cluster logs may say why")


def service_status(manager: ServiceManager) -> ServiceStatus:
    """Return the service's status."""
    output = ""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(manager.status(), capture_output=True, text=True, timeout=COMMAND_S, check=False)
        output = done.stdout
    return manager.parse_status(output)


def _manager(system: bool) -> ServiceManager:
    if os.geteuid() == 0 and "SUDO_USER" in os.environ:
        raise InvalidRequestError(
            "type it without sudo, or the node would run as root; where root is needed, the commands are printed"
        )
    if sys.platform == "darwin":
        return Launchd()
    if system or os.geteuid() == 0:
        return Systemd(is_system=True)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Systemd(is_system=False, user=getpass.getuser(), directory=config / "systemd" / "user")


def _service(home: Home, arguments: Sequence[str], parsed: Mapping[str, Any]) -> Service:
    script = Path(sys.executable).with_name("moe-cluster")
    program = (str(script),) if script.exists() else (sys.executable, "-P", "-m", "cli")
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if os.environ.get(name)}
    return Service(
        command=(*program, "up", "--silent", *_anywhere(arguments, parsed)),
        user=getpass.getuser(),
        environment={"HOME": str(Path.home()), VARIABLE: str(home.path), **kept},
        directory=home.path,
        errors=home.logs / "service.log",
    )


def _anywhere(arguments: Sequence[str], parsed: Mapping[str, Any]) -> list[str]:
    """Return the arguments with absolute paths, for a process that starts in another directory."""
    absolute = {parsed["model"]: lasting(parsed["model"])} if parsed.get("model") else {}
    if parsed.get("plan"):
        absolute[parsed["plan"]] = str(Path(parsed["plan"]).absolute())
    return [absolute.get(word, word) for word in arguments]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ClusterError(f"{path} cannot be written: {error.strerror}") from error


def _run(command: Sequence[str]) -> None:
    """Run one command of the system. Raises ClusterError with what it said."""
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip() or f"code {error.returncode}"
        raise ClusterError(f"`{shlex.join(command)}` failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"`{shlex.join(command)}` failed: {error}") from error


def _paste(reason: str, script: str) -> None:
    """Print commands, unwrapped so that they can be pasted. Raises typer.Exit."""
    print_line(reason)
    print(script)
    raise typer.Exit(ExitCode.CLUSTER)
