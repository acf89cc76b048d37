"""A short soak: what a long one does, for a few cycles of one seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.record import Record
from tests.faults.soak import Undisturbed, report, soak, soaked_cluster
from tests.faults.trio import PROMPTS

pytestmark = pytest.mark.slow

SEED, CYCLES = 4, 3


def test_a_few_cycles_of_random_faults_change_no_token(
    tmp_path: Path, measured_hardware: Path, wanted: Undisturbed, record: list[Record]
) -> None:
    with soaked_cluster(tmp_path / "nodes", measured_hardware) as (cluster, between):
        outcome, readers = soak(cluster, between, {prompt: wanted[prompt] for prompt in PROMPTS}, SEED, CYCLES)
    told = f"{readers.answers} answers, {readers.tokens} tokens checked, {len(readers.violations)} violations"
    record.append(Record(30, f"{CYCLES} cycles of seed {SEED}: {'; '.join(outcome.faults)}", told, None, None, True))
    assert not readers.violations, report(outcome, readers)
    assert not outcome.not_whole, report(outcome, readers)
    assert readers.tokens > 0
