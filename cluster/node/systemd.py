"""systemd: a node as a unit of Linux, of the user or of the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.node.service import OPEN_FILES, RESTART_S, STOP_S, Service, ServiceStatus, matched

UNIT = "moe-cluster.service"


@dataclass(frozen=True, slots=True)
class Systemd:
    """See ServiceManager. A unit of the user needs no root, and `loginctl enable-linger` to run without a login."""

    is_system: bool
    user: str = ""
    directory: Path = Path("/etc/systemd/system")
    name: str = "systemd"

    @property
    def needs_root(self) -> bool:
        """See ServiceManager."""
        return self.is_system

    @property
    def path(self) -> Path:
        """See ServiceManager."""
        return self.directory / UNIT

    def text(self, service: Service) -> str:
        """See ServiceManager."""
        network = ("Wants=network-online.target", "After=network-online.target") if self.is_system else ()
        lines = [
            "[Unit]",
            "Description=moe-cluster node",
            "Documentation=man:systemd.service(5)",
            *network,
            "StartLimitIntervalSec=0",  # never give up: what is missing, such as a disk or a network, may come
            "",
            "[Service]",
            f"ExecStart={' '.join(map(quoted, service.command))}",
            *([f"User={service.user}"] if self.is_system else []),
            *(f"Environment={quoted(f'{name}={value}')}" for name, value in service.environment.items()),
            f"WorkingDirectory={escaped(str(service.directory))}",
            "Restart=on-failure",
            f"RestartSec={RESTART_S}",
            f"TimeoutStopSec={STOP_S}",
            "KillMode=mixed",  # SIGTERM goes to the daemon, which ends its worker itself
            f"LimitNOFILE={OPEN_FILES}",
            "NoNewPrivileges=yes",
            "",
            "[Install]",
            f"WantedBy={'multi-user.target' if self.is_system else 'default.target'}",
            "",
        ]
        return "\n".join(lines)

    def install(self) -> Sequence[Sequence[str]]:
        """See ServiceManager."""
        linger = () if self.is_system else (("loginctl", "enable-linger", self.user),)
        return (self._systemctl("daemon-reload"), self._systemctl("enable", "--now", UNIT), *linger)

    def uninstall(self) -> Sequence[Sequence[str]]:
        """See ServiceManager."""
        return (self._systemctl("disable", "--now", UNIT),)

    def status(self) -> Sequence[str]:
        """See ServiceManager."""
        return self._systemctl(
            "show", UNIT, "--property=LoadState,ActiveState,SubState,MainPID,NRestarts,UnitFileState"
        )

    def parse_status(self, output: str) -> ServiceStatus:
        """See ServiceManager."""
        if matched(r"LoadState=(.+)", output) != "loaded":
            return ServiceStatus(False, 0, "systemd does not know it")
        state = f"{matched('ActiveState=(.+)', output)} ({matched('SubState=(.+)', output)})"
        begins = matched("UnitFileState=(.+)", output)
        detail = f"{state}, {begins}, restarted {matched('NRestarts=(.+)', output) or 0} times"
        return ServiceStatus(True, int(matched(r"MainPID=(\d+)", output) or 0), detail)

    def _systemctl(self, *words: str) -> tuple[str, ...]:
        return ("systemctl", *(() if self.is_system else ("--user",)), *words)


def escaped(text: str) -> str:
    """Return a text in which systemd replaces no specifier, such as %h."""
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """Return a word of a command line or an assignment in a unit, as systemd.syntax(7) and systemd.service(5) say."""
    special = {"\\": "\\\\", '"': '\\"', "$": "$$", "\n": "\\n", "\t": "\\t"}
    text = "".join(special.get(character, character) for character in escaped(word))
    return f'"{text}"' if text != word or any(character in " ;'" for character in text) or not text else text
