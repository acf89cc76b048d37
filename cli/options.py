"""Options of an answer, on the command line or in the chat.

Defaults are not defined here: they come from the model or from the engine's dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.model_names import complete, complete_here
from cli.usage import within
from mlx_moe.known_models import KNOWN_MODELS

if TYPE_CHECKING:
    from mlx_moe.decoding.request import Request
    from mlx_moe.sampling_params import SamplingParams

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help='A directory, org/name on the Hugging Face hub, a short name like qwen3-30b, or "demo".',
        show_default=False,
        autocompletion=complete,
    ),
]
PlannedModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"As for run; or, without its files, one of {', '.join(KNOWN_MODELS)}.",
        show_default=False,
        autocompletion=complete,
    ),
]
StoredModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model that ls lists: org/name, org/name@commit or a short name.",
        show_default=False,
        autocompletion=complete_here,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Maximum number of tokens in the answer; default: until the context is full."),
]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="Sampling temperature; 0 always takes the most likely token.")
]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens; 0: off.")]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Sample from the most likely tokens whose probabilities sum to P.")
]
MinP = Annotated[
    float | None, typer.Option(metavar="P", help="Exclude tokens less likely than P times the most likely.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(metavar="X", help="Above 1: makes tokens of prompt and answer less likely.")
]
PresencePenalty = Annotated[
    float | None, typer.Option(metavar="X", help="Subtracted from the logits of tokens already in the answer.")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(metavar="X", help="Subtracted once for each occurrence of a token in the answer.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End the answer before this text. Repeatable.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Continue after the end-of-sequence token.")]
NoLoopDetection = Annotated[
    bool, typer.Option("--no-loop-detection", help="Do not stop an answer that repeats itself.")
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")]
Local = Annotated[bool, typer.Option("--local", help="On this machine alone, even if a node runs on it.")]
Chunk = Annotated[
    int | None,
    typer.Option(
        metavar="N", callback=within(1), help="Run prompts in chunks of N tokens; equal chunks give equal tokens."
    ),
]
Latency = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="Prompts delay the next token of other answers by at most this; shortens chunks."
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        callback=within(1),
        help="Context: N tokens for prompt and answer; default: the model's; on a cluster 32768, in a plan 8192.",
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the model that the cluster serves, if it is idle.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Bits = Annotated[
    int | None,
    typer.Option(metavar="N", callback=within(2, 8), help="Quantize to N bits while loading; default: as stored."),
]
Mode = Annotated[
    str | None, typer.Option(metavar="HOW", help="Quantize while loading as affine (default), mxfp4, nvfp4 or mxfp8.")
]
Standby = Annotated[
    bool,
    typer.Option(
        "--standby", help="Keep a spare copy of the largest stage in another node's memory, where there is room."
    ),
]
Keep = Annotated[
    bool,
    typer.Option(
        "--keep", help="Each node keeps on its disk what it reads from other nodes; with --bits its part, quantized."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Log everything; show the traceback of an error.")]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded; None: the default.

    `latency_s` bounds how long a prompt delays other answers, in place of `chunk`. `replace` replaces a loaded model.
    `download` allows downloads; `keep` keeps what is read from other nodes. `bits` and `mode` are its quantization
    while it is loaded.

    Raises:
        InvalidRequestError: there is no such quantization or latency, or both `chunk` and `latency_s` are given.
    """

    context_tokens: int | None = None
    chunk: int | None = None
    replace: bool = False
    download: bool = False
    keep: bool = False
    bits: int | None = None
    mode: str | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.latency_s is not None:
            from mlx_moe.errors import InvalidRequestError

            raise InvalidRequestError(
                "--chunk and --latency both set the length of a prompt's chunks: use only one of them"
            )
        if self.latency_s is not None:
            from cluster.placement import Latency

            Latency(self.latency_s)
        if self.bits or self.mode:
            from mlx_moe.checkpoint.recipe import uniform  # it imports what configurations consist of

            uniform(self.bits, self.mode)


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The options that were given: fields of SamplingParams and of Request."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)

    def build(self, input_ids: tuple[int, ...], defaults: SamplingParams) -> Request:
        """Return the request. Raises InvalidRequestError for values out of range."""
        from mlx_moe.decoding.request import Request

        return Request(input_ids, sampling=replace(defaults, **self.sampling), **self.request)

    def check(self) -> None:
        """Raise InvalidRequestError for values that are invalid for every model."""
        from mlx_moe.sampling_params import SamplingParams

        self.build((0,), SamplingParams())


def answer_options(
    *,
    stop: list[str] | None,
    ignore_eos: bool,
    no_loop_detection: bool,
    max_tokens: int | None,
    **sampling: float | None,
) -> AnswerOptions:
    """Collect the command line options that were given."""
    request: dict[str, Any] = {}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    if stop:
        request["stop"] = tuple(stop)
    if ignore_eos:
        request["ignore_eos"] = True
    if no_loop_detection:
        request["detect_loops"] = False
    return AnswerOptions({name: value for name, value in sampling.items() if value is not None}, request)
