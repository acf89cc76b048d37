"""Sparse checkpoints of the true size: their headers are those of the published ones, and the engine finds them."""

import math
from collections import Counter
from pathlib import Path

import pytest

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.summary import describe
from tests.true_size import FORMS, tensors, write

PUBLISHED = {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}
"""Numbers by dtype in deepseek-ai/DeepSeek-V3. Source: `safetensors.parameters` of huggingface.co/api/models."""


def test_the_numbers_of_each_dtype_are_those_that_the_hub_counted() -> None:
    form = FORMS["fp8"]
    counted: Counter[str] = Counter()
    for tensor in tensors(form, form.config | form.keys):
        counted[tensor.dtype] += math.prod(tensor.shape)
    assert counted == PUBLISHED


UNREAD = ("4.embed_tokens.weight", "shared_head.head.weight", "weight_shape")
"""Ends of names that no parameter is read from: copies of the embedding and the lm_head, and what shapes say anyway."""


@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_four_layers_is_described_and_takes_no_room(tmp_path: Path, form: str) -> None:
    directory = write(tmp_path / form, form, layers=4)
    summary = describe(directory)
    with Checkpoint.open(directory) as checkpoint:
        stored_bytes = sum(checkpoint.info(name).nbytes for name in checkpoint.names if not name.endswith(UNREAD))
    assert summary.weights_bytes == stored_bytes > 8 * 10**9
    assert (summary.mtp_parameters > 0) == FORMS[form].has_mtp
    on_disk = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    assert on_disk < 8 << 20
