"""`convert` on the command line: what it says, at which widths, and how Ctrl-C ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli import app
from mlx_moe.conversion.conversion import Conversion
from tests.cli.terminal import ROOT, Terminal

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line; return its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["moe-cluster", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            app.main()
        assert isinstance(exit_info.value.code, int)
        return exit_info.value.code

    return run


def test_it_says_what_it_writes_and_that_it_is_there_already(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("convert", "demo", str(tmp_path / "demo"), "--recipe", "mixed", "--group-size", "32")
    assert run(*command) == 0
    said, errors = capfd.readouterr()
    said = " ".join(said.split())
    for wanted in (
        "4 bits in groups of 32",
        "6 bits in groups of 32",
        "in 8 files",
        "kept",
        "lose twice",
        "wrote 4.1 MB",
    ):
        assert wanted in said
    assert not errors
    assert run(*command) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'demo'} has this conversion already\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "5", "--mode", "mxfp4"], "mxfp4 supports 4 bits in groups of 32, got 5"),
        (["--recipe", "best"], "--recipe must be one of uniform, mixed"),
        (["--recipe", "mixed", "--bits", "8"], "ask for fewer than 6 bits"),
    ],
)
def test_a_form_that_does_not_exist_is_one_error(
    options: list[str], said: str, run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", "demo", str(tmp_path / "demo"), *options) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_ctrl_c_says_how_to_go_on(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Conversion.run

    def interrupted(self: Conversion, _progress: object) -> None:
        def press(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        write(self, press)

    command = ("convert", "demo", str(tmp_path / "demo"), "--no-mtp", "--group-size", "32")
    with monkeypatch.context() as patched:
        patched.setattr(Conversion, "run", interrupted)
        assert run(*command) == 130
    assert "of 7 files are complete; this goes on: moe-cluster convert demo" in capfd.readouterr().err
    assert run("show", str(tmp_path / "demo")) == 3
    assert "--bits 4 --mode affine --group-size 32 --no-mtp" in capfd.readouterr().err
    assert run(*command) == 0
    assert "going on: " in capfd.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_it_fits_the_terminal(columns: int, tmp_path: Path) -> None:
    command = ["-m", "cli", "convert", str(ROOT / "mlx_moe" / "demo"), str(tmp_path / "demo"), "--group-size", "32"]
    with Terminal(tmp_path / "home", command, columns) as terminal:
        screen = terminal.until("wrote 3.6 MB")
    assert "multi-token prediction  kept" in screen
    assert "…" not in screen
