"""Model: a model's tokenizer, limits and defaults; LocalModel: a whole model in this process, and its answers.

The package's public interface. The cluster's coordinator uses the same Model.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mlx_moe import families, memory
from mlx_moe.checkpoint import library, loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.checkpoint.stored_parameter import find, require_effect
from mlx_moe.config import ModelConfig
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.chunking import ChunkRule, position_bytes
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.replay import Replay
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.decoding.session import Session
from mlx_moe.errors import InvalidRequestError
from mlx_moe.node_placement import NodePlacement
from mlx_moe.notes import notes
from mlx_moe.pipeline.holding import Holding, load_holding
from mlx_moe.pipeline.link import LocalLink
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.generation_defaults import GenerationDefaults
from mlx_moe.text.text_process import MAX_BYTES, TextProcess
from mlx_moe.text.tokenizer import Tokenizer

TEXT_BYTES_PER_TOKEN = 64
LEAST_TEXT_BYTES = 1 << 20
"""Texts have some 4 bytes a token. One of TEXT_BYTES_PER_TOKEN for each token of the context does not fit, whatever it
is; so much and LEAST_TEXT_BYTES are read."""


def load(
    name_or_path: str | Path,
    progress: loader.Progress | None = None,
    *,
    with_mtp: bool = False,
    context_tokens: int | None = None,
    needs_text: bool = False,
    chunks: ChunkRule | None = None,
    recipe: Recipe = AS_STORED,
) -> LocalModel:
    """Load a model: a directory, the id of one in the Hugging Face cache, or "demo".

    `with_mtp` loads its MTP layer, if it has one; a single stage does not draft. A request may use `context_tokens`
    positions; None: as many as its settings allow. Without a usable tokenizer it answers token ids; with `needs_text`
    this is an error before anything is read. `chunks` is the rule that cuts prompts; None: chunks as long as memory
    allows. `recipe` quantizes while loading.

    Raises:
        InvalidRequestError: the model's context is shorter than `context_tokens`, or `recipe` has more bits than it.
        CheckpointError: files that are missing, damaged or contradict each other.
        InsufficientMemoryError: before anything is read.
    """
    started = time.perf_counter()
    with Checkpoint.open(library.locate(name_or_path)) as checkpoint:
        config = families.config_of(checkpoint)
        context = config.context.tokens if context_tokens is None else config.context.require(context_tokens)
        process = TextProcess(checkpoint.directory)
        if needs_text:
            process.begin()
        tokenizer = (Tokenizer.load if needs_text else Tokenizer.load_if_usable)(checkpoint.directory, process)
        defaults = GenerationDefaults.read(checkpoint.directory)
        defaults = replace(defaults, notes=notes(str(name_or_path), checkpoint, defaults))
        spec = ShardSpec(range(config.num_hidden_layers))
        require_effect(checkpoint.directory, find(checkpoint, spec.parameters(config), recipe), recipe)
        holding = load_holding(
            checkpoint, config, spec, coordinates=True, with_mtp=with_mtp, progress=progress, recipe=recipe
        )
    load_s = time.perf_counter() - started
    return LocalModel(str(name_or_path), config, tokenizer, defaults, holding, load_s, context, chunks)


def most_text_bytes(context_tokens: int) -> int:
    """Return how large the text of a prompt may be that is read at all."""
    return min(max(LEAST_TEXT_BYTES, context_tokens * TEXT_BYTES_PER_TOKEN), MAX_BYTES)


class Model:
    """A model's tokenizer, limits and defaults, wherever it is computed.

    Prompt and answer may take `context_tokens` positions together, each of which takes `kv_bytes_per_position`;
    `kv_positions` is how many the KV caches of all requests may take together.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        *,
        context_tokens: int,
        kv_bytes_per_position: int,
        kv_positions: int,
        constraints: Constraints,
    ) -> None:
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.sampling = defaults.sampling
        self.notes = defaults.notes
        self.context_tokens = context_tokens
        self.kv_bytes_per_position = kv_bytes_per_position
        self.kv_positions = kv_positions
        self.constraints = constraints

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text. Raises as `require_text` and the tokenizer."""
        self.require_text(len(text.encode(errors="surrogatepass")))
        return self.tokenizer.encode(text, add_special_tokens)

    def require_text(self, n_bytes: int) -> None:
        """Raise InvalidRequestError for a prompt of so many bytes of text that it need not be read."""
        most = most_text_bytes(self.context_tokens)
        if n_bytes > most:
            raise InvalidRequestError(
                f"the prompt has {n_bytes:,} bytes of text; for the model's context of {self.context_tokens:,} tokens "
                f"at most {most:,} are read: shorten it"
            )

    def require_room(self, prompt_tokens: int, max_tokens: int | None = None) -> None:
        """Raise InvalidRequestError if prompt and answer do not fit the context."""
        context = self.context_tokens
        if prompt_tokens >= context:
            raise InvalidRequestError(
                f"the prompt has {prompt_tokens} tokens; the model's context of {context} leaves no room for an "
                f"answer: shorten it by {prompt_tokens - context + 1}, or {self.config.context.more(prompt_tokens + 1)}"
            )
        if max_tokens is not None and prompt_tokens + max_tokens > context:
            wanted = prompt_tokens + max_tokens
            raise InvalidRequestError(
                f"{prompt_tokens} prompt tokens and max_tokens {max_tokens} need {wanted} positions; the model's "
                f"context is {context}: ask for at most {context - prompt_tokens}, or "
                f"{self.config.context.more(wanted)}"
            )

    def writer(self, request: Request, sequence: Sequence, replay: Replay | None = None) -> AnswerWriter:
        """Check a request; return the writer of its answer, which continues `sequence`.

        With a `replay` the answer was begun elsewhere, and the sequence is a new one.

        Raises:
            InvalidRequestError: before any work, with the numbers.
        """
        limit = self._limit(request)
        if request.grammar is not None:
            self.constraints.new(request.grammar, request.input_ids)
        seed = secrets.randbits(53) if request.sampling.seed is None else request.sampling.seed
        if replay is not None:
            self._check_replay(replay, request, limit)
        return AnswerWriter(self.tokenizer, sequence, request, seed=seed, limit=limit, replay=replay)

    def _check_replay(self, replay: Replay, request: Request, limit: int) -> None:
        if request.sampling.seed is None and replay.answer_ids:
            raise InvalidRequestError("an answer continues only with the seed with which it was begun")
        if len(replay.answer_ids) >= limit:
            raise InvalidRequestError(f"{len(replay.answer_ids)} tokens are written, and {limit} are the most")
        if max(replay.answer_ids, default=0) >= self.config.vocab_size:
            raise InvalidRequestError(f"a written token is outside the vocabulary of {self.config.vocab_size} tokens")
        if replay.frames is not None and replay.frames.ends[-1] != len(request.input_ids):
            raise InvalidRequestError("the frames of the prompt do not end where the prompt does")

    def _limit(self, request: Request) -> int:
        """Return how many tokens the answer may have."""
        prompt = len(request.input_ids)
        request.sampling.require_vocabulary(self.config.vocab_size)
        if (highest := max(request.input_ids)) >= self.config.vocab_size:
            raise InvalidRequestError(
                f"input id {highest} is outside the vocabulary of {self.config.vocab_size} tokens"
            )
        self.require_room(prompt, request.max_tokens)
        return self.context_tokens - prompt if request.max_tokens is None else request.max_tokens


class LocalModel(Model):
    """A whole model in this process."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        holding: Holding,
        load_s: float,
        context_tokens: int,
        chunks: ChunkRule | None = None,
    ) -> None:
        assert holding.head is not None  # all of it was loaded
        self.stage = Stage(holding.shard, socket.gethostname())
        self.head = holding.head
        self.mtp = holding.mtp
        self.load_s = load_s
        self._weights_bytes = holding.weights_bytes
        costs = families.cache_costs(config, holding.dtype.size)
        kv_positions = memory.kv_positions(holding.weights_bytes + costs.fixed_bytes, costs.full_bytes_per_position)
        self.chunks = chunks or ChunkRule.alone(position_bytes(config, holding.dtype.size), memory.temporary_bytes())
        constraints = Constraints(tokenizer, config.vocab_size)
        coordinator = Coordinator(
            holding.head,
            config.vocab_size,
            kv_positions=kv_positions,
            fixed_positions=costs.fixed_positions,
            chunks=self.chunks,
            constraints=constraints,
        )
        self._engine = Engine(coordinator, LocalLink([self.stage]))
        super().__init__(
            name,
            config,
            tokenizer,
            defaults,
            context_tokens=context_tokens,
            kv_bytes_per_position=costs.full_bytes_per_position,
            kv_positions=coordinator.scheduler.budget.positions,
            constraints=constraints,
        )

    def new_session(self) -> Session:
        """Return a session: requests that go through it prefill only what is new. Close it to free its KV caches."""
        return Session(Sequence(), self._engine.release)

    def generate(
        self,
        request: Request,
        session: Session | None = None,
        progress: Callable[[int, int], None] | None = None,
        replay: Replay | None = None,
    ) -> Generation:
        """Answer a request, on the thread that loaded the model. `progress` gets prompt positions done and to do.

        With a `replay` it continues an answer that was begun elsewhere, in a new session.

        Raises:
            InvalidRequestError: before any work, with the numbers.
        """
        writer = self.writer(request, (session or self.new_session()).sequence, replay)
        return Generation(self._engine, writer, close_session=session is None, progress=progress)

    @property
    def placement(self) -> list[NodePlacement]:
        """What this machine holds: all of it."""
        spec = self.stage.shard.spec
        peak = memory.peak_memory_bytes()
        return [NodePlacement(self.stage.node, spec.layers, spec.n_experts(self.config), self._weights_bytes, peak)]

    def close(self) -> None:
        """Free the weights, and end the process that reads texts."""
        self.tokenizer.close()
        del self._engine, self.stage, self.head, self.mtp


def generate(model: LocalModel, prompt: str | Iterable[int], **options: Any) -> Iterator[Token]:
    """Yield the tokens that follow `prompt`; `options` are fields of Request and of SamplingParams."""
    input_ids = model.encode(prompt) if isinstance(prompt, str) else prompt
    sampling_fields = {f.name for f in fields(SamplingParams)}
    sampling = {name: options.pop(name) for name in list(options) if name in sampling_fields}
    request = Request(tuple(input_ids), sampling=model.sampling.updated(**sampling), **options)
    return model.generate(request)
