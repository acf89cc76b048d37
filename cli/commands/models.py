"""Commands of models: download, list, delete, describe, place, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli import options as o
from cli.failures import reported
from cli.usage import Section, within
from cli.words import WordyCommand

commands = Section("Models")


@commands.command(cls=WordyCommand, short_help="Download a model.")
def pull(
    model: o.Model,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="A branch, a tag or a commit; default: main.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="To this node's disk, the whole model. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be downloaded.")] = False,
    yes: o.Yes = False,
    debug: o.Debug = False,
) -> None:
    """Download a model: into the Hugging Face cache, or on a cluster to each node its part.

    What is on the disks is kept, also after Ctrl-C. HF_TOKEN, HF_ENDPOINT and HF_HOME are followed.
    """
    with reported(debug):
        from cli.pull import pull as pull_model

        pull_model(model, revision, node or [], dry_run=dry_run, yes=yes)


@commands.command(short_help="List the models on the disks of the nodes.")
def ls(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the models on the disks of the nodes, or of this machine if no node runs here: whole, in part or damaged."""
    with reported(debug):
        from cli.ls import show_models

        show_models(json)


@commands.command(cls=WordyCommand, short_help="Delete a model from this machine.")
def rm(
    model: o.StoredModel,
    yes: o.Yes = False,
    debug: o.Debug = False,
) -> None:
    """Delete a model's copies from this machine: from the Hugging Face cache, and parts that were kept.

    Directories of your own are never deleted.
    """
    with reported(debug):
        from cli.rm import remove

        remove(model, yes)


@commands.command(cls=WordyCommand, short_help="Describe a model.")
def show(model: o.Model, json: o.Json = False, debug: o.Debug = False) -> None:
    """Describe a model: family, parameters, bytes, layers, experts, context."""
    with reported(debug):
        from cli.show import show as show_model

        show_model(model, json)


@commands.command(cls=WordyCommand, short_help="Show how a model would be placed, and its speed.")
def plan(
    model: o.PlannedModel,
    nodes: Annotated[
        str | None, typer.Option(metavar="8xM4-Pro-64GB", help="Plan for these Macs instead of this cluster.")
    ] = None,
    context: o.Context = None,
    users: Annotated[
        int, typer.Option(metavar="N", callback=within(1), help="Reserve memory for N requests of that context.")
    ] = 1,
    many: Annotated[bool, typer.Option("--many", help="Optimize for a full pipeline; default: for N users.")] = False,
    bits: Annotated[
        int | None,
        typer.Option(metavar="N", callback=within(2, 8), help="Plan as if the model were quantized to N bits."),
    ] = None,
    chunk: o.Chunk = None,
    latency: o.Latency = None,
    standby: o.Standby = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show which node would hold which part of a model, and the expected speed."""
    with reported(debug):
        from cli.plan import plan as print_plan

        objective: Literal["many_users"] | None = "many_users" if many else None
        cut = o.LoadOptions(chunk=chunk, latency_s=latency)
        print_plan(model, nodes, json, context, users, bits, objective, cut=cut, standby=standby)


@commands.command(cls=WordyCommand, short_help="Quantize a model, into a new directory.")
def convert(
    model: o.Model,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Write here.", show_default=False)],
    bits: Annotated[
        int | None, typer.Option(metavar="N", callback=within(2, 8), help="Bits of a weight; default: 4.")
    ] = None,
    mode: Annotated[str, typer.Option(metavar="MODE", help="affine, mxfp4, nvfp4 or mxfp8.")] = "affine",
    group_size: Annotated[
        int | None, typer.Option(metavar="N", help="Weights that share a scale; default: 64, or the mode's own.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="uniform; or mixed: routed experts --bits, all else 6 bits.")
    ] = "uniform",
    keep_mtp: Annotated[
        bool, typer.Option("--keep-mtp/--no-mtp", help="Keep the layer for multi-token prediction, which drafts.")
    ] = True,
    debug: o.Debug = False,
) -> None:
    """Quantize a model, into a new directory that mlx-lm loads too. After an interruption, the same command goes on.

    It runs on this machine. On a cluster, up MODEL --bits N --keep has each node convert the part that it will hold.
    """
    with reported(debug):
        from cli import convert as convert_command

        form = convert_command.Form(bits, mode, group_size, recipe)
        convert_command.convert(model, directory, form, keep_mtp=keep_mtp)
