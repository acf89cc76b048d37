"""Commands of nodes: start and stop one, show the cluster, move and unload its model, join tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options as o
from cli.failures import reported
from cli.model_names import complete
from cli.usage import Section, within
from cli.words import WordyCommand

commands = Section("Nodes")


@commands.command(cls=WordyCommand, short_help="Make this machine a node of a cluster.")
def up(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Load this model on the cluster as soon as it fits.", autocompletion=complete
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="-|FILE|TOKEN",
            help="Join a cluster: token on stdin, in a file, or typed (other users of this machine can read it).",
        ),
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Forget the options of earlier up commands.")] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of this node; default: the host name.")] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="P", callback=within(0, 65534), help="Listen on ports P and P + 1; 0: any free ports."),
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="H", help="Listen on this address or host name only.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="48GB", help="Offer at most this much memory to models.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="Contact this node; for networks without multicast.")
    ] = None,
    rebalance: Annotated[
        bool | None,
        typer.Option(
            "--rebalance/--no-rebalance",
            help="Move a model that this node coordinates to a better placement when nobody uses it; default: yes.",
            show_default=False,
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Create a cluster even if this network has one.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="No certificates, no encryption.")] = False,
    plan: Annotated[
        str | None, typer.Option(metavar="FILE", help="Place the model by the output of plan --json.")
    ] = None,
    context: o.Context = None,
    users: Annotated[
        int | None, typer.Option(metavar="N", callback=within(1), help="Reserve memory for N requests of that context.")
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="Drafts: mtp, ngram, none or a small MODEL; default: the best that MODEL supports."
        ),
    ] = None,
    standby: o.Standby = False,
    chunk: o.Chunk = None,
    latency: o.Latency = None,
    bits: o.Bits = None,
    mode: o.Mode = None,
    keep: o.Keep = False,
    yes: o.Yes = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the HTTP APIs too, as moe-cluster serve does.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    silent: Annotated[bool, typer.Option("--silent", hidden=True)] = False,
    leashed: Annotated[bool, typer.Option("--leashed", hidden=True)] = False,
    debug: o.Debug = False,
) -> None:
    """Make this machine a node. The first node creates a cluster and prints how others join it.

    The given name, port, host, memory, peers and rebalancing are remembered for the next up.
    """
    with reported(debug):
        from cli import tokens
        from cli import up as up_command

        options = up_command.options(name, host, port, memory, peer, rebalance)
        token = tokens.read_token(join, or_environment=not new and not insecure)
        start = up_command.StartOptions(options, token, new, insecure, defaults)
        wanted = up_command.wanted(
            *(model, plan, users, draft, o.LoadOptions(context, chunk, True, yes, keep, bits, mode, latency)),
            standby=standby,
        )
        if detach:
            up_command.up_detached(start, wanted, serve=serve)
        else:
            up_command.up(start, wanted, serve=serve, silent=silent, leashed=leashed)


@commands.command()
def down(debug: o.Debug = False) -> None:
    """Stop this machine's node."""
    with reported(debug):
        from cli.status import down as end_node

        end_node()


@commands.command(short_help="Leave the cluster permanently.")
def leave(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: o.Debug = False,
) -> None:
    """Leave the cluster permanently: stop this machine's node and delete its identity.

    On a node that keeps the authority this also deletes it, with the join tokens. Chats stay.
    """
    with reported(debug):
        from cli.leave import leave as leave_cluster

        leave_cluster(yes)


@commands.command(short_help="Show the state of the cluster and its model.")
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second until Ctrl-C.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show the state of the cluster: nodes, what they hold, the model, the links."""
    with reported(debug):
        from cli.status import show_status

        show_status(json, watch)


nodes = typer.Typer(help="List the nodes; remove one.", invoke_without_command=True)
commands.add_typer(nodes, name="nodes")


@nodes.callback()
def list_nodes(context: typer.Context, json: o.Json = False, debug: o.Debug = False) -> None:
    """List the nodes; remove one."""
    if context.invoked_subcommand is None:
        with reported(debug):
            from cli.status import show_nodes

            show_nodes(json)


@nodes.command("remove")
def remove_node(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id shown by nodes.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: o.Debug = False,
) -> None:
    """Remove a node from the cluster for good: all others refuse its certificate from then on."""
    with reported(debug):
        from cli.leave import remove

        remove(name, yes)


@commands.command(short_help="Move the cluster's model to a better placement.")
def rebalance(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: o.Debug = False,
) -> None:
    """Move the cluster's model to the best placement on the nodes that are here, such as one that has come back.

    Running answers wait and continue. The cluster does this itself when nobody uses the model and it gains 20 %.
    """
    with reported(debug):
        from cli.rebalance import rebalance as move

        move(dry_run=dry_run, yes=yes)


@commands.command(short_help="Unload the cluster's model.")
def unload(debug: o.Debug = False) -> None:
    """Unload the cluster's model and free its memory."""
    with reported(debug):
        from cli.status import unload as unload_model

        unload_model()


token = typer.Typer(help="Join tokens: create, list, revoke.", no_args_is_help=True)
commands.add_typer(token, name="token")


@token.command("create")
def create_token(
    hours: Annotated[float, typer.Option(metavar="N", callback=within(0.01), help="Valid for N hours.")] = 24,
    uses: Annotated[int, typer.Option(metavar="N", callback=within(1), help="Valid for N machines.")] = 32,
    guest: Annotated[
        bool, typer.Option("--guest", help="For machines that must never keep the cluster's authority.")
    ] = False,
    debug: o.Debug = False,
) -> None:
    """Print a new join token.

    Of the machines that join, the first two keep a copy of the cluster's authority, so that the loss of the first node
    stops nothing; they can let others in. Give machines that you do not trust with that a guest's token.
    """
    with reported(debug):
        from cli import tokens

        tokens.create(hours, uses, guest)


@token.command("list")
def list_tokens(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the join tokens; their secrets are not stored."""
    with reported(debug):
        from cli import tokens

        tokens.show(json)


@token.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id shown by token list.")], debug: o.Debug = False
) -> None:
    """Revoke a token; nodes that joined with it stay."""
    with reported(debug):
        from cli import tokens

        tokens.revoke(token_id)
