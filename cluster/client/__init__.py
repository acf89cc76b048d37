"""The client: what a program on this machine asks of its node, and of the model that the cluster serves.

`NodeClient` and `ModelClient` are asynchronous; `OwnNode` and `RemoteModel` are the same for threads and scripts.
Answers are values: nothing of the wire is seen.
"""

from cluster.client.model import AnswerStream, Begun, ModelClient, ModelDescription, Prefilled, Written
from cluster.client.node import NodeClient, is_running
from cluster.client.plain import OwnNode, RemoteAnswer, RemoteConversation, RemoteModel
from cluster.client.status import (
    ClusterStatus,
    Holding,
    LoadStatus,
    NodeProgress,
    NodeState,
    NodeStatus,
    ServingState,
    ServingStatus,
    WorkerStats,
)
from cluster.client.wanted import Wanted

__all__ = [
    "AnswerStream",
    "Begun",
    "ClusterStatus",
    "Holding",
    "LoadStatus",
    "ModelClient",
    "ModelDescription",
    "NodeClient",
    "NodeProgress",
    "NodeState",
    "NodeStatus",
    "OwnNode",
    "Prefilled",
    "RemoteAnswer",
    "RemoteConversation",
    "RemoteModel",
    "ServingState",
    "ServingStatus",
    "Wanted",
    "WorkerStats",
    "Written",
    "is_running",
]
