"""Uses: the record of when models were loaded."""

from pathlib import Path

import pytest

from cluster.uses import Uses


def test_a_use_is_remembered_by_directory_until_the_directory_is_gone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
    link = tmp_path / "link"
    link.symlink_to(one)
    uses = Uses(tmp_path / "home" / "uses.json")
    assert uses.last(one) is None
    uses.note(link)
    first = uses.last(one)
    assert first is not None
    one.rmdir()
    uses.note(other)
    assert list(uses.read()) == [str(other)]


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"/a": "yesterday"}', '{"/a": null}'])
def test_a_damaged_record_counts_as_none_and_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "uses.json"
    path.write_text(content)
    uses = Uses(path)
    assert uses.read() == {}
    uses.note(tmp_path)
    assert uses.last(tmp_path) is not None


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home should be")
    Uses(tmp_path / "home" / "uses.json").note(tmp_path)
