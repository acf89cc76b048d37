"""Backend: the interface of a model that answers, on this machine or on the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cli.progress import OnProgress
from cli.waiting import OnWaiting
from mlx_moe.checkpoint.library import DEMO

if TYPE_CHECKING:
    from cli.tables import HeadedTable
    from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
    from mlx_moe.node_placement import NodePlacement
    from mlx_moe.sampling_params import SamplingParams
    from mlx_moe.text.dialects import Dialect


class Answer(Protocol):
    """An answer while it is generated: an iterator of tokens. `finish_reason` is None until it has ended."""

    @property
    def seed(self) -> int:
        """The seed it is sampled with."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended."""

    @property
    def stats(self) -> GenerationStats:
        """Counts and times so far."""

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration after the last one."""

    def close(self) -> None:
        """End the answer now; its tokens so far stay."""


class Conversation(Protocol):
    """Requests that share a prefix: its KV caches are kept until `close`."""

    def answer(self, request: Request, progress: OnProgress | None = None, waiting: OnWaiting | None = None) -> Answer:
        """Answer a request.

        `progress` is called with prompt positions, `waiting` with a line while the answer waits for other machines, and
        with "" when it continues. An exception from one of them ends the answer.

        Raises:
            InvalidRequestError: before any work.
            NodeLostError: now or during the answer, if other machines compute it.
        """

    def close(self) -> None:
        """Free its KV caches."""


class Backend(Protocol):
    """A model that is ready to answer."""

    @property
    def name(self) -> str:
        """The name that the person gave."""

    @property
    def sampling(self) -> SamplingParams:
        """The model's own defaults."""

    @property
    def notes(self) -> Sequence[str]:
        """For people: which values of the model's files are ignored."""

    @property
    def dialect(self) -> Dialect:
        """How its answers mark reasoning and tool calls."""

    @property
    def thoughts_apart(self) -> bool:
        """Whether `format_chat` takes earlier thoughts in `reasoning_content` instead of `content`."""

    @property
    def context_tokens(self) -> int:
        """Maximum positions of prompt and answer together."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the KV caches per position."""

    @property
    def load_s(self) -> float:
        """Duration of loading in seconds."""

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """Which node holds which part."""

    @property
    def label(self) -> str:
        """The first words of the chat's status bar."""

    @property
    def prediction(self) -> str:
        """Predicted speed, "" if unknown."""

    def nodes_table(self) -> HeadedTable:
        """Return a table of which node holds which part."""

    def ensure_ready(self) -> None:
        """Reload the model if it was lost or unloaded; call this before a conversation continues."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `format_chat` may be called."""

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the token ids of a chat, up to the start of the answer."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids; without special tokens it is an answer's text."""

    def new_conversation(self) -> Conversation:
        """Return a new conversation; its `close` frees its KV caches."""

    def close(self) -> None:
        """Release the model."""


class Models(Protocol):
    """Opens backends."""

    @property
    def served(self) -> str | None:
        """The model that is already served, if any."""

    def check(self, model: str) -> None:
        """Raise what `open` would raise for a model that is missing or damaged, without loading it."""

    def open(self, model: str, *, needs_text: bool = True) -> Backend:
        """Load a model and show the progress.

        Raises:
            MoeClusterError: the model is missing, is damaged, does not fit, or has no tokenizer and `needs_text`.
        """


def lasting(model: str) -> str:
    """Return the name as an absolute path if it is a path."""
    return str(Path(model).resolve()) if model != DEMO and Path(model).is_dir() else model
