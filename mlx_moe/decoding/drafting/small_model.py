"""SmallModel: a separate small model with the same vocabulary, which drafts for sequences."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import mlx.core as mx

from mlx_moe import families, memory
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.errors import InvalidRequestError
from mlx_moe.pipeline.embedding_and_lm_head import LoadedEmbeddingAndLMHead
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.pipeline.holding import load_holding
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage
from mlx_moe.text.tokenizer import Tokenizer

MAX_POSITIONS = 128
"""Positions per call; other requests wait meanwhile."""


class SmallModel:
    """A whole model, loaded beside a shard, that drafts for the shard's model."""

    def __init__(self, stage: Stage, head: LoadedEmbeddingAndLMHead) -> None:
        self.stage = stage
        self.head = head

    @classmethod
    def load(cls, name: str, tokenizer: Tokenizer, vocab_size: int, weights_bytes: int) -> SmallModel:
        """Load a model beside `weights_bytes` that are in memory already.

        Its KV caches are in no budget: choose it small.

        Raises:
            InvalidRequestError: it is not on this machine, or its vocabulary differs from `tokenizer`'s.
            CheckpointError: its files are damaged.
            InsufficientMemoryError: before its weights are read.
        """
        with Checkpoint.open(library.locate(name)) as checkpoint:
            config = families.config_of(checkpoint)
            if (
                config.vocab_size != vocab_size
                or Tokenizer.load(checkpoint.directory).vocabulary != tokenizer.vocabulary
            ):
                raise InvalidRequestError(
                    f"{name} cannot draft: its {config.vocab_size} tokens are not the {vocab_size} of the model that "
                    f"it would draft for; choose a smaller model of the same family, or draft by ngram"
                )
            spec = ShardSpec(range(config.num_hidden_layers))
            room = memory.HARD_LIMIT - weights_bytes / memory.budget_bytes()
            holding = load_holding(checkpoint, config, spec, coordinates=True, memory_share=room)
        assert holding.head is not None  # all of it was loaded
        return cls(Stage(holding.shard, f"draft model {name}"), holding.head)

    def drafter(self) -> SmallModelDrafter:
        """Return a drafter for one sequence."""
        return SmallModelDrafter(self)


class SmallModelDrafter:
    """Runs the small model over a sequence's tokens in small batches, so that a long prompt does not block others."""

    observer = None

    def __init__(self, model: SmallModel) -> None:
        self._model = model
        self._id = uuid.uuid4().hex
        self._token_ids: list[int] = []  # what the small model's KV cache keeps
        self._n_true = 0  # of these, confirmed tokens of the sequence

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:
        """See Drafter."""
        stage, head = self._model.stage, self._model.head
        start = self._agreed(token_ids, in_flight)
        wanted = len(token_ids) + len(in_flight)
        if wanted > stage.shard.config.context.longest:
            return None
        end = min(start + MAX_POSITIONS, wanted)
        new = [*token_ids[start:end], *in_flight[max(0, start - len(token_ids)) : max(0, end - len(token_ids))]]
        self._token_ids[start:] = new
        kind = FrameKind.PREFILL if len(new) > 1 else FrameKind.DECODE
        frame = stage.run(Frame(self._id, start, head.embed(mx.array(new)), kind, outputs=1))
        return choose(head.logits(frame.hidden_states)[0]) if end == wanted else None

    def rewind(self, position: int) -> None:
        """See Drafter."""
        del self._token_ids[position:]
        self._n_true = min(self._n_true, position)
        if position == 0:
            self._model.stage.release(self._id)

    def fork(self, positions: int) -> SmallModelDrafter:  # noqa: ARG002
        """See Drafter. It catches up over several `draft` calls."""
        return self._model.drafter()

    def _agreed(self, token_ids: Sequence[int], in_flight: Sequence[int]) -> int:
        """Return the length of the prefix of its tokens that is still valid."""
        tail = [*token_ids[self._n_true :], *in_flight[:-1]]  # the last one must be run
        agreed = self._n_true
        for ran, wanted in zip(self._token_ids[self._n_true :], tail, strict=False):
            if ran != wanted:
                break
            agreed += 1
        self._n_true = min(agreed, len(token_ids))
        return agreed
