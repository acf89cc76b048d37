"""Models: chooses between the cluster and this machine alone."""

from __future__ import annotations

from contextlib import suppress

from cli.backend import Models


def choose_models(
    local: bool, replace: bool = False, context_tokens: int | None = None, chunk: int | None = None
) -> Models:
    """Return the cluster's models if a node runs in this home and `local` is False, else this machine's.

    `replace` allows replacing the loaded model. `context_tokens` and `chunk`: None is the default. MLX is imported
    here to keep `--help` fast.
    """
    if not local:
        from cluster.home import Home

        home = Home.default()
        if home.daemon.exists():
            from cli.remote import ClusterModels
            from cluster.errors import NoClusterError

            with suppress(NoClusterError):  # the node was killed and left its file
                return ClusterModels.of(home, replace, context_tokens or 0, chunk or 0)
    from cli.local import LocalModels

    return LocalModels(context_tokens, chunk)
