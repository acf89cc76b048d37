"""The whole error tree, and the cluster's part of it; the engine's is in `mlx_moe.errors`.

    MoeClusterError
    ├── InvalidRequestError          the request is invalid, or cannot be served
    │   ├── NotFoundError            over HTTP: no such path, or another model than the served one
    │   └── TooLongError             over HTTP: a body beyond the limit
    ├── CheckpointError              the model's files are missing, damaged or contradict each other
    │   ├── UnsupportedModelError    sound files of a kind this version does not run
    │   ├── SourceError              bytes of weights that no source delivers (mlx_moe.checkpoint.source)
    │   └── TemplateError            the chat template failed, or would not stop
    ├── InsufficientMemoryError      the shard or the KV cache does not fit the memory budget
    │   ├── TooLargeError            one request needs more KV cache than exists
    │   ├── BusyError                other requests have the KV cache now                           retryable
    │   ├── EvictedError             an older request took the KV cache of this one                 retryable
    │   └── PressureError            a node has too little memory left for a request or an answer   retryable
    ├── FrameError                   a frame that may not run: a hole, a wrong shape or dtype       retryable
    │   └── RewindError              the state of a frame's position is gone; says what is left      retryable
    ├── NumericsError                NaN or Inf where numbers should be; names the node and the layer
    ├── LinkError                    invalid bytes on a link (cluster.worker.messages)              retryable
    └── ClusterError                 a failure of the cluster rather than of a model or a request
        ├── TrustError               a stranger, a wrong or spent token, a certificate that does not fit
        │   └── RefusedError         a certificate that is not issued to this node; says why (cluster.trust.enrolment)
        ├── PlacementError           the model does not fit the nodes; says what would make it fit
        ├── NodeLostError            a node does not answer, or ended                               retryable
        │   └── UnloadedError        the model was unloaded; its answers end
        ├── MovedError               the model is being placed in another way; its answers end      retryable
        ├── UnreadError              an answer whose reader did not read it for long
        ├── NoClusterError           no node runs on this machine, or it serves no model
        ├── HeldError                another process holds a lock and does not release it           retryable
        ├── OutvotedError            too few nodes agree to a placement                          retryable
        ├── OccupiedError            the cluster serves another, idle model; asks before replacing it
        └── DownloadError            weights would be downloaded, which nobody agreed to yet

Each carries `node_id`, `sequence_id` and `request_id` where they are known, and travels over gRPC as it is: see
`cluster.rpc_errors`. Retryable means that the same request, sent again unchanged, may succeed.
"""

from __future__ import annotations

from mlx_moe.errors import InvalidRequestError, MoeClusterError


class ClusterError(MoeClusterError):
    """A failure of the cluster rather than of a model or a request."""

    code = "cluster"


class TrustError(ClusterError):
    """Somebody who may not come in, or a proof that does not hold."""

    code = "untrusted"


class PlacementError(ClusterError):
    """A model that does not fit the nodes."""

    code = "does_not_fit"


class NodeLostError(ClusterError):
    """A node that does not answer."""

    code = "node_lost"
    retryable = True


class UnloadedError(NodeLostError):
    """An answer that was ended because its model was unloaded."""

    code = "unloaded"
    retryable = False


class MovedError(ClusterError):
    """An answer that was ended because the model is being placed on the nodes in another way."""

    code = "moved"
    retryable = True


class UnreadError(ClusterError):
    """An answer that was ended because its reader was far behind and did not read for long."""

    code = "unread"


class NoClusterError(ClusterError):
    """There is no node daemon to ask."""

    code = "no_cluster"


class HeldError(ClusterError):
    """Another process holds a lock, and does not let go of it."""

    code = "held"
    retryable = True


class OutvotedError(ClusterError):
    """Too few nodes agree that this one places a model."""

    code = "outvoted"
    retryable = True


class OccupiedError(ClusterError):
    """The cluster serves another model, which is idle."""

    code = "occupied"


class DownloadError(ClusterError):
    """Weights have to be downloaded first, which nobody has agreed to; the message says how much, and to where."""

    code = "download"


class NotFoundError(InvalidRequestError):
    """A path of an HTTP API that does not exist, or a model that is not the served one."""

    code = "not_found"


class TooLongError(InvalidRequestError):
    """The body of an HTTP request that is too large to be read."""

    code = "request_too_large"
