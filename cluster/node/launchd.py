"""launchd: a node as a LaunchDaemon of macOS, which runs from the start of the Mac on, before anybody logs in.

Agents of a user would start only when that user logs in, and macOS would ask them for the local network.
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.node.service import OPEN_FILES, RESTART_S, STOP_S, Service, ServiceStatus, matched

LABEL = "org.moe-cluster.node"


@dataclass(frozen=True, slots=True)
class Launchd:
    """See ServiceManager. No Mac has run this yet: it follows launchd.plist(5) and launchctl(1)."""

    directory: Path = Path("/Library/LaunchDaemons")
    name: str = "launchd"
    needs_root: bool = True

    @property
    def path(self) -> Path:
        """See ServiceManager."""
        return self.directory / f"{LABEL}.plist"

    def text(self, service: Service) -> str:
        """See ServiceManager."""
        return plistlib.dumps(
            {
                "Label": LABEL,
                "ProgramArguments": list(service.command),
                "UserName": service.user,
                "EnvironmentVariables": dict(service.environment),
                "WorkingDirectory": str(service.directory),
                "StandardErrorPath": str(service.errors),
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},  # `moe-cluster down` ends it for good
                "ThrottleInterval": RESTART_S,
                "ExitTimeOut": STOP_S,
                "ProcessType": "Interactive",  # else macOS slows it down in favour of apps
                "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
            },
            sort_keys=False,
        ).decode()

    def install(self) -> Sequence[Sequence[str]]:
        """See ServiceManager."""
        return (("launchctl", "bootstrap", "system", str(self.path)),)

    def uninstall(self) -> Sequence[Sequence[str]]:
        """See ServiceManager."""
        return (("launchctl", "bootout", f"system/{LABEL}"),)

    def status(self) -> Sequence[str]:
        """See ServiceManager."""
        return ("launchctl", "print", f"system/{LABEL}")

    def parse_status(self, output: str) -> ServiceStatus:
        """See ServiceManager."""
        state = matched(r"state = (.+)", output)
        if not state:
            return ServiceStatus(False, 0, "launchd does not know it")
        code = matched(r"last exit code = (.+)", output)
        runs = matched(r"runs = (\d+)", output)
        detail = ", ".join(
            part
            for part in (state, f"started {runs} times" * bool(runs), f"last exit code {code}" * bool(code))
            if part
        )
        return ServiceStatus(True, int(matched(r"pid = (\d+)", output) or 0), detail)
