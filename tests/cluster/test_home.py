"""Home: a place that cannot hold a node's state is said in one line, with the cure."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.home import VARIABLE, Home
from cluster.trust import private_file


def test_a_directory_that_cannot_be_made_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(ClusterError, match=f"{path} cannot hold .*; set {VARIABLE} to a directory that can"):
            Home(path).create()


def test_a_path_that_is_too_long_is_refused_before_anything_looks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / ("x" * 300)))
    with pytest.raises(ClusterError, match="File name too long"):
        Home.default()


def test_a_home_with_spaces_that_is_not_there_yet_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "my macs" / "one"))
    Home.default().create()
    assert (tmp_path / "my macs" / "one" / "sessions").is_dir()


def test_a_full_disk_is_named_and_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "options.json"
    private_file.write(path, b"old")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ClusterError, match=r"options\.json cannot be written: No space left on device"):
        private_file.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["options.json"]
