"""Choice: which drafter a model gets."""

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
    """Return what makes a drafter for each session of the model that `holding` is of; None for no drafts.

    Args:
        draft: see mlx_moe.decoding.draft.
        holding: what is in memory of the model; its MTP layer too, if `draft` wants it and the checkpoint has one.

    Raises:
        InvalidRequestError: "mtp" without such a layer, or a model that is not here or has another vocabulary.
        CheckpointError, InsufficientMemoryError: that model cannot be loaded.
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
