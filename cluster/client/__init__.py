"""Client: how programs on this machine call their node, and the model that the cluster serves.

`NodeClient` and `ModelClient` are asynchronous; `OwnNode` and `RemoteModel` are the same for threads and scripts.
Results are values; protobuf messages do not appear.
"""

from cluster.client.about import NodeAbout
from cluster.client.answer_stream import AnswerStream, Begun, Prefilled, PromptScored, Waiting, Written
from cluster.client.gateway_options import GatewayOptions
from cluster.client.model import ModelClient, ModelDescription
from cluster.client.node import NodeClient, is_running
from cluster.client.plain import OwnNode, RemoteAnswer, RemoteConversation, RemoteModel
from cluster.client.status import (
    ClusterStatus,
    Holding,
    LoadStatus,
    NodeProgress,
    NodeState,
    NodeStatus,
    RemovedNode,
    ServingState,
    ServingStatus,
    WorkerStats,
)
from cluster.client.wanted import Wanted

__all__ = [
    "AnswerStream",
    "Begun",
    "ClusterStatus",
    "GatewayOptions",
    "Holding",
    "LoadStatus",
    "ModelClient",
    "ModelDescription",
    "NodeAbout",
    "NodeClient",
    "NodeProgress",
    "NodeState",
    "NodeStatus",
    "OwnNode",
    "Prefilled",
    "PromptScored",
    "RemoteAnswer",
    "RemoteConversation",
    "RemoteModel",
    "RemovedNode",
    "ServingState",
    "ServingStatus",
    "Waiting",
    "Wanted",
    "WorkerStats",
    "Written",
    "is_running",
]
