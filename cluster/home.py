"""Home: the directory of this machine's state: `$MOE_CLUSTER_HOME`, or the platform's usual directory.

Knows the names and permissions of the files, not their contents.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cluster.errors import ClusterError
from mlx_moe.checkpoint import library

VARIABLE = "MOE_CLUSTER_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory of one node. Several nodes on one host have one each."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """Return the home that the environment names, or the platform's default. Creates nothing.

        Raises:
            ClusterError: the directory cannot exist.
        """
        named = os.environ.get(VARIABLE, "")
        directory = Path(named).expanduser() if named else platformdirs.user_data_path("moe-cluster")
        home = cls(directory.absolute())
        try:
            home.lock.stat()
        except (FileNotFoundError, NotADirectoryError):  # `create` makes it, or says why it cannot
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
        """The cluster's authority, on the node that created the cluster."""
        return self.path / "authority"

    @property
    def tokens(self) -> Path:
        """The join tokens of the authority."""
        return self.path / "tokens.json"

    @property
    def api_keys(self) -> Path:
        """The API keys of the gateway."""
        return self.path / "api_keys.json"

    @property
    def removed(self) -> Path:
        """The nodes that were removed from the cluster."""
        return self.path / "removed.json"

    @property
    def hardware(self) -> Path:
        """The measured hardware of this machine."""
        return self.path / "hardware.json"

    @property
    def options(self) -> Path:
        """The remembered options of `up`."""
        return self.path / "options.json"

    @property
    def daemon(self) -> Path:
        """Where the running daemon of this home is."""
        return self.path / "daemon.json"

    @property
    def ballot(self) -> Path:
        """Which nodes this node has allowed to serve a model."""
        return self.path / "ballot.json"

    @property
    def lock(self) -> Path:
        """The lock that the daemon holds while it runs."""
        return self.path / "daemon.lock"

    @property
    def models(self) -> Path:
        """Checkpoints in whole or in part that this node has downloaded: org--name/commit."""
        return self.path / "models"

    @property
    def outlines(self) -> Path:
        """Configurations, tokenizers and headers of models whose weights are read from other nodes, while they run."""
        return self.path / "outlines"

    @property
    def uses(self) -> Path:
        """When each model of this machine was last loaded."""
        return self.path / "uses.json"

    @property
    def logs(self) -> Path:
        """The log files of daemon and workers."""
        return self.path / "logs"

    @property
    def service(self) -> Path:
        """A service file that a person has to install as root."""
        return self.path / "service"

    @property
    def sessions(self) -> Path:
        """Saved chats, one file each."""
        return self.path / "sessions"

    @property
    def chat_history(self) -> Path:
        """Lines typed in the chat, for the up key and Ctrl-R."""
        return self.path / "chat_history"

    def folder_of(self, model: str) -> Path:
        """Return the folder of what is kept of a model: org--name, or the last part of a path."""
        match = library.REPO_ID.fullmatch(model)
        name = match[1].replace("/", "--") if match else re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).name)
        return self.models / (name or "model")

    def create(self) -> None:
        """Create the directories, readable only by their owner. Raises ClusterError if that is not possible."""
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
