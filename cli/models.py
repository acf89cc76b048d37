"""Models: chooses between the cluster and this machine alone."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.backend import Models
    from cli.options import LoadOptions


def choose_models(local: bool, options: LoadOptions) -> Models:
    """Return the cluster's models if a node runs in this home and `local` is False, else this machine's.

    MLX is imported here to keep `--help` fast.
    """
    if not local:
        from cluster.home import Home

        home = Home.default()
        if home.daemon.exists():
            from cli.remote import ClusterModels
            from cluster.errors import NoClusterError

            with suppress(NoClusterError):  # the node was killed and left its file
                return ClusterModels.of(home, options)
    from cli.local import LocalModels

    return LocalModels(options)
