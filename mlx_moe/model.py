"""Model: a checkpoint loaded whole on this machine, one coordinator over one stage. The package's public face.

The cluster runs the same coordinator over other links.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlx_moe import families, json_file, library, loader, memory
from mlx_moe.checkpoint import Checkpoint
from mlx_moe.config import ModelConfig
from mlx_moe.coordinator import Coordinator
from mlx_moe.errors import InvalidRequestError
from mlx_moe.generation import Generation
from mlx_moe.head import Head, head_parameters
from mlx_moe.link import LocalLink
from mlx_moe.mtp import MultiTokenPrediction, has_mtp, mtp_parameters
from mlx_moe.node_placement import NodePlacement
from mlx_moe.request import Request, Token
from mlx_moe.sampling import SamplingParams
from mlx_moe.session import Session
from mlx_moe.shard import Shard, ShardSpec
from mlx_moe.stage import Stage
from mlx_moe.tokenizer import Tokenizer


def load(name_or_path: str | Path, progress: loader.Progress | None = None) -> Model:
    """Load a model: a directory, the id of one in the Hugging Face cache, or "demo".

    Raises:
        CheckpointError: files that are missing, damaged or contradict each other.
        InsufficientMemoryError: before anything is read.
    """
    started = time.perf_counter()
    with Checkpoint.open(library.locate(name_or_path)) as checkpoint:
        config = families.read_config(checkpoint.config, str(checkpoint.directory / "config.json"))
        tokenizer = Tokenizer.load(checkpoint.directory)
        spec = ShardSpec(range(config.num_hidden_layers))
        parameters = [*head_parameters(config), *spec.parameters(config)]
        with_mtp = has_mtp(checkpoint, config)
        if with_mtp:
            parameters += mtp_parameters(config)
        stored = loader.find(checkpoint, config, parameters)
        dtype = memory.compute_dtype(loader.stored_dtype(stored))
        memory.require(sum(s.memory_bytes(dtype) for s in stored), f"model {name_or_path}")
        loaded = loader.load(checkpoint, stored, dtype, progress)
        sampling = _default_sampling(checkpoint.directory)
    head = Head.build(config, loaded, dtype)
    mtp = MultiTokenPrediction.build(config, loaded, head) if with_mtp else None
    stage = Stage(Shard.build(spec, config, loaded, dtype), socket.gethostname())
    load_s = time.perf_counter() - started
    kv_positions = memory.kv_positions(loaded.nbytes, config.kv_bytes_per_position * dtype.size // 2)
    return Model(str(name_or_path), config, tokenizer, sampling, head, stage, mtp, loaded.nbytes, load_s, kv_positions)


class Model:
    """A loaded model. It answers on the thread that loaded it, several requests in turns if they are advanced so."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        head: Head,
        stage: Stage,
        mtp: MultiTokenPrediction | None,
        weights_bytes: int,
        load_s: float,
        kv_positions: int | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.mtp = mtp
        self.load_s = load_s
        self.stage = stage
        self._weights_bytes = weights_bytes
        self._coordinator = Coordinator(head, LocalLink([stage]), config.vocab_size, kv_positions)

    @property
    def placement(self) -> list[NodePlacement]:
        """What this machine holds: all of it."""
        spec = self.stage.shard.spec
        n_experts = sum(len(spec.experts_of(self.config, layer)) for layer in spec.layers)
        peak = memory.peak_memory_bytes()
        return [NodePlacement(self.stage.node, spec.layers, n_experts, self._weights_bytes, peak)]

    def new_session(self) -> Session:
        """Return a session: requests that go through it prefill only what is new. Close it to free its KV caches."""
        return self._coordinator.new_session()

    def generate(
        self,
        request: Request,
        session: Session | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Answer a request. `progress` is called with the prompt positions done and to do.

        Raises:
            InvalidRequestError: before any work, with the numbers.
        """
        limit = self._limit(request)
        seed = secrets.randbits(53) if request.sampling.seed is None else request.sampling.seed
        return Generation(
            self._coordinator,
            self.tokenizer,
            request,
            session or self.new_session(),
            seed=seed,
            limit=limit,
            close_session=session is None,
            progress=progress,
        )

    def close(self) -> None:
        """Give the weights back."""
        del self._coordinator, self.stage, self.mtp

    def _limit(self, request: Request) -> int:
        """Return how many tokens the answer may have."""
        context, prompt = self.config.max_position_embeddings, len(request.input_ids)
        request.sampling.require_vocabulary(self.config.vocab_size)
        if (highest := max(request.input_ids)) >= self.config.vocab_size:
            raise InvalidRequestError(
                f"input id {highest} is outside the vocabulary of {self.config.vocab_size} tokens"
            )
        if prompt >= context:
            raise InvalidRequestError(
                f"the prompt has {prompt} tokens; the model's context of {context} leaves no room for an answer: "
                f"shorten it by {prompt - context + 1}"
            )
        if request.max_tokens is None:
            return context - prompt
        if prompt + request.max_tokens > context:
            raise InvalidRequestError(
                f"{prompt} prompt tokens and max_tokens {request.max_tokens} need {prompt + request.max_tokens} "
                f"positions; the model's context is {context}: ask for at most {context - prompt}"
            )
        return request.max_tokens


def generate(model: Model, prompt: str | Sequence[int], **options: Any) -> Iterator[Token]:
    """Yield the tokens that follow `prompt`; `options` are fields of Request and of SamplingParams."""
    input_ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    sampling_fields = {f.name for f in fields(SamplingParams)}
    sampling = {name: options.pop(name) for name in list(options) if name in sampling_fields}
    request = Request(tuple(input_ids), sampling=model.sampling.updated(**sampling), **options)
    return model.generate(request)


def _default_sampling(directory: Path) -> SamplingParams:
    path = directory / "generation_config.json"
    return SamplingParams.from_generation_config(json_file.read(path) if path.exists() else {})
