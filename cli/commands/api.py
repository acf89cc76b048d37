"""Commands of the HTTP APIs: serve them, their keys, and how programs connect to them."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options as o
from cli.failures import reported
from cli.model_names import complete
from cli.usage import Section, within

commands = Section("API")


@commands.command(short_help="Serve the APIs of OpenAI, Anthropic and Ollama.")
def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Load this model first, as up MODEL does.", autocompletion=complete),
    ] = None,
    host: Annotated[str, typer.Option(metavar="H", help="Listen on this address; others than 127.0.0.1 need keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(metavar="P", callback=within(0, 65535), help="Listen on this port; 0: any free one.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Requests may call this machine NAME.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Web pages of this origin may use it, or * for all.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="Serve HTTPS with this certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="The key of that certificate.")] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Equal requests get equal answers: use cached prompts only where that holds."),
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop serving.")] = False,
    yes: o.Yes = False,
    debug: o.Debug = False,
) -> None:
    """Serve the HTTP APIs of OpenAI, Anthropic and Ollama on this machine, as long as its node runs.

    The node keeps the server: this command returns at once, and moe-cluster serve --stop ends it.
    """
    with reported(debug):
        from cli import serve as serve_command

        if stop:
            serve_command.stop()
        else:
            options = serve_command.options(host, port, allow_host, cors, tls_cert, tls_key, exact=exact)
            serve_command.serve(model, options, yes=yes)


@commands.command(short_help="Show how a program connects to the APIs.")
def connect(
    program: Annotated[
        str, typer.Argument(metavar="NAME", help="openai, claude-code, codex, open-webui, …; list shows all.")
    ] = "list",
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the APIs are; default: where this node serves them.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="The API key to write into the lines.")] = None,
    debug: o.Debug = False,
) -> None:
    """Print the lines to paste for a program, with this cluster's address and model."""
    with reported(debug):
        from cli.connect import connect as print_lines

        print_lines(program, url, key)


key = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)
commands.add_typer(key, name="key")


@key.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, such as anna-laptop.")],
    debug: o.Debug = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    with reported(debug):
        from cli.api_keys import create

        create(name)


@key.command("list")
def list_keys(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the keys by name."""
    with reported(debug):
        from cli.api_keys import show

        show(json)


@key.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in key list.")],
    debug: o.Debug = False,
) -> None:
    """Delete a key: it is refused from now on."""
    with reported(debug):
        from cli.api_keys import revoke

        revoke(name)
