"""Backend: what answers, a model on this machine or on the cluster; commands and chat know nothing more of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cli.progress import Progress
from mlx_moe.checkpoint.library import DEMO

if TYPE_CHECKING:
    from cli.tables import HeadedTable
    from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
    from mlx_moe.node_placement import NodePlacement
    from mlx_moe.sampling_params import SamplingParams
    from mlx_moe.text.thought import ThoughtMarkers


class Answer(Protocol):
    """One answer as it is written: an iterator of tokens. `finish_reason` is None until it ended."""

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
        """Return the next token. Raises StopIteration when the answer ended."""

    def close(self) -> None:
        """End it now; what was written stays."""


class Conversation(Protocol):
    """Requests that share a beginning: what they prefilled stays until it is closed."""

    def answer(self, request: Request, progress: Progress | None = None) -> Answer:
        """Answer a request. `progress` is called with prompt positions; what it raises ends the answer.

        Raises:
            InvalidRequestError: before any work.
            NodeLostError: now or amid the answer, where it comes from other machines.
        """

    def close(self) -> None:
        """Free what it keeps."""


class Backend(Protocol):
    """A model that is ready to answer, wherever it runs."""

    @property
    def name(self) -> str:
        """What the person called it."""

    @property
    def sampling(self) -> SamplingParams:
        """The model's own defaults."""

    @property
    def notes(self) -> Sequence[str]:
        """Which values of the model's files are ignored, for people."""

    @property
    def thought_markers(self) -> ThoughtMarkers:
        """What stands around a thought in its answers."""

    @property
    def thoughts_apart(self) -> bool:
        """Whether `format_chat` wants what was thought in earlier turns in `reasoning_content`, not in `content`."""

    @property
    def context_tokens(self) -> int:
        """Positions that prompt and answer may take together."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one position adds to the KV caches."""

    @property
    def load_s(self) -> float:
        """Seconds that loading took."""

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """Who holds what."""

    @property
    def label(self) -> str:
        """What the chat's bar begins with."""

    @property
    def prediction(self) -> str:
        """How fast the placement should be, "" where nobody knows."""

    def nodes_table(self) -> HeadedTable:
        """Return who holds what, for people."""

    def ensure_ready(self) -> None:
        """Load the model again where it was lost or taken away since; call it before a conversation goes on."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `format_chat` may be called."""

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids, without special tokens as that of an answer."""

    def new_conversation(self) -> Conversation:
        """Return a conversation; close it to free its KV caches."""

    def close(self) -> None:
        """Give the model back."""


class Models(Protocol):
    """Where backends come from."""

    @property
    def served(self) -> str | None:
        """The model that is ready already, if one is."""

    def check(self, model: str) -> None:
        """Raise what `open` would raise for a model that is missing or damaged, without loading it."""

    def open(self, model: str, *, needs_text: bool = True) -> Backend:
        """Return a model that is ready; progress is shown meanwhile.

        Raises:
            MoeClusterError: there is no such model, it is damaged, it does not fit, or it has no tokenizer though
                texts are to be encoded.
        """


def lasting(model: str) -> str:
    """Return a model's name such that it means the same in another directory."""
    return str(Path(model).resolve()) if model != DEMO and Path(model).is_dir() else model
