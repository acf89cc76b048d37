"""Storage: room, speed, sizes, permissions and leftovers, of real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.doctor import storage
from cluster.doctor.finding import State
from cluster.doctor.storage import Content, Disk
from cluster.home import Home

GB = 10**9


@pytest.mark.parametrize(
    ("disk", "state"),
    [
        (Disk("/d", 900 * GB, 1000 * GB), State.OK),
        (Disk("/d", 900 * GB, 1000 * GB, 3e9), State.OK),
        (Disk("/d", 9 * GB, 1000 * GB, 3e9), State.WARNING),
        (Disk("/d", GB // 2, 1000 * GB), State.PROBLEM),
        (Disk("/d", 900 * GB, 1000 * GB, 1e8), State.WARNING),
    ],
)
def test_room_and_speed_are_judged(disk: Disk, state: State) -> None:
    found = storage.disks_finding([disk])
    assert found.state is state
    assert bool(found.cures) == (state is not State.OK)


def test_the_speed_is_that_of_a_large_weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PROBE_BYTES", 1 << 20)
    (tmp_path / "small.safetensors").write_bytes(bytes(1000))
    assert [disk.bytes_per_s for disk in storage.read_disks([tmp_path, tmp_path / "missing"])] == [0.0]
    (tmp_path / "large.safetensors").write_bytes(bytes(2 << 20))
    (disk,) = storage.read_disks([tmp_path / "missing", tmp_path])
    assert disk.bytes_per_s > 0
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_what_others_may_read_is_a_problem(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.identity.mkdir(mode=0o700)
    key = home.identity / "node.key"
    key.write_text("secret")
    key.chmod(0o600)
    assert (storage.private_files(home), storage.read_content(home.path, is_private=True).open_to_others) == ([], [])
    key.chmod(0o640)
    home.path.chmod(0o755)
    assert storage.private_files(home) == [str(key)]
    content = storage.read_content(home.path, is_private=True)
    assert content.open_to_others == [str(home.path)]
    found = storage.directories_finding([content])
    assert (found.state, found.cures) == (State.PROBLEM, (f"chmod -R go-rwx {home.path}",))


def test_old_parts_of_downloads_are_leftovers(tmp_path: Path) -> None:
    for name, age_s in (("a.incomplete", 2 * 86400), ("b.incomplete", 60), ("c.safetensors", 2 * 86400)):
        (tmp_path / name).write_bytes(bytes(8192))
        os.utime(tmp_path / name, (10**9 - age_s,) * 2)
    content = storage.read_content(tmp_path, now_s=10**9)
    assert (content.n_files, content.leftovers) == (3, 1)
    found = storage.directories_finding([content])
    assert (found.state, found.cures) == (State.WARNING, (f"find {tmp_path} -name '*.incomplete' -mtime +0 -delete",))


def test_a_huge_directory_is_not_counted_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_ENTRIES", 3)
    for i in range(5):
        (tmp_path / f"{i}").write_bytes(b"x")
    content = storage.read_content(tmp_path)
    assert (content.n_files, content.is_whole) == (3, False)
    assert "has at least" in storage.directories_finding([content]).found[0]


def test_a_directory_that_is_missing_has_nothing(tmp_path: Path) -> None:
    assert storage.read_content(tmp_path / "missing", is_private=True) == Content(str(tmp_path / "missing"))
