"""serve: has this machine's node serve the HTTP APIs."""

from __future__ import annotations

from pathlib import Path

from cli.backend import lasting
from cli.failures import print_line
from cli.loading import load
from cluster.client import GatewayOptions, OwnNode, Wanted
from cluster.errors import NoClusterError
from cluster.home import Home
from mlx_moe.errors import InvalidRequestError


def options(
    host: str,
    port: int | None,
    allowed_hosts: list[str] | None,
    origins: list[str] | None,
    certificate: str | None,
    key: str | None,
    *,
    exact: bool,
) -> GatewayOptions:
    """Return the options of the gateway. Raises InvalidRequestError."""
    if (certificate is None) != (key is None):
        raise InvalidRequestError("--tls-cert and --tls-key belong together: give both, or none")
    for file in filter(None, (certificate, key)):
        if not Path(file).expanduser().is_file():
            raise InvalidRequestError(f"{file}: no such file")
    default = GatewayOptions()
    certificate, key = (str(Path(file).expanduser().absolute()) if file else "" for file in (certificate, key))
    return GatewayOptions(
        host,
        default.port if port is None else port,
        tuple(allowed_hosts or ()),
        tuple(origins or ()),
        certificate,
        key,
        exact,
    )


def serve(model: str | None, options: GatewayOptions, *, yes: bool) -> None:
    """Load a model, if one is named, and serve the APIs; print where."""
    with _own_node() as node:
        if model is not None:
            load(node, Wanted(lasting(model), replace=True, download=yes))
        print(node.serve(options))
        if options.needs_key:
            print_line("each request needs an API key: moe-cluster key create NAME makes one")
            if not options.certificate:
                print_line("keys and texts travel unencrypted: --tls-cert and --tls-key serve HTTPS")
        if node.status().ready is None:
            print_line("no model is loaded yet: moe-cluster up MODEL loads one")
        print_line("moe-cluster connect shows how programs use it; moe-cluster serve --stop ends it")


def stop() -> None:
    """End the APIs of this machine."""
    with _own_node() as node:
        url = node.stop_serving()
    print_line(f"{url} is not served any more" if url else "this machine does not serve the APIs")


def _own_node() -> OwnNode:
    try:
        return OwnNode.connect(Home.default())
    except NoClusterError as error:
        raise NoClusterError(f"{error}; moe-cluster up MODEL --serve does both") from error
