"""moe-cluster: the commands and their options. Each command imports its heavy modules itself."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli import options as o
from cli.bench.commands import bench
from cli.exit_codes import ExitCode
from cli.failures import error_line, reported, silence_stdout
from cli.model_names import complete
from cli.models import choose_models
from cli.usage import Commands, within
from cli.words import WordyCommand

app = typer.Typer(
    name="moe-cluster",
    cls=Commands,
    help="Run Mixture-of-Experts models on Macs, one alone or several together.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_models = choose_models


def main() -> None:
    """Run the command line; the console's entry point."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if os.environ.get("COLUMNS") == "0":  # 0: the width is unknown
        del os.environ["COLUMNS"]
    try:
        try:
            app(prog_name="moe-cluster")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        sys.exit(ExitCode.BROKEN_PIPE)
    except OSError as error:  # from output outside a command: help, or the last flush
        silence_stdout()
        print(error_line(error), file=sys.stderr)
        sys.exit(ExitCode.INTERNAL)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"moe-cluster {version('moe-cluster')}")
        except PackageNotFoundError:
            print("moe-cluster (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Try it on this machine: nodes, an answer.")
def demo(
    nodes: Annotated[int, typer.Option(metavar="N", callback=within(1, 7), help="Number of nodes.")] = 3,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this, then exit; default: a chat follows.")
    ] = None,
    debug: o.Debug = False,
) -> None:
    """Try it on this machine: start nodes, load the built-in model on them, answer a prompt."""
    with reported(debug):
        from cli.demo import demo as show_demo

        show_demo(nodes, prompt)


@app.command(cls=WordyCommand, short_help="Make this machine a node of a cluster.")
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
    chunk: o.Chunk = None,
    bits: o.Bits = None,
    mode: o.Mode = None,
    keep: o.Keep = False,
    yes: o.Yes = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    silent: Annotated[bool, typer.Option("--silent", hidden=True)] = False,
    leashed: Annotated[bool, typer.Option("--leashed", hidden=True)] = False,
    debug: o.Debug = False,
) -> None:
    """Make this machine a node. The first node creates a cluster and prints how others join it.

    The given name, port, host, memory and peers are remembered for the next up.
    """
    with reported(debug):
        from cli import tokens
        from cli import up as up_command

        options = up_command.options(name, host, port, memory, peer)
        token = tokens.read_token(join, or_environment=not new and not insecure)
        start = up_command.StartOptions(options, token, new, insecure, defaults)
        wanted = up_command.wanted(
            model, plan, users, draft, o.LoadOptions(context, chunk, True, yes, keep, bits, mode)
        )
        if detach:
            up_command.up_detached(start, wanted)
        else:
            up_command.up(start, wanted, silent=silent, leashed=leashed)


@app.command()
def down(debug: o.Debug = False) -> None:
    """Stop this machine's node."""
    with reported(debug):
        from cli.status import down as end_node

        end_node()


@app.command(short_help="Leave the cluster permanently.")
def leave(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: o.Debug = False,
) -> None:
    """Leave the cluster permanently: stop this machine's node and delete its identity.

    On the first node this also deletes the authority and the join tokens. Chats stay.
    """
    with reported(debug):
        from cli.leave import leave as leave_cluster

        leave_cluster(yes)


@app.command(short_help="Show the state of the cluster and its model.")
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second until Ctrl-C.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show the state of the cluster: nodes, what they hold, the model, the links."""
    with reported(debug):
        from cli.status import show_status

        show_status(json, watch)


@app.command()
def nodes(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the nodes."""
    with reported(debug):
        from cli.status import show_nodes

        show_nodes(json)


@app.command(short_help="Unload the cluster's model.")
def unload(debug: o.Debug = False) -> None:
    """Unload the cluster's model and free its memory."""
    with reported(debug):
        from cli.status import unload as unload_model

        unload_model()


token = typer.Typer(help="Join tokens: create, list, revoke.", no_args_is_help=True)
app.add_typer(token, name="token")


@token.command("create")
def create_token(
    hours: Annotated[float, typer.Option(metavar="N", callback=within(0.01), help="Valid for N hours.")] = 24,
    uses: Annotated[int, typer.Option(metavar="N", callback=within(1), help="Valid for N machines.")] = 32,
    debug: o.Debug = False,
) -> None:
    """Print a new join token."""
    with reported(debug):
        from cli import tokens

        tokens.create(hours, uses)


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


@app.command(cls=WordyCommand)
def run(
    model: o.Model,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help='The prompt; "-" or none: read stdin.')] = None,
    local: o.Local = False,
    replace: o.Replace = False,
    json: o.Json = False,
    raw: Annotated[bool, typer.Option("--raw", help="Send the prompt without the chat template.")] = False,
    input_ids: Annotated[str | None, typer.Option(metavar="1,2,3", help="Token ids instead of a prompt.")] = None,
    system: o.System = None,
    context: o.Context = None,
    max_tokens: o.MaxTokens = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    repetition_penalty: o.RepetitionPenalty = None,
    presence_penalty: o.PresencePenalty = None,
    frequency_penalty: o.FrequencyPenalty = None,
    seed: o.Seed = None,
    stop: o.Stop = None,
    ignore_eos: o.IgnoreEos = False,
    no_loop_detection: o.NoLoopDetection = False,
    chunk: o.Chunk = None,
    bits: o.Bits = None,
    mode: o.Mode = None,
    keep: o.Keep = False,
    yes: o.Yes = False,
    debug: o.Debug = False,
) -> None:
    """Answer one prompt on stdout."""
    with reported(debug):
        from cli import run as run_command

        answer_options = o.answer_options(
            stop=stop,
            ignore_eos=ignore_eos,
            no_loop_detection=no_loop_detection,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
        )
        asked = run_command.read_prompt(prompt, input_ids, raw, system)
        code = run_command.run(
            _models(local, o.LoadOptions(context, chunk, replace, yes, keep, bits, mode)),
            model,
            asked,
            answer_options,
            json,
        )
        raise typer.Exit(code)


@app.command(cls=WordyCommand)
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help='As for run; default: the model of the last chat, or "demo".',
            autocompletion=complete,
        ),
    ] = None,
    local: o.Local = False,
    replace: o.Replace = False,
    continue_: Annotated[bool, typer.Option("--continue", "-c", help="Continue the last chat.")] = False,
    system: o.System = None,
    context: o.Context = None,
    max_tokens: o.MaxTokens = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    repetition_penalty: o.RepetitionPenalty = None,
    presence_penalty: o.PresencePenalty = None,
    frequency_penalty: o.FrequencyPenalty = None,
    seed: o.Seed = None,
    stop: o.Stop = None,
    no_loop_detection: o.NoLoopDetection = False,
    chunk: o.Chunk = None,
    bits: o.Bits = None,
    mode: o.Mode = None,
    keep: o.Keep = False,
    yes: o.Yes = False,
    debug: o.Debug = False,
) -> None:
    """Chat with a model. /help in the chat lists the commands."""
    with reported(debug):
        from cli.chat.start import start

        answer_options = o.answer_options(
            stop=stop,
            ignore_eos=False,
            no_loop_detection=no_loop_detection,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
        )
        start(
            _models(local, o.LoadOptions(context, chunk, replace, yes, keep, bits, mode)),
            model,
            continue_,
            system,
            answer_options,
        )


@app.command(cls=WordyCommand, short_help="Download a model.")
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


@app.command(short_help="List the models on the disks of the nodes.")
def ls(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the models on the disks of the nodes, or of this machine if no node runs here: whole, in part or damaged."""
    with reported(debug):
        from cli.ls import show_models

        show_models(json)


@app.command(cls=WordyCommand, short_help="Delete a model from this machine.")
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


@app.command(cls=WordyCommand, short_help="Describe a model.")
def show(model: o.Model, json: o.Json = False, debug: o.Debug = False) -> None:
    """Describe a model: family, parameters, bytes, layers, experts, context."""
    with reported(debug):
        from cli.show import show as show_model

        show_model(model, json)


@app.command(cls=WordyCommand, short_help="Show how a model would be placed, and its speed.")
def plan(
    model: o.PlannedModel,
    nodes: Annotated[
        str | None, typer.Option(metavar="8xM4-Pro-64GB", help="Plan for these Macs instead of this cluster.")
    ] = None,
    context: o.Context = None,
    users: Annotated[
        int, typer.Option(metavar="N", callback=within(1), help="Reserve memory for N requests of that context.")
    ] = 1,
    many: Annotated[bool, typer.Option("--many", help="Optimize for many users; default: for one.")] = False,
    bits: Annotated[
        int | None,
        typer.Option(metavar="N", callback=within(2, 8), help="Plan as if the model were quantized to N bits."),
    ] = None,
    chunk: o.Chunk = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show which node would hold which part of a model, and the expected speed."""
    with reported(debug):
        from cli.plan import plan as print_plan

        objective: Literal["one_user", "many_users"] = "many_users" if many else "one_user"
        print_plan(model, nodes, json, context, users, bits, objective, chunk=chunk)


@app.command(cls=WordyCommand, short_help="Quantize a model, into a new directory.")
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


app.add_typer(bench, name="bench", short_help="Measure a machine, a cluster or emulated Macs.")
