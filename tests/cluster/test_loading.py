"""Loading: what is served already is loaded anew only where something else is wanted of it."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from cluster.client import OwnNode, Wanted
from mlx_moe.checkpoint import library
from mlx_moe.decoding.request import Request
from mlx_moe.errors import InvalidRequestError
from tests.cluster.running import Cluster

pytestmark = pytest.mark.slow


def test_a_served_model_is_loaded_anew_to_draft_otherwise_and_only_then(five_nodes: Cluster) -> None:
    with OwnNode.connect(five_nodes.nodes[0].home) as node:
        epochs = [
            list(node.load(Wanted("demo", draft=draft)))[-1].serving.epoch
            for draft in ("none", "", "none", "ngram", "")
        ]
    first = epochs[0]
    assert epochs == [first, first, first, first + 1, first + 1]


def test_a_served_model_is_loaded_anew_to_cut_prompts_otherwise_and_its_log_says_how(five_nodes: Cluster) -> None:
    prompt = Request.exactly(range(1, 91), 2)
    seen = []
    with OwnNode.connect(five_nodes.nodes[0].home) as node:
        for length in (40, 0, 40, 64):
            epoch = list(node.load(Wanted("demo", chunk=length)))[-1].serving.epoch
            with closing(node.model(node.status())) as model:
                answer = model.new_conversation().answer(prompt)
                list(answer)
            seen.append((epoch, answer.stats.chunk_length))
    first = seen[0][0]
    assert seen == [(first, 40), (first, 40), (first, 40), (first + 1, 64)]


def test_a_served_model_is_loaded_anew_for_a_longer_context_and_only_then(five_nodes: Cluster, tmp_path: Path) -> None:
    model = tmp_path / "stretched"
    shutil.copytree(library.locate("demo"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_scaling": {"rope_type": "linear", "factor": 2}}))
    with OwnNode.connect(five_nodes.nodes[0].home) as node:
        epochs = []
        for tokens in (0, 2048, 3000, 2500, 0):
            epochs.append(list(node.load(Wanted(str(model), context_tokens=tokens, replace=True)))[-1].serving.epoch)
            with closing(node.model(node.status())) as served:
                assert served.description.context_tokens == (2048 if tokens in (0, 2048) and len(epochs) < 3 else 3000)
        with pytest.raises(InvalidRequestError, match="at most 4,096"):
            list(node.load(Wanted(str(model), context_tokens=5000)))
        assert node.status().serving.epoch == epochs[-1]
    first = epochs[0]
    assert epochs == [first, first, first + 1, first + 1, first + 1]
