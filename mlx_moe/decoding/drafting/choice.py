"""Choice: chooses a model's drafter."""

from __future__ import annotations

from collections.abc import Callable

from mlx_moe.config import ModelConfig
from mlx_moe.decoding.drafting.drafter import Drafter
from mlx_moe.decoding.drafting.mtp_drafter import MTPDrafter
from mlx_moe.decoding.drafting.ngram_drafter import NgramDrafter
from mlx_moe.decoding.drafting.small_model import SmallModel
from mlx_moe.errors import InvalidRequestError
from mlx_moe.pipeline.holding import Holding
from mlx_moe.text.tokenizer import Tokenizer


def choose_drafter(
    draft: str, holding: Holding, config: ModelConfig, tokenizer: Tokenizer
) -> Callable[[], Drafter] | None:
    """Return a function that creates a sequence's drafter; None for no drafts.

    Args:
        draft: see mlx_moe.decoding.draft.
        holding: the loaded model, with its MTP layer if `draft` needs it and the checkpoint has one.

    Raises:
        InvalidRequestError: "mtp" without an MTP layer, or a small model that is missing or has another vocabulary.
        CheckpointError, InsufficientMemoryError: the small model cannot be loaded.
    """
    layer = holding.mtp
    match draft:
        case "none":
            return None
        case "ngram":
            return NgramDrafter
        case "":
            return NgramDrafter if layer is None else lambda: MTPDrafter(layer)
        case "mtp":
            if layer is None:
                raise InvalidRequestError(
                    "the checkpoint has no MTP layer to draft with: draft by ngram, or not at all"
                )
            return lambda: MTPDrafter(layer)
        case _:
            return SmallModel.load(draft, tokenizer, config.vocab_size, holding.weights_bytes).drafter
