"""Copies: which of the directories that may hold a model does, and how little is read to find that out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.daemon import copies as module
from cluster.daemon.copies import MOST_OPEN, Copies, Copy
from cluster.home import Home
from cluster.wire import node_pb2 as pb
from mlx_moe.checkpoint import library
from mlx_moe.errors import CheckpointError

DEMO = library.locate("demo")
HOME = Home(Path("/nowhere"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one folder of models of a machine that has nothing else."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def demo() -> Copy:
    copy = Copies(HOME).find(pb.WantedModel(model="demo"))
    assert copy is not None
    return copy


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the directories whose headers and tensors are read from now on."""
    directories: list[Path] = []
    read = Copies._read

    def counted(copies: Copies, directory: Path) -> Copy:
        directories.append(directory)
        return read(copies, directory)

    monkeypatch.setattr(module.Copies, "_read", counted)
    return directories


def wanted(demo: Copy, model: str = "/Users/else/q3") -> pb.WantedModel:
    return pb.WantedModel(model=model, content_hash=demo.content_hash, config_hash=demo.config_hash)


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_copy_is_found_under_any_name_and_other_models_are_not_read(
    folder: Path, demo: Copy, opened: list[Path]
) -> None:
    for name in ("a", "org/b", "z"):
        shutil.copytree(DEMO, folder / name)
    change_config(folder / "a", rms_norm_eps=0.5)
    (folder / "z" / "config.json").write_text("no JSON")
    copy = Copies(HOME).find(wanted(demo))
    assert copy is not None
    assert (copy.directory, copy.content_hash) == (folder / "org" / "b", demo.content_hash)
    assert opened == [folder / "org" / "b"]


def test_a_directory_that_several_names_lead_to_is_read_once(folder: Path, demo: Copy, opened: list[Path]) -> None:
    shutil.copytree(DEMO, folder / "q3")
    (folder / "link").symlink_to(folder / "q3")
    change_config(folder / "q3", rms_norm_eps=0.5)
    copy = Copies(HOME).find(wanted(demo, str(folder / "link")))
    assert copy is not None
    assert copy.content_hash != demo.content_hash  # nothing else goes by the name: it tells where they differ
    assert opened == [folder / "link"]


def test_a_guest_learns_of_a_path_elsewhere_only_whether_the_content_that_it_knows_is_there(
    tmp_path: Path, folder: Path, demo: Copy
) -> None:
    for name in ("same", "other"):
        shutil.copytree(DEMO, tmp_path / name)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "file").touch()
    change_config(tmp_path / "other", rms_norm_eps=0.5)
    copies = Copies(HOME)
    elsewhere = ["other", "damaged", "file", "nowhere", "same/..", "a" * 300, "zero\0"]
    paths = [str(tmp_path / name) for name in elsewhere]
    assert {copies.find(wanted(demo, path), is_guest=True) for path in paths} == {None}
    assert {copies.find(pb.WantedModel(model=path), is_guest=True) for path in (*paths, str(tmp_path / "same"))} == {
        None
    }
    assert copies.find(wanted(demo, str(tmp_path / "same")), is_guest=True) is not None
    assert copies.find(wanted(demo, str(tmp_path / "other"))) is not None  # as this machine's person names it
    shutil.copytree(DEMO, folder / "mine")
    change_config(folder / "mine", rms_norm_eps=0.5)
    copy = copies.find(pb.WantedModel(model=str(folder / "mine")), is_guest=True)
    assert copy is not None
    assert copy.directory == folder / "mine"


def test_a_damaged_copy_is_told_only_where_no_other_is_whole(folder: Path, demo: Copy) -> None:
    shutil.copytree(DEMO, folder / "q3")
    (folder / "q3" / "model.safetensors").unlink()
    copies = Copies(HOME)
    with pytest.raises(CheckpointError, match="files are missing"):
        copies.find(wanted(demo))
    shutil.copytree(DEMO, folder / "whole")
    copy = copies.find(wanted(demo))
    assert copy is not None
    assert copy.directory == folder / "whole"


@pytest.mark.usefixtures("folder")
def test_what_is_nowhere_is_not_found(demo: Copy) -> None:
    copies = Copies(HOME)
    assert copies.find(wanted(demo)) is None
    with pytest.raises(CheckpointError, match="no copy with the content"):
        copies.known(demo.content_hash)


def test_the_tensors_of_a_copy_that_was_found_are_read_on_request(folder: Path, demo: Copy) -> None:
    shutil.copytree(DEMO, folder / "q3")
    copies = Copies(HOME)
    copies.find(wanted(demo))
    norm = "model.layers.1.input_layernorm.weight"
    assert copies.digests(pb.ModelPart(content_hash=demo.content_hash)) == [*demo.digests.items()]
    assert [name for name, _ in copies.digests(pb.ModelPart(content_hash=demo.content_hash, parameter=norm))] == [norm]
    assert copies.digests(pb.ModelPart(content_hash=demo.content_hash, parameter="model.layers.99")) == []


def test_the_files_of_a_copy_stay_open_while_another_ones_are_read(tmp_path: Path, folder: Path) -> None:
    """A reader has only a descriptor: if it were closed, the number might be another file's."""
    copies, found = Copies(Home(tmp_path)), []
    for n in range(MOST_OPEN + 1):
        directory = folder / f"model-{n}"
        shutil.copytree(DEMO, directory)
        config = json.loads((directory / "config.json").read_text()) | {"rope_theta": 10000.0 + n}
        (directory / "config.json").write_text(json.dumps(config))
        found.append(copies.local(str(directory)))
    first, *_ = sources = [copies.source(copy.content_hash) for copy in found]
    before, after = bytearray(64), bytearray(64)
    first.read_into("model.safetensors", [range(64)], memoryview(before))
    assert all(copies.source(copy.content_hash) is not first for copy in found[1:])
    first.read_into("model.safetensors", [range(64)], memoryview(after))
    assert before == after
    for source in sources:
        source.close()
    copies.close()


def test_a_damaged_record_hides_only_its_own_model(tmp_path: Path, demo: Copy) -> None:
    for name, record in (("damaged", "{"), ("mine", "")):
        directory = tmp_path / "models" / name / demo.content_hash
        shutil.copytree(DEMO, directory)
        text = json.dumps({"model": "mine", "content_hash": demo.content_hash, "digests": {}})
        (directory / "content.json").write_text(record or text)
    arriving = tmp_path / "models" / "mine" / ".arriving-1"
    arriving.mkdir()
    (arriving / "content.json").write_text(text)
    kept = Copies(Home(tmp_path)).kept(demo.content_hash)
    assert kept is not None
    assert kept.directory == tmp_path / "models" / "mine" / demo.content_hash
