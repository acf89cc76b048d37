"""ModelSummary: describes a checkpoint, from its config and headers only."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlx_moe import families
from mlx_moe.checkpoint import library, loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.form import Floats
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.stored_parameter import form_of_most
from mlx_moe.config import ModelConfig, QuantizationConfig
from mlx_moe.content import find_all, read_content
from mlx_moe.families import has_mtp, head_parameters, missing_mtp, mtp_parameters
from mlx_moe.pipeline.shard_spec import ShardSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What `show` prints. Bytes are those stored; `parameters` leaves out the MTP layer, `mtp_parameters` is it.

    `mtp_missing` counts the parameters that the promised MTP layer lacks: it does not draft then. KV caches are counted
    in the numbers that this machine computes with: what each position takes, what a sequence takes besides (recurrent
    states), and all of a whole context. `form` is how most of the weights are stored, `quantization` what
    they are in memory; None: floats.
    """

    path: Path
    model_type: str
    parameters: int
    mtp_parameters: int
    mtp_missing: int
    weights_bytes: int
    quantization: QuantizationConfig | None
    form: str
    num_hidden_layers: int
    moe_layers: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int
    kv_bytes_per_position: int
    kv_fixed_bytes: int
    kv_context_bytes: int
    context_tokens: int
    longest_context: int
    rope_type: str
    vocab_size: int
    hidden_size: int
    content_hash: str


def describe(name_or_path: str | Path) -> ModelSummary:
    """Describe a checkpoint without loading it. Raises CheckpointError where loading would."""
    with Checkpoint.open(library.locate(name_or_path)) as checkpoint:
        config = families.config_of(checkpoint)
        main = model_parameters(config)
        mtp = mtp_parameters(config) if has_mtp(checkpoint, config) else []
        parts = find_all(checkpoint, config)
        stored = [parameter for part in parts.values() for parameter in part]
        form = form_of_most(stored)
        costs = families.cache_costs(config, loader.compute_dtype(stored).size)
        section = checkpoint.config.get("quantization_config") or checkpoint.config.get("quantization")
        if section and isinstance(form, Floats):
            log.debug("event=quantization_section_ignored section=%.200s reason=tensors_are_plain", section)
        manifest = read_content(checkpoint, config, parts)
        return ModelSummary(
            path=checkpoint.directory,
            model_type=config.model_type,
            parameters=parameter_count(main),
            mtp_parameters=parameter_count(mtp),
            mtp_missing=len(missing_mtp(checkpoint, config)),
            weights_bytes=sum(entry.nbytes for entry in manifest.entries),
            quantization=form.quantization,
            form=form.text,
            num_hidden_layers=config.num_hidden_layers,
            moe_layers=sum(layer < config.num_hidden_layers for layer in config.moe_layers),
            n_routed_experts=config.moe.n_routed_experts,
            num_experts_per_tok=config.moe.num_experts_per_tok,
            n_shared_experts=config.moe.n_shared_experts,
            kv_bytes_per_position=costs.full_bytes_per_position,
            kv_fixed_bytes=costs.fixed_bytes,
            kv_context_bytes=costs.nbytes(config.context.tokens),
            context_tokens=config.context.tokens,
            longest_context=config.context.longest,
            rope_type=config.rope.rope_type,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            content_hash=manifest.hash,
        )


def model_parameters(config: ModelConfig) -> list[Parameter]:
    """Return the parameters of the whole model without its MTP layer."""
    return [*head_parameters(config), *ShardSpec(range(config.num_hidden_layers)).parameters(config)]


def parameter_count(parameters: Iterable[Parameter]) -> int:
    """Return how many numbers the parameters have, unquantized."""
    return sum(math.prod(parameter.layouts[0].shape) for parameter in parameters)
