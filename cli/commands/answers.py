"""Commands that ask a model: a chat, one prompt, the demo."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options as o
from cli.failures import reported
from cli.model_names import complete
from cli.models import choose_models
from cli.usage import Section, within
from cli.words import WordyCommand

commands = Section("Answers")

_models = choose_models


@commands.command(short_help="Try it: start nodes on this machine, and chat.")
def demo(
    nodes: Annotated[int, typer.Option(metavar="N", callback=within(1, 7), help="Number of nodes.")] = 3,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this, then exit; default: a chat follows.")
    ] = None,
    debug: o.Debug = False,
) -> None:
    """Try it: start nodes on this machine, load the built-in model on them, and chat."""
    with reported(debug):
        from cli.demo import demo as show_demo

        show_demo(nodes, prompt)


@commands.command(cls=WordyCommand)
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


@commands.command(cls=WordyCommand)
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
