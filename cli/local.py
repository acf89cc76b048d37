"""Models loaded into this process, on this machine alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.backend import Answer, Backend, Conversation
from cli.options import LoadOptions
from cli.progress import OnProgress, progress_bar
from cli.visible import short_name, visible
from cli.waiting import OnWaiting
from cluster.home import Home
from cluster.uses import Uses, Using
from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.recipe import AS_STORED, uniform
from mlx_moe.errors import InvalidRequestError

if TYPE_CHECKING:
    from cli.tables import HeadedTable
    from mlx_moe.decoding.request import Request
    from mlx_moe.decoding.session import Session
    from mlx_moe.model import LocalModel
    from mlx_moe.node_placement import NodePlacement


class LocalModels:
    """Opens models in this process."""

    served: str | None = None

    def __init__(self, options: LoadOptions) -> None:
        self._options = options

    def check(self, model: str) -> None:
        """Read config and headers."""
        import mlx_moe

        mlx_moe.describe(model)

    def open(self, model: str, *, needs_text: bool = True) -> Backend:
        """Load a model into this process; one that is not on the disk is downloaded first, if the person agrees."""
        import mlx_moe

        asked = self._options
        _ensure_here(model, asked.download)
        chunks = None if asked.chunk is None else mlx_moe.ChunkRule.fixed(asked.chunk)
        recipe = uniform(asked.bits, asked.mode) if asked.bits or asked.mode else AS_STORED
        with progress_bar(f"loading {visible(model)}", "bytes") as progress:
            loaded = mlx_moe.load(
                model,
                progress=progress,
                context_tokens=asked.context_tokens,
                recipe=recipe,
                needs_text=needs_text,
                chunks=chunks,
            )
        directory = library.locate(model)
        if model != library.DEMO:
            Uses(Home.default().uses).note(directory)
        return LocalBackend(loaded, Using(directory))


def _ensure_here(model: str, may_download: bool) -> None:
    try:
        library.locate(model)
    except InvalidRequestError:
        if hub_cache.is_offline() or not library.is_on_hub(model):
            raise
        from cli.pull import pull_here  # asks the hub, whose library takes half a second to import

        pull_here(model, dry_run=False, yes=may_download, explicit=False)


class LocalBackend:
    """A model loaded on this machine alone."""

    prediction = ""

    def __init__(self, model: LocalModel, using: Using) -> None:
        self._model = model
        self._using = using
        self.name = model.name
        self.label = short_name(model.name)
        self.sampling = model.sampling
        self.notes = model.notes
        self.dialect = model.tokenizer.dialect
        self.context_tokens = min(model.context_tokens, model.kv_positions)
        self.kv_bytes_per_token = model.kv_bytes_per_position
        self.load_s = model.load_s
        self.has_chat_template = model.tokenizer.chat_template is not None

    @property
    def thoughts_apart(self) -> bool:
        """See Backend."""
        return self._model.tokenizer.takes_thoughts_apart

    @property
    def placement(self) -> Sequence[NodePlacement]:
        """This machine, with its peak memory so far."""
        return self._model.placement

    def nodes_table(self) -> HeadedTable:
        """Return a table of one row."""
        from cli.nodes import placement_table

        return placement_table(self.placement)

    def ensure_ready(self) -> None:
        """Do nothing: the model is in this process."""

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Render the model's chat template; return its token ids."""
        return self._model.tokenizer.format_chat(messages, add_generation_prompt=True, **variables)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Encode by the model's tokenizer."""
        return self._model.encode(text, add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode by the model's tokenizer."""
        tokenizer = self._model.tokenizer
        return tokenizer.answer_text(token_ids) if skip_special_tokens else tokenizer.decode(token_ids, False)

    def new_conversation(self) -> Conversation:
        """Return a conversation over a session of the model."""
        return _LocalConversation(self._model, self._model.new_session())

    def close(self) -> None:
        """Free the weights."""
        self._model.close()
        self._using.close()


class _LocalConversation:
    def __init__(self, model: LocalModel, session: Session) -> None:
        self._model = model
        self._session = session

    def answer(
        self,
        request: Request,
        progress: OnProgress | None = None,
        waiting: OnWaiting | None = None,  # noqa: ARG002 - there are no other machines
    ) -> Answer:
        return self._model.generate(request, session=self._session, progress=progress)

    def close(self) -> None:
        self._session.close()
