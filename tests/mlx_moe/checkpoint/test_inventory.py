"""Inventory: what is on a disk, whole, in part or damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.inventory import Place, State, StoredModel, stored_models
from tests import stored, true_size
from tests.stored import DEMO, WEIGHTS

COMMIT, OTHER = "9de84537b6aa98de634ad0fbb1608e9d6a019355", "0d1e2f3a4b"


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path / "folder"))
    return tmp_path


def the_only(disk: Path) -> StoredModel:
    (model,) = stored_models(disk / "shares")
    return model


def test_nothing_is_on_an_empty_disk(disk: Path) -> None:
    assert stored_models(disk / "shares") == []


def test_models_are_listed_from_the_cache_the_folders_and_what_was_kept(disk: Path) -> None:
    snapshots = [stored.in_cache("org/b", COMMIT), stored.in_cache("Org/a", OTHER), stored.in_cache("org/b", OTHER)]
    (disk / "folder" / "me").mkdir(parents=True)
    (disk / "folder" / "me" / "mine").symlink_to(DEMO)
    share = stored.in_part(disk / "shares" / "org--c" / COMMIT, 0, 1, 2, 3, 4, 5)
    found = stored_models(disk / "shares")
    assert [(m.name, m.revision, m.place) for m in found] == [
        ("Org/a", OTHER, Place.CACHE),
        ("org/b", OTHER, Place.CACHE),
        ("org/b", COMMIT, Place.CACHE),
        ("me/mine", "", Place.FOLDER),
        ("org/c", COMMIT, Place.SHARE),
    ]
    assert [m.path for m in found] == [snapshots[1], snapshots[2], snapshots[0], disk / "folder/me/mine", share]
    size = (DEMO / WEIGHTS).stat().st_size
    for model in found[:4]:
        assert (model.state, model.weights_bytes, model.total_bytes) == (State.WHOLE, size, size)
        assert model.disk_bytes >= size
        assert (model.model_type, model.form) == ("deepseek_v3", "8 bit")


@pytest.mark.parametrize(("layers", "told"), [((2, 3), range(2, 4)), ((0, 2), None), ((), None)])
def test_a_share_tells_its_layers_if_they_are_consecutive(
    disk: Path, layers: tuple[int, ...], told: range | None
) -> None:
    stored.in_part(disk / "shares" / "org--c" / COMMIT, *layers)
    model = the_only(disk)
    assert (model.state, model.layers, model.n_missing) == (State.PART, told, 0)
    assert bool(model.weights_bytes) == bool(layers)
    assert model.weights_bytes < model.total_bytes < (DEMO / WEIGHTS).stat().st_size  # without the header
    assert model.disk_bytes < model.total_bytes


def test_missing_files_are_counted(disk: Path) -> None:
    snapshot = stored.in_cache("org/a", COMMIT)
    index = {"weight_map": {"a": WEIGHTS, "b": "model-2.safetensors", "c": "model-3.safetensors"}}
    (snapshot / "model.safetensors.index.json").unlink()
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    model = the_only(disk)
    assert (model.state, model.n_missing, model.n_files, model.total_bytes) == (State.PART, 2, 3, 0)


def _rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        (WEIGHTS, (DEMO / WEIGHTS).read_bytes()[:-1], r"has [\d]+ bytes, its tensors end at .*moe-cluster pull org/a`"),
        (WEIGHTS, (DEMO / WEIGHTS).read_bytes()[:100], "truncated: 100 bytes, of which its header claims"),
        (WEIGHTS, b"", "truncated: 0 bytes"),
        (WEIGHTS, b"version https://git-lfs", "a Git LFS pointer"),
        (WEIGHTS, (4).to_bytes(8, "little") + b"[[[[", "its header is damaged"),
        (WEIGHTS, (9).to_bytes(8, "little") + b'{"a": {}}', "its header is damaged"),
        (WEIGHTS, (8).to_bytes(8, "little") + b'{"a": 1}', "its header is damaged"),
        ("config.json", b"{", "is not JSON"),
    ],
)
def test_a_damaged_model_says_what_is_wrong(disk: Path, file: str, data: bytes, told: str) -> None:
    _rewrite(stored.in_cache("org/a", COMMIT) / file, data)
    model = the_only(disk)
    assert model.state is State.DAMAGED
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(model.damage)


def test_what_is_not_a_model_is_not_listed_and_one_without_weights_says_so(disk: Path) -> None:
    (hub_cache.directory() / "models--org--empty" / "snapshots" / COMMIT).mkdir(parents=True)
    (hub_cache.directory() / "datasets--org--data" / "snapshots" / COMMIT).mkdir(parents=True)
    assert stored_models(disk / "shares") == []
    snapshot = stored.in_cache("org/a", COMMIT)
    for path in snapshot.glob("model.safetensors*"):
        path.unlink()
    assert the_only(disk).damage.endswith("there are no safetensors files: download it with `moe-cluster pull org/a`")
    (snapshot / "model.gguf").touch()
    assert "GGUF" in the_only(disk).damage


@pytest.mark.parametrize(("form", "told"), [("fp8", "fp8"), ("bf16", "bf16"), ("4bit", "4 bit"), ("int4", "int4")])
def test_the_form_of_published_checkpoints_is_told_from_their_headers(disk: Path, form: str, told: str) -> None:
    true_size.write(disk / "folder" / "large", form, layers=5)
    model = the_only(disk)
    assert (model.form, model.state) == (told, State.WHOLE)
    assert model.disk_bytes < 10_000_000 < model.weights_bytes  # the files are sparse


def test_listing_imports_no_mlx() -> None:
    script = (
        "import sys; from pathlib import Path; from mlx_moe.checkpoint.inventory import stored_models\n"
        "stored_models(Path('/nowhere')); print('mlx.core' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    python = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=True)
    assert python.stdout.split()[0] == "False"
