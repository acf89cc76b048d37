"""Placement: which node holds which layers and experts, how fast that answers, and what to do if it does not fit.

Pure: it opens no files (`cluster.cost_reader` does) and imports no MLX.
"""

from cluster.placement.accounting import Load, loads, placed
from cluster.placement.capacity import Link, Links, NodeCapacity
from cluster.placement.chunks import Latency
from cluster.placement.costs import ModelCosts
from cluster.placement.placement import ExpertPeer, Placement, StagePlacement, Standby, validate
from cluster.placement.prediction import Prediction, predict
from cluster.placement.rebalance import Rebalance, rebalance
from cluster.placement.remedy import Fit, Remedy, Wish, fit, remedies
from cluster.placement.repair import repair
from cluster.placement.solver import Objective, solve
from cluster.placement.stages import spread
from cluster.placement.standby import with_standby

__all__ = [
    "ExpertPeer",
    "Fit",
    "Latency",
    "Link",
    "Links",
    "Load",
    "ModelCosts",
    "NodeCapacity",
    "Objective",
    "Placement",
    "Prediction",
    "Rebalance",
    "Remedy",
    "StagePlacement",
    "Standby",
    "Wish",
    "fit",
    "loads",
    "placed",
    "predict",
    "rebalance",
    "remedies",
    "repair",
    "solve",
    "spread",
    "validate",
    "with_standby",
]
