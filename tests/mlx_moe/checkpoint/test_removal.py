"""Removal: which copies of a model are deleted, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.inventory import stored_models
from mlx_moe.checkpoint.removal import Removal, removal
from mlx_moe.errors import CheckpointError, InvalidRequestError
from tests import stored
from tests.stored import DEMO, WEIGHTS

FIRST, SECOND = "1" * 40, "2" * 40
SIZE = (DEMO / WEIGHTS).stat().st_size


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path / "folder"))
    return tmp_path


def planned(disk: Path, model: str) -> Removal:
    return removal(model, stored_models(disk / "shares"))


def test_all_copies_of_a_model_are_deleted_and_no_other_model(disk: Path) -> None:
    snapshot, other = stored.in_cache("org/a", FIRST), stored.in_cache("org/b", FIRST)
    share = stored.in_part(disk / "shares" / "org--a" / SECOND, 1, 2)
    plan = planned(disk, "org/a")
    assert (plan.name, {copy.path for copy in plan.copies}) == ("org/a", {snapshot, share})
    assert plan.freed_bytes > SIZE
    plan.execute()
    assert not snapshot.exists()
    assert not share.parent.exists()
    assert (other / WEIGHTS).stat().st_size == SIZE
    assert [model.name for model in stored_models(disk / "shares")] == ["org/b"]


@pytest.mark.parametrize("typed", [f"org/a@{FIRST}", f"org/a@{FIRST[:7]}", "org/a@v1"])
def test_one_revision_is_deleted_without_the_files_that_another_one_needs(disk: Path, typed: str) -> None:
    stored.in_cache("org/a", FIRST, ref="v1")
    kept = stored.in_cache("org/a", SECOND)
    (kept / "config.json").unlink()  # only this file differs
    (kept / "config.json").write_bytes((DEMO / "config.json").read_bytes())
    plan = planned(disk, typed)
    assert plan.freed_bytes == (DEMO / "config.json").stat().st_size
    plan.execute()
    (left,) = stored_models(disk / "shares")
    assert (left.revision, left.damage) == (SECOND, "")


def test_a_short_name_deletes_the_copy_that_is_here_and_asks_which_one_of_two(disk: Path) -> None:
    original = stored.in_cache("deepseek-ai/DeepSeek-V3", FIRST)
    assert planned(disk, "deepseek-v3:671b").copies[0].path == original
    stored.in_cache("mlx-community/DeepSeek-V3-4bit", FIRST)
    with pytest.raises(InvalidRequestError) as refused:
        planned(disk, "deepseek-v3")
    assert str(refused.value) == (
        "deepseek-v3 is on this machine as deepseek-ai/DeepSeek-V3 and as mlx-community/DeepSeek-V3-4bit: type "
        "`moe-cluster rm deepseek-ai/DeepSeek-V3` or `moe-cluster rm mlx-community/DeepSeek-V3-4bit`"
    )


def test_a_directory_of_the_users_is_never_deleted(disk: Path) -> None:
    own = disk / "folder" / "my model"
    own.parent.mkdir()
    own.symlink_to(DEMO)
    for typed in ("my model", str(own)):
        with pytest.raises(InvalidRequestError, match=f"your own directory.* delete it with `rm -r '{own}'`"):
            planned(disk, typed)
    snapshot = stored.in_cache("org/a", FIRST)
    with pytest.raises(InvalidRequestError, match=f"part of the cache: delete it with `moe-cluster rm org/a@{FIRST}`"):
        planned(disk, str(snapshot))


@pytest.mark.parametrize("typed", ["org/b", "org/a@3", "kimi-k2", "nothing"])
def test_what_is_not_here_cannot_be_deleted(disk: Path, typed: str) -> None:
    stored.in_cache("org/a", FIRST)
    with pytest.raises(InvalidRequestError, match=f"{typed} is not on this machine; `moe-cluster ls` lists what is"):
        planned(disk, typed)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_cache_is_deleted_as_a_whole_by_hand(disk: Path) -> None:
    stored.in_cache("org/a", FIRST)
    repo = hub_cache.directory() / "models--org--a"
    (repo / "refs" / "main").write_text(SECOND)
    with pytest.raises(CheckpointError, match=f"delete all of it with `rm -r {repo}`"):
        planned(disk, "org/a")
