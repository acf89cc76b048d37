"""Library: where a model's files are, above all in the Hugging Face cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.weight_files import INDEX_NAME
from mlx_moe.errors import InvalidRequestError

COMMITS = ("9de84537b6aa98de634ad0fbb1608e9d6a019355", "0d1e2f", "1234567")
VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HUB_CACHE": "~/models"},
        {"HF_HUB_CACHE": "$HOME/models"},
        {"HF_HUB_CACHE": ""},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "${HOME}/hf"},
        {"HF_HOME": "relative/hf"},
        {"HUGGINGFACE_HUB_CACHE": "~/older"},
        {"HUGGINGFACE_HUB_CACHE": "/older", "HF_HUB_CACHE": "/newer"},
        {"XDG_CACHE_HOME": "$HOME/xdg"},
        {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/hf"},
    ],
    ids=str,
)
def test_the_cache_is_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    theirs = subprocess.run(
        [sys.executable, "-c", "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(hub_cache.directory()) == (theirs.stdout.strip() or ".")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path / "models--org--name"


def add(
    repo: Path, commit: str, *refs: str, files: tuple[str, ...] = ("model.safetensors",), newline: str = ""
) -> Path:
    """Add a snapshot, newer than those before, and what was downloaded by name."""
    age = len(list(repo.glob("snapshots/*")))
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", *files):
        (snapshot / name).write_text('{"weight_map": {"a": "model.safetensors"}}' if name == INDEX_NAME else "{}")
    os.utime(snapshot, (age, age))
    for ref in refs:
        path = repo / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit + newline)
    return snapshot


@pytest.mark.parametrize("refs", [(), ("main",), ("v1.0",), ("refs/pr/1",), ("v1.0", "main")])
@pytest.mark.parametrize("newline", ["", "\n"])
def test_the_only_snapshot_is_found_however_it_was_asked_for(repo: Path, refs: tuple[str, ...], newline: str) -> None:
    snapshot = add(repo, COMMITS[0], *refs, newline=newline)
    assert library.locate("org/name") == snapshot
    for revision in (*refs, COMMITS[0], COMMITS[0][:7]):
        assert library.locate(f"org/name@{revision}") == snapshot


def test_main_is_meant_where_it_is_complete(repo: Path) -> None:
    main = add(repo, COMMITS[0], "main")
    add(repo, COMMITS[1], "v2")
    assert library.locate("org/name") == main
    assert library.notes("org/name", main) == ()


@pytest.mark.parametrize("partial", [(), (INDEX_NAME,), ("model-00001-of-00002.safetensors",)])
def test_the_newest_complete_snapshot_stands_in_for_a_partial_main(repo: Path, partial: tuple[str, ...]) -> None:
    add(repo, COMMITS[0])
    newest = add(repo, COMMITS[1])
    main = add(repo, COMMITS[2], "main", files=partial)
    assert library.locate("org/name") == newest
    (note,) = library.notes("org/name", newest)
    assert note.endswith(f"the newest complete snapshot is used: {newest.name}")
    assert library.locate("org/name@main") == main
    assert library.notes(f"org/name@{newest.name}", newest) == library.notes(str(newest), newest) == ()


def test_a_partial_snapshot_alone_is_opened_to_say_what_it_lacks(repo: Path) -> None:
    main = add(repo, COMMITS[0], "main", files=())
    assert library.locate("org/name") == main
    assert hub_cache.cure(main).endswith("moe-cluster pull org/name`")
    tagged = add(repo, COMMITS[1], "v2", files=())
    assert hub_cache.cure(tagged).endswith("moe-cluster pull org/name --revision v2`")


def test_a_model_that_is_not_there_is_told_with_the_command_that_downloads_it(repo: Path) -> None:
    with pytest.raises(InvalidRequestError, match="moe-cluster pull org/name`"):
        library.locate("org/name")
    add(repo, COMMITS[0])
    with pytest.raises(InvalidRequestError, match=f"{COMMITS[0]}.*moe-cluster pull org/name --revision v3`"):
        library.locate("org/name@v3")
    with pytest.raises(InvalidRequestError, match="no model"):
        library.locate("org/name@../../x")


@pytest.mark.parametrize(
    ("python", "program"),
    [
        ("{home}/.local/share/uv/tools/moe-cluster/bin/python", "~/.local/share/uv/tools/moe-cluster/bin/hf"),
        ("{home}/my tools/bin/python3", "~/'my tools/bin/hf'"),
        ("/opt/moe/bin/python3", "/opt/moe/bin/hf"),
    ],
)
def test_the_program_that_downloads_is_named_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, program: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", python.format(home=tmp_path))
    assert hub_cache.hf_command("org/name") == f"{program} download org/name"
    (tmp_path / "hf").touch(0o755)
    assert hub_cache.hf_command("org/name") == "hf download org/name"


def test_the_program_that_downloads_comes_with_the_package() -> None:
    assert (Path(sys.executable).parent / "hf").exists()


def test_a_checkpoint_that_lies_elsewhere_in_a_cache_is_completed_there(tmp_path: Path, repo: Path) -> None:
    elsewhere = add(tmp_path / "other disk" / repo.name, COMMITS[0], "main", files=())
    assert hub_cache.cure(elsewhere).endswith(f"HF_HUB_CACHE='{tmp_path}/other disk' moe-cluster pull org/name`")
    assert hub_cache.cure(tmp_path / "model") == "copy or download its files again"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Name two folders of models, the second below the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, f"{tmp_path}/first{os.pathsep}~/second{os.pathsep}")
    return tmp_path / "first", tmp_path / "home" / "second"


def model_in(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def test_a_model_in_a_named_folder_is_found_by_its_name(folders: tuple[Path, Path]) -> None:
    first, second = folders
    one, other = model_in(first / "one"), model_in(second / "org" / "other")
    assert library.locate("one") == one
    assert library.locate("org/other") == other
    for name in ("../first/one", "org", "other", ".", ""):
        with pytest.raises(InvalidRequestError):
            library.locate(name)
    assert list(library.in_folders()) == [("one", one), ("org/other", other)]


def test_namesakes_are_looked_for_where_another_machine_may_have_none(folders: tuple[Path, Path]) -> None:
    first, second = folders
    below_home = model_in(second.parent / "models" / "q3")
    in_folder = model_in(first / "q3")
    in_cache = add(second.parents[1] / "hub" / "models--org--q3", COMMITS[0])
    assert list(library.namesakes("/Users/else/models/q3/", "models/q3")) == [below_home, in_folder, in_cache]
    assert list(library.namesakes("org/q3")) == [in_cache, in_cache, in_folder, in_cache]
    theirs = f"/Users/else/hub/models--org--q3/snapshots/{COMMITS[1]}"
    assert next(library.namesakes(theirs, "hub/models--org--q3/snapshots/x")) == in_cache


def test_a_short_name_finds_its_conversion_or_its_original_whichever_is_here(repo: Path) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        library.locate("DeepSeek-V3")
    assert str(refused.value) == (
        f"DeepSeek-V3 is not on this machine (looked for mlx-community/DeepSeek-V3-4bit and deepseek-ai/DeepSeek-V3 in "
        f"{repo.parent}): download it with `moe-cluster pull DeepSeek-V3`"
    )
    original = add(repo.parent / "models--deepseek-ai--DeepSeek-V3", COMMITS[0])
    assert library.locate("deepseek-v3") == original
    assert library.notes("deepseek-v3", original) == ()
    partial = add(repo.parent / "models--mlx-community--DeepSeek-V3-4bit", COMMITS[1], files=())
    assert library.locate("deepseek-v3") == original
    (partial / "model.safetensors").write_text("{}")
    assert library.locate("deepseek-v3") == partial
    assert library.notes("deepseek-v3", partial) == (
        "deepseek-v3: mlx-community/DeepSeek-V3-4bit is used; deepseek-ai/DeepSeek-V3 is on this machine too",
    )
    assert [*library.namesakes("deepseek-v3")] == [partial, partial, original]


def test_a_short_name_finds_its_files_in_a_named_folder(folders: tuple[Path, Path]) -> None:
    copy = model_in(folders[0] / "Qwen" / "Qwen3-30B-A3B")
    assert library.locate("qwen3:30b") == copy
    own = model_in(folders[1] / "qwen3:30b")
    assert library.locate("qwen3:30b") == own


def test_a_name_that_may_mean_several_models_is_refused_with_them() -> None:
    with pytest.raises(InvalidRequestError, match=r"no model 'kimi' here; did you mean one of kimi-k2, kimi-k2-0905,"):
        library.locate("kimi")
    with pytest.raises(InvalidRequestError, match=r"no model 'dmo' here; did you mean demo\?"):
        library.locate("dmo")


@pytest.mark.parametrize("home_path", ["../../etc", "/etc", "a/../../../etc"])
def test_a_path_below_the_home_directory_does_not_lead_out_of_it(folders: tuple[Path, Path], home_path: str) -> None:
    model_in(folders[0].parent / "etc")
    assert list(library.namesakes("q3", home_path)) == []


@pytest.mark.parametrize("below", ["", "snapshots"])
def test_the_caches_folder_of_a_repo_is_told_with_its_name(repo: Path, below: str) -> None:
    add(repo, "a" * 40, "main")
    with pytest.raises(InvalidRequestError, match="it is the cache's folder of org/name: give that name"):
        library.locate(repo / below)
