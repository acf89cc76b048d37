"""Models: where backends come from, the cluster where a node runs on this machine, else this machine alone."""

from __future__ import annotations

from contextlib import suppress

from cli.backend import Models


def choose_models(
    local: bool, replace: bool = False, context_tokens: int | None = None, chunk: int | None = None
) -> Models:
    """Return the cluster's models where a node runs in this home and `local` does not forbid it, else this machine's.

    `replace` lets the cluster load a model in place of another; `context_tokens` is what requests have room for, None:
    as the model and memory allow; `chunk` is the length of every prompt's chunks, None: as is best. What computes is
    imported here, so that `--help` does without.
    """
    if not local:
        from cluster.home import Home

        home = Home.default()
        if home.daemon.exists():
            from cli.remote import ClusterModels
            from cluster.errors import NoClusterError

            with suppress(NoClusterError):  # it was killed and could not say goodbye
                return ClusterModels.of(home, replace, context_tokens or 0, chunk or 0)
    from cli.local import LocalModels

    return LocalModels(context_tokens, chunk)
