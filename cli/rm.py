"""rm: deletes a model's copies from this machine."""

from __future__ import annotations

import shlex
from contextlib import suppress

from cli.asking import ask
from cli.visible import visible
from cluster.client import OwnNode
from cluster.errors import NoClusterError, OccupiedError
from cluster.home import Home
from cluster.uses import is_in_use
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.inventory import stored_models
from mlx_moe.checkpoint.removal import Removal, removal
from mlx_moe.errors import InvalidRequestError
from mlx_moe.units import bytes_text


def remove(model: str, yes: bool) -> None:
    """Delete a model, after a question unless `yes`.

    Raises:
        InvalidRequestError: it is not here, is the user's own directory, or nobody can be asked.
        OccupiedError: this machine's node holds it, or another process uses it.
        DeclinedError: the person said no.
    """
    home = Home.default()
    planned = removal(model, stored_models(home.models))
    _require_unused(planned, home)
    freed = bytes_text(planned.freed_bytes)
    if not yes:
        copies = "" if len(planned.copies) == 1 else f" ({len(planned.copies)} copies)"
        if not ask(f"Delete {planned.name}{copies} from this machine and free {freed}?", f"{planned.name} stays"):
            raise InvalidRequestError(f"{planned.name} would free {freed}; moe-cluster rm {model} --yes deletes it")
    planned.execute()
    print(f"{visible(planned.name)} is deleted; {freed} are free again")


def _require_unused(planned: Removal, home: Home) -> None:
    """Raise OccupiedError if a process of this machine uses the model, or its node is loading it."""
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        status = node.status()
        serving, holding = status.serving, status.own.holding
        loading = serving.model if serving and status.own.info.node_id in serving.node_ids else ""
        paths = {copy.path.resolve() for copy in planned.copies}
        for name in {loading, holding.model if holding else ""} - {""}:
            if paths & {path.resolve() for path in library.namesakes(name)}:
                raise OccupiedError(
                    f"{status.own.shown_name} holds {name}, which is {planned.name}: `moe-cluster unload` first"
                )
    for copy in planned.copies:
        if is_in_use(copy.path):
            raise OccupiedError(
                f"a process on this machine uses {planned.name}: end that first, or `moe-cluster unload`; "
                f"`lsof {shlex.quote(str(copy.path))}` shows it"
            )
