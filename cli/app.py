"""moe-cluster: the commands and their options. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from cli import options as o
from cli.backend import LocalModels, Models
from cli.failures import reported, silence_stdout

app = typer.Typer(
    name="moe-cluster",
    help="Run Mixture-of-Experts models on Macs, one alone or several together.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_models: Models = LocalModels()

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help='A directory, a Hugging Face repo id, or "demo".', show_default=False),
]


def main() -> None:
    """Run the command line; the console's entry point."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app(prog_name="moe-cluster")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()


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


@app.command()
def run(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help='What to answer; "-" or nothing reads stdin.')
    ] = None,
    _local: o.Local = False,
    json: o.Json = False,
    raw: Annotated[bool, typer.Option("--raw", help="Send the prompt without the chat template.")] = False,
    input_ids: Annotated[str | None, typer.Option(metavar="1,2,3", help="Token ids in place of a prompt.")] = None,
    system: o.System = None,
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
        code = run_command.run(_models, model, asked, answer_options, json)
        raise typer.Exit(code)


@app.command()
def chat(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help='As for run; else the model last chatted with, or "demo".'),
    ] = None,
    _local: o.Local = False,
    continue_: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last chat.")] = False,
    system: o.System = None,
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
    debug: o.Debug = False,
) -> None:
    """Chat with a model. /help in the chat lists what it can do."""
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
        start(_models, model, continue_, system, answer_options)


@app.command()
def show(model: ModelArgument, json: o.Json = False, debug: o.Debug = False) -> None:
    """Tell what a model is: family, parameters, bytes, layers, experts, context."""
    with reported(debug):
        from cli.show import show as show_model

        show_model(model, json)
