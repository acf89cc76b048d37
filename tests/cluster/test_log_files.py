"""Log files: what was written is read once, in order of time, also after a file was moved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import log_files
from cluster.log_files import DAEMON, WORKER, Cursor
from mlx_moe.errors import InvalidRequestError


def line(ms: int, text: str) -> str:
    return f"2026-11-26 10:00:{ms // 1000:02},{ms % 1000:03} cluster INFO {text}"


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{each}\n" for each in lines)


times = st.lists(st.integers(0, 59_999), max_size=20).map(sorted)


@given(times, times)
def test_logs_are_merged_by_time_and_lose_nothing(daemon: list[int], worker: list[int]) -> None:
    logs = [[line(ms, f"{name} {i}") for i, ms in enumerate(log)] for name, log in (("d", daemon), ("w", worker))]
    merged = log_files.merged("".join(f"{each}\n" for each in log) for log in logs)
    assert sorted(merged) == sorted(logs[0] + logs[1])
    assert [each[:23] for each in merged] == sorted(each[:23] for each in merged)
    for log in logs:  # equal times keep their order
        assert [each for each in merged if each in log] == log


def test_a_traceback_stays_behind_its_line() -> None:
    crash = [line(2, "crashed"), "Traceback (most recent call last):", "  File x", "ValueError"]
    assert log_files.merged(["\n".join(crash), line(1, "a") + "\n" + line(3, "b")]) == [
        line(1, "a"),
        *crash,
        line(3, "b"),
    ]


def test_each_line_is_read_once(tmp_path: Path) -> None:
    append(tmp_path / DAEMON, *(line(i, f"{i}") for i in range(5)))
    lines, cursor = log_files.last(tmp_path, 2)
    assert lines == [line(3, "3"), line(4, "4")]
    append(tmp_path / DAEMON, line(6, "6"))
    append(tmp_path / WORKER, line(5, "5"))
    with (tmp_path / WORKER).open("a") as file:
        file.write("half a li")
    lines, cursor = log_files.following(tmp_path, Cursor.parse(str(cursor)))
    assert lines == [line(5, "5"), line(6, "6")]
    append(tmp_path / WORKER, "ne")
    assert log_files.following(tmp_path, cursor)[0] == ["half a line"]


def test_lines_before_and_after_a_move_are_read(tmp_path: Path) -> None:
    append(tmp_path / DAEMON, line(1, "1"))
    _, cursor = log_files.last(tmp_path, 1)
    append(tmp_path / DAEMON, line(2, "2"))
    (tmp_path / DAEMON).rename(tmp_path / f"{DAEMON}.1")
    append(tmp_path / DAEMON, line(3, "3"))
    before, cursor = log_files.following(tmp_path, cursor)
    after, cursor = log_files.following(tmp_path, cursor)
    assert before + after == [line(2, "2"), line(3, "3")]
    assert log_files.following(tmp_path, cursor)[0] == []
    assert log_files.last(tmp_path, 9)[0] == [line(1, "1"), line(2, "2"), line(3, "3")]


def test_a_read_is_bounded(tmp_path: Path) -> None:
    append(tmp_path / WORKER, *(line(i, "x" * 100) for i in range(9000)))
    lines, _ = log_files.last(tmp_path, 10**6)
    assert 1000 < len(lines) <= log_files.MAX_LINES
    lines, cursor = log_files.following(tmp_path, Cursor())
    assert sum(map(len, lines)) <= log_files.MAX_READ_BYTES
    n_lines = len(lines)
    while lines:
        lines, cursor = log_files.following(tmp_path, cursor)
        n_lines += len(lines)
    assert n_lines == 9000


def test_a_line_without_an_end_does_not_block_the_rest(tmp_path: Path) -> None:
    (tmp_path / WORKER).write_bytes(b"x" * (log_files.MAX_READ_BYTES + 5) + b"\nend\n")
    first, cursor = log_files.following(tmp_path, Cursor())
    assert [len(each) for each in first] == [log_files.MAX_LINE_CHARACTERS]
    assert log_files.following(tmp_path, cursor)[0] == ["xxxxx", "end"]


@pytest.mark.parametrize("text", ["../../etc/passwd:1:2", "daemon.log:1", "a b c d", "daemon.log:-1:0", "\x00"])
def test_a_foreign_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        Cursor.parse(text)


def test_there_is_nothing_to_read_where_nothing_was_logged(tmp_path: Path) -> None:
    lines, cursor = log_files.last(tmp_path / "missing", 5)
    assert (lines, log_files.following(tmp_path / "missing", cursor)[0]) == ([], [])


def test_why_the_last_start_failed_is_told_until_one_succeeds(tmp_path: Path) -> None:
    assert log_files.failed_start(tmp_path) == []
    append(tmp_path / "service.log", "error: an older one", "error: port 7420 is taken")
    assert log_files.failed_start(tmp_path) == ["error: port 7420 is taken"]
    append(tmp_path / DAEMON, line(1, "up"))
    os.utime(tmp_path / "service.log", (1, 1))
    assert log_files.failed_start(tmp_path) == []


def test_a_file_that_others_append_to_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "LOG_BYTES", 10)
    for size, left in ((10, 10), (11, 0)):
        (tmp_path / "errors").write_bytes(b"x" * size)
        with (tmp_path / "errors").open("ab") as file:
            log_files.bound(file.fileno())
        assert (tmp_path / "errors").stat().st_size == left
    reading, writing = os.pipe()
    log_files.bound(writing)
    os.close(reading)
    os.close(writing)


def test_a_moved_file_takes_standard_error_along(tmp_path: Path) -> None:
    script = f"""
import logging, os
from pathlib import Path
from cluster import log_files
log_files.LOG_BYTES = 2000
file = log_files.LogFile(Path({str(tmp_path / WORKER)!r}), takes_stderr=True)
file.maxBytes = 2000
logging.basicConfig(level=logging.INFO, handlers=[file])
for i in range(100):
    logging.info("line %d", i)
os.write(2, b"MLX has crashed\\n")
"""
    with (tmp_path / WORKER).open("ab") as output:
        subprocess.run([sys.executable, "-c", script], stderr=output, check=True)
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert files.keys() == {WORKER, f"{WORKER}.1"}
    assert max(files.values()) < 2100
    assert (tmp_path / WORKER).read_text().endswith("MLX has crashed\n")
