"""Loading: what is served already is loaded anew only where something else is wanted of it."""

import pytest

from cluster.client import OwnNode
from tests.cluster.running import Cluster

pytestmark = pytest.mark.slow


def test_a_served_model_is_loaded_anew_to_draft_otherwise_and_only_then(five_nodes: Cluster) -> None:
    with OwnNode.connect(five_nodes.nodes[0].home) as node:
        epochs = [list(node.load("demo", draft=draft))[-1].serving.epoch for draft in ("none", "", "none", "ngram", "")]
    first = epochs[0]
    assert epochs == [first, first, first, first + 1, first + 1]
