"""Home: the directory where this machine's state lives, `$MOE_CLUSTER_HOME` or the platform's usual place.

Knows where things lie and who may read them, not what is in them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cluster.errors import ClusterError

VARIABLE = "MOE_CLUSTER_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory. Several nodes on one host have one each."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """Return the home that the environment names, or the platform's default. Creates nothing.

        Raises:
            ClusterError: no such directory can be.
        """
        named = os.environ.get(VARIABLE, "")
        directory = Path(named).expanduser() if named else platformdirs.user_data_path("moe-cluster")
        home = cls(directory.absolute())
        try:
            home.lock.stat()
        except (FileNotFoundError, NotADirectoryError):  # whoever needs it makes it, or says why that cannot be
            pass
        except OSError as exc:
            raise home._unusable(exc) from exc
        return home

    @property
    def identity(self) -> Path:
        """This node's key and certificates."""
        return self.path / "identity"

    @property
    def authority(self) -> Path:
        """The cluster's authority, on the node that began the cluster."""
        return self.path / "authority"

    @property
    def tokens(self) -> Path:
        """Join tokens that the authority honours."""
        return self.path / "tokens.json"

    @property
    def hardware(self) -> Path:
        """What this machine was measured to do."""
        return self.path / "hardware.json"

    @property
    def options(self) -> Path:
        """What `up` was given."""
        return self.path / "options.json"

    @property
    def daemon(self) -> Path:
        """Where the node daemon of this home listens, while it runs."""
        return self.path / "daemon.json"

    @property
    def lock(self) -> Path:
        """Held by the daemon for as long as it lives."""
        return self.path / "daemon.lock"

    @property
    def logs(self) -> Path:
        """What daemon and workers have to say."""
        return self.path / "logs"

    @property
    def sessions(self) -> Path:
        """Saved chats, one file each."""
        return self.path / "sessions"

    @property
    def chat_history(self) -> Path:
        """Lines typed in the chat, for the up key and Ctrl-R."""
        return self.path / "chat_history"

    def create(self) -> None:
        """Make the directories, readable by their owner alone. Raises ClusterError where that is not possible."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sessions.mkdir(mode=0o700, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _unusable(self, exc: OSError) -> ClusterError:
        return ClusterError(
            f"{self.path} cannot hold this node's state: {exc.strerror}; set {VARIABLE} to a directory that can"
        )
