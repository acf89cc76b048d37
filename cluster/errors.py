"""The cluster's part of the error tree; what the engine raises is in `mlx_moe.errors`.

MoeClusterError
└── ClusterError
├── TrustError       a stranger, a wrong or spent token, a certificate that does not fit
├── PlacementError   the model does not fit the nodes; says what would make it fit
├── NodeLostError    a node that was counted on does not answer
├── NoClusterError   no node runs on this machine
├── HeldError        another process does not let go of a lock
└── OccupiedError    the cluster serves another model, which is not to be replaced unasked
"""

from __future__ import annotations

from mlx_moe.errors import MoeClusterError


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


class NoClusterError(ClusterError):
    """There is no node daemon to ask."""

    code = "no_cluster"


class HeldError(ClusterError):
    """Another process holds a lock, and does not let go of it."""

    code = "held"


class OccupiedError(ClusterError):
    """The cluster serves another model, which is idle."""

    code = "occupied"
