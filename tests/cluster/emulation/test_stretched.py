"""Stretched: a real model that takes its time; drafts, wrong ones too, change nothing of what it says."""

import asyncio
import time

import mlx.core as mx
import pytest

import mlx_moe
from cluster.emulation import stretched
from cluster.emulation.cluster import emulated_cluster
from cluster.emulation.measure import Answer, together
from cluster.errors import ClusterError
from cluster.placement import Placement, StagePlacement
from cluster.worker.role import Role
from mlx_moe.checkpoint import library
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request
from mlx_moe.pipeline.frame import Frame, FrameKind

STAGE_S = 0.02
PLACEMENT = Placement(
    library.DEMO, "", (StagePlacement("first", range(3)), StagePlacement("second", range(3, 6))), 256, 1, 256, {}
)
PROMPT = (1, 4, 300, 301, 5)
TOKENS = 10


def test_a_stage_takes_its_time_and_computes_within_it() -> None:
    role = Role.of(PLACEMENT, "second")
    shard = stretched.load(stretched.name(library.DEMO, STAGE_S), role, lambda *_: None, "none")
    stage = shard.stage("second")
    hidden_states = mx.random.normal((1, shard.config.hidden_size))
    real = super(stretched.StretchedStage, stage).run(Frame("real", 0, hidden_states, FrameKind.DECODE))
    started = time.monotonic()
    frame = stage.run(Frame("stretched", 0, hidden_states, FrameKind.DECODE))
    assert time.monotonic() - started >= STAGE_S
    assert mx.array_equal(frame.hidden_states, real.hidden_states)


@pytest.mark.parametrize("name", ["stretched:", "stretched:0.02", "stretched:long:demo"])
def test_a_name_that_says_no_time_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="is not a stretched model"):
        stretched.load(name, Role.of(PLACEMENT, "first"), lambda *_: None, "none")


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["none", "mtp", stretched.WRONG])
def test_a_stretched_model_says_what_the_real_one_does(draft: str) -> None:
    async def answered() -> Answer:
        name = stretched.name(library.DEMO, STAGE_S)
        async with emulated_cluster(PLACEMENT, lambda _: name, draft) as model:
            (answer,) = await asyncio.to_thread(together, model, Request.exactly(PROMPT, TOKENS), 1)
        return answer

    model = mlx_moe.load(library.DEMO, chunks=DEFAULT_RULE)
    said = [(token.id, token.logprob) for token in model.generate(Request.exactly(PROMPT, TOKENS))]
    model.close()
    answer = asyncio.run(answered())
    assert list(zip(answer.token_ids, answer.logprobs, strict=True)) == said
    if draft == stretched.WRONG:
        assert answer.stats.drafted > answer.stats.accepted == 0
    if draft == "mtp":
        assert answer.stats.accepted > 0
