"""Check: what cannot be read, or is not as expected, is told as not checked; nothing hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.doctor import check as module
from cluster.doctor.check import Check, Command
from cluster.doctor.finding import Finding, Remark, State, finding


def run(*sources: Command | Path, optional: frozenset[Command | Path] = frozenset()) -> Finding:
    def judge(*texts: str) -> Iterator[Remark]:
        yield Remark(f"read {' '.join(texts)}!")

    return asyncio.run(Check("test", sources, judge, optional).run())


def python(code: str) -> Command:
    return (sys.executable, "-c", code)


def test_commands_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert run(tmp_path / "file", python("print('y', end='')")).found == ("read x y!",)


def test_an_output_counts_even_with_an_error_code() -> None:
    assert run(python("import sys; print('y', end=''); sys.exit(1)")).found == ("read y!",)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (("/nowhere/pmset", "-g"), "/nowhere/pmset: No such file or directory"),
        (Path("/nowhere/file"), "/nowhere/file: No such file or directory"),
        (python("import sys; sys.exit('must be root')"), "must be root"),
        (python("import sys; sys.exit(3)"), "code 3"),
    ],
)
def test_what_cannot_be_read_is_not_checked(source: Command | Path, reason: str) -> None:
    found = run(source)
    assert found.state is State.NOT_CHECKED
    assert found.found[0].endswith(reason)
    assert run(source, optional=frozenset((source,))).found == ("read !",)


def test_a_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.2)
    found = run(python("import time; time.sleep(600)"))
    assert (found.state, found.found[0].endswith("took longer than 0.2 s")) == (State.NOT_CHECKED, True)


def test_the_worst_remark_gives_the_state() -> None:
    remarks = [
        Remark("a"),
        Remark("b", State.WARNING, "cure"),
        Remark("c", State.NOT_CHECKED),
        Remark("d", cure="cure"),
    ]
    assert finding("x", remarks) == Finding("x", State.WARNING, ("a", "b", "c", "d"), ("cure",))
