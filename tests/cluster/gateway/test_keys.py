"""API keys: made once, stored as hashes, revocable."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError, TrustError
from cluster.gateway.keys import Keys
from mlx_moe.errors import InvalidRequestError


def test_a_key_is_known_by_name_until_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    written, read = Keys(path), Keys(path)
    anna, bob = written.create("anna"), written.create("bob")
    assert (read.owner(anna), read.owner(bob), read.owner("moe-x"), read.owner("")) == ("anna", "bob", None, None)
    assert anna not in path.read_text()
    written.revoke("anna")
    assert (read.owner(anna), read.owner(bob)) == (None, "bob")


def test_a_name_is_taken_once_and_must_be_readable(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.create("anna")
    for name in ("anna", "", " ", "a" * 65, "\x1b[31m"):
        with pytest.raises(InvalidRequestError):
            keys.create(name)
    with pytest.raises(InvalidRequestError, match="the keys are: anna"):
        keys.revoke("bob")


def test_a_file_that_is_damaged_or_open_to_others_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = Keys(path).create("anna")
    path.chmod(0o644)
    with pytest.raises(TrustError):
        Keys(path).owner(key)
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(ClusterError, match="delete it"):
        Keys(path).owner(key)
