"""Software: the versions with which this process runs."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping

PACKAGES = ("moe-cluster", "mlx", "grpcio", "protobuf", "cryptography", "zeroconf")


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python, the system and the packages that nodes depend on; nothing is imported."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {_system_version()}"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _system_version() -> str:
    return platform.mac_ver()[0] or platform.release()
