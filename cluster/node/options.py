"""Node options: the options of `up`, which a home remembers for the next `up`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.membership.address import is_address
from cluster.membership.node_info import MAX_NAME_BYTES, is_name
from cluster.trust import private_file
from mlx_moe.errors import InvalidRequestError

_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file with other JSON than `write` writes may raise."""

_UNITS = {"GB": 10**9, "GiB": 1 << 30, "MB": 10**6, "MiB": 1 << 20, "B": 1}


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The options of `up`; None for those that were not given. `rebalance`: by itself, at quiet moments.

    Raises:
        InvalidRequestError: a peer is not an address, or the name cannot be shown.
    """

    name: str | None = None
    host: str | None = None
    port: int | None = None
    memory_bytes: int | None = None
    peers: tuple[str, ...] | None = None
    rebalance: bool | None = None

    def __post_init__(self) -> None:
        if self.name and not is_name(self.name):
            raise InvalidRequestError(
                f"--name takes 1 to {MAX_NAME_BYTES} bytes of visible characters, got {self.name[:80]!r}"
            )
        for peer in self.peers or ():
            if not is_address(peer):
                raise InvalidRequestError(f"--peer takes HOST:PORT, got {peer[:80]!r}")

    @classmethod
    def read(cls, path: Path) -> NodeOptions:
        """Read the remembered options. Raises ClusterError for a file that cannot be read."""
        try:
            value = json.loads(path.read_text())
            return cls(**{**value, "peers": _tuple(value["peers"])})._checked()
        except FileNotFoundError:
            return cls()
        except (OSError, *_DAMAGED, InvalidRequestError) as exc:
            raise ClusterError(
                f"the options that `up` was given before cannot be read ({path}: {exc}): delete the file, or give all "
                "of them again with moe-cluster up --defaults"
            ) from exc

    def write(self, path: Path) -> None:
        """Write the options for the next `up`. Raises ClusterError."""
        private_file.write(path, json.dumps(dataclasses.asdict(self)).encode())

    def over(self, earlier: NodeOptions) -> NodeOptions:
        """Return these options; those that were not given are taken from `earlier`."""
        return replace(earlier, **self._given())

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        given = self._given()
        words = [word for name in ("name", "host", "port") if name in given for word in (f"--{name}", str(given[name]))]
        if self.memory_bytes is not None:
            unit = next(unit for unit, size in _UNITS.items() if self.memory_bytes % size == 0)
            words += ["--memory", f"{self.memory_bytes // _UNITS[unit]}{unit}"]
        if self.rebalance is not None:
            words.append("--rebalance" if self.rebalance else "--no-rebalance")
        return words + [word for peer in self.peers or () for word in ("--peer", peer)]

    def _given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _checked(self) -> NodeOptions:
        kinds = {"name": str, "host": str, "port": int, "memory_bytes": int, "peers": tuple, "rebalance": bool}
        for name, value in self._given().items():
            if not isinstance(value, kinds[name]):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
        return self


def _tuple(value: object) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)  # type: ignore[arg-type]
