"""The bench commands: --emulate, local, cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options as o
from cli.failures import reported
from cli.usage import within

Trace = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace of all stages, for ui.perfetto.dev.")]

bench = typer.Typer(invoke_without_command=True)


@bench.callback()
def bench_emulated(
    context: typer.Context,
    emulate: Annotated[
        str | None, typer.Option(metavar="8xM4-Pro-64GB", help="Emulate these Macs on this machine.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A short name, as for plan.")] = "deepseek-v3",
    link: Annotated[str, typer.Option(metavar="LINK", help="10gbe, tb, 1gbe or loopback.")] = "10gbe",
    draft: Annotated[
        str, typer.Option(metavar="HOW", help="none, mtp, ngram, stated, or acceptance rates by depth: .85,.78")
    ] = "stated",
    users: Annotated[str, typer.Option(metavar="1,8", help="Numbers of simultaneous answers.")] = "1,8",
    prompt_tokens: Annotated[str, typer.Option(metavar="100,1000", help="Lengths of prompts to time.")] = "100,1000",
    tokens: Annotated[int, typer.Option(metavar="N", callback=within(8), help="Tokens of an answer.")] = 64,
    trace: Trace = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure: this machine, the cluster, or emulated Macs.

    The options below belong to --emulate: real workers and links, emulated computing time of Macs.
    """
    with reported(debug):
        from mlx_moe.errors import InvalidRequestError

        if context.invoked_subcommand is not None:
            _refuse_options(context)
            return
        if emulate is None:
            print(context.get_help())
            raise InvalidRequestError(
                "nothing to measure: moe-cluster bench local MODEL, bench cluster MODEL, or bench --emulate "
                "8xM4-Pro-64GB"
            )
        from cli.bench.counts import counts
        from cli.bench.emulate import emulate as run_emulation
        from cluster.emulation.asked import Asked

        asked = Asked(
            emulate, model, link, draft, counts("--users", users), counts("--prompt-tokens", prompt_tokens), tokens
        )
        run_emulation(asked, trace, json)


def _refuse_options(context: typer.Context) -> None:
    """Refuse options between bench and its subcommand, which does not receive them."""
    from mlx_moe.errors import InvalidRequestError

    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InvalidRequestError(
                f"--{name.replace('_', '-')} is an option of bench --emulate: put the options of "
                f"{context.invoked_subcommand} after its name"
            )


@bench.command("local")
def bench_local(
    model: o.Model,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", callback=within(1), help="Tokens of the prompt.")] = 128,
    tokens: Annotated[int, typer.Option(metavar="N", callback=within(8), help="Tokens of an answer.")] = 32,
    rounds: Annotated[int, typer.Option(metavar="N", callback=within(1), help="Number of measurements.")] = 3,
    context: Annotated[
        str | None,
        typer.Option(metavar="1024,4096", help="Also time a token at these positions; default: 256, 1k, 4k and 16k."),
    ] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure a model on this machine alone.

    Load, memory, prefill, decode, and the time of a token as the context grows.
    """
    with reported(debug):
        from cli.bench import local
        from cli.bench.counts import counts

        positions = None if context is None else counts("--context", context)
        local.bench_local(local.LocalRun(model, prompt_tokens, tokens, rounds, positions), json)


@bench.command("cluster")
def bench_cluster(
    model: o.Model,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", callback=within(1), help="Tokens of the prompts.")] = 256,
    tokens: Annotated[int, typer.Option(metavar="N", callback=within(8), help="Tokens of an answer.")] = 32,
    users: Annotated[str, typer.Option(metavar="1,2", help="Numbers of simultaneous answers.")] = "1,2",
    trace: Trace = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure a model on the cluster; load it first if needed.

    Time of each stage and hop, idle time of the stages, acceptance of drafts, and several users at once.
    """
    with reported(debug):
        from cli.bench import cluster
        from cli.bench.counts import counts

        asked = cluster.ClusterRun(model, prompt_tokens, tokens, counts("--users", users))
        cluster.bench_cluster(asked, trace, json)
