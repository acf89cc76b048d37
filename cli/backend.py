"""Backend: what answers. On this machine a loaded model; commands and chat know nothing more of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cli.progress import Progress, progress_bar
from cli.visible import visible

if TYPE_CHECKING:
    from mlx_moe.model import LocalModel
    from mlx_moe.node_placement import NodePlacement
    from mlx_moe.request import FinishReason, GenerationStats, Request, Token
    from mlx_moe.sampling import SamplingParams
    from mlx_moe.session import Session


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
    def has_chat_template(self) -> bool:
        """Whether `format_chat` may be called."""

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the prompt of a chat, up to where the answer begins."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""

    def new_conversation(self) -> Conversation:
        """Return a conversation; close it to free its KV caches."""

    def close(self) -> None:
        """Give the model back."""


class Models(Protocol):
    """Where backends come from."""

    def check(self, model: str) -> None:
        """Raise what `open` would raise for a model that is missing or damaged, without loading it."""

    def open(self, model: str) -> Backend:
        """Return a model that is ready; progress is shown meanwhile.

        Raises:
            MoeClusterError: there is no such model, it is damaged, or it does not fit.
        """


class LocalModels:
    """The models of this machine."""

    def check(self, model: str) -> None:
        """Read config and headers."""
        import mlx_moe

        mlx_moe.describe(model)

    def open(self, model: str) -> Backend:
        """Load a model into this process."""
        import mlx_moe

        with progress_bar(f"loading {visible(model)}", "bytes") as progress:
            return LocalBackend(mlx_moe.load(model, progress=progress))


class LocalBackend:
    """A model loaded on this machine alone."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self.name = model.name
        self.sampling = model.sampling
        self.context_tokens = model.config.max_position_embeddings
        self.kv_bytes_per_token = model.config.kv_bytes_per_position
        self.load_s = model.load_s
        self.has_chat_template = model.tokenizer.chat_template is not None

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """This machine, with its peak memory until now."""
        return self._model.placement

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Render the model's chat template and encode it."""
        return self._model.tokenizer.format_chat(messages, add_generation_prompt=True, **variables)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Encode by the model's tokenizer."""
        return self._model.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode by the model's tokenizer."""
        return self._model.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def new_conversation(self) -> Conversation:
        """Return a conversation over a session of the model."""
        return _LocalConversation(self._model, self._model.new_session())

    def close(self) -> None:
        """Give the weights back."""
        self._model.close()


class _LocalConversation:
    def __init__(self, model: LocalModel, session: Session) -> None:
        self._model = model
        self._session = session

    def answer(self, request: Request, progress: Progress | None = None) -> Answer:
        return self._model.generate(request, session=self._session, progress=progress)

    def close(self) -> None:
        self._session.close()
