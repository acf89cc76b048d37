"""Drafting: ways to predict the next tokens of an answer before the model has computed them."""

from mlx_moe.decoding.drafting.choice import choose_drafter as choose_drafter
from mlx_moe.decoding.drafting.drafter import Drafter as Drafter
from mlx_moe.decoding.drafting.mtp_drafter import MTPDrafter as MTPDrafter
from mlx_moe.decoding.drafting.ngram_drafter import NgramDrafter as NgramDrafter
from mlx_moe.decoding.drafting.small_model import SmallModel as SmallModel
from mlx_moe.decoding.drafting.small_model import SmallModelDrafter as SmallModelDrafter
