"""`run` and the process boundary, in this process and over a script."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import app
from cli.commands import answers
from mlx_moe.errors import InsufficientMemoryError, NumericsError
from mlx_moe.text.dialects import named
from mlx_moe.text.thought import ThoughtMarkers
from tests.cli.scripted import WAIT, ScriptedBackend, ScriptedModels, one_answer
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]

Run = Callable[..., int]


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(one_answer("Hello\x1b[0m there"))


@pytest.fixture
def models(backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch) -> ScriptedModels:
    models = ScriptedModels(one_answer(""))
    monkeypatch.setattr(models, "open", lambda _model, **_options: backend)
    monkeypatch.setattr(answers, "_models", lambda *_how: models)
    return models


@pytest.fixture
def run(models: ScriptedModels, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: ARG001  # it runs over them
    """Run the command line; return its exit code."""

    def run(*arguments: str, stdin: bytes = b"") -> int:
        monkeypatch.setattr("sys.argv", ["moe-cluster", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_info:
            app.main()
        assert isinstance(exit_info.value.code, int)
        return exit_info.value.code

    return run


def test_the_answer_alone_goes_to_stdout(run: Run, backend: ScriptedBackend, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("run", "demo", "hi", "--local", "--system", "be brief") == 0
    assert capfd.readouterr() == ("Hello\x1b[0m there\n", "")
    assert backend.decode(backend.requests[0].input_ids) == "<system>be brief</system><user>hi</user><assistant>"
    assert backend.closed


@pytest.mark.parametrize("arguments", [["-"], []])
def test_the_prompt_may_come_from_stdin(run: Run, backend: ScriptedBackend, arguments: list[str]) -> None:
    assert run("run", "demo", *arguments, stdin="日本\n".encode()) == 0
    assert "日本" in backend.decode(backend.requests[0].input_ids)


def test_raw_prompts_and_ids_go_in_as_they_are(run: Run, backend: ScriptedBackend) -> None:
    assert run("run", "demo", "ab", "--raw") == 0
    assert run("run", "demo", "--input-ids", "97,98") == 0
    assert [r.input_ids for r in backend.requests] == [(97, 98)] * 2


def test_ids_alone_ask_for_no_tokenizer(
    run: Run, models: ScriptedModels, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def opened(_model: str, *, needs_text: bool) -> ScriptedBackend:
        asked.append(needs_text)
        return backend

    monkeypatch.setattr(models, "open", opened)
    assert run("run", "demo", "--input-ids", "97") == run("run", "demo", "hi") == 0
    assert asked == [False, True]


def test_json_tells_all(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("run", "demo", "hi", "--json", "--seed", "5", "--max-tokens", "5") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["tokens"] == [ord(c) for c in "Hello"]
    assert {k: told[k] for k in ("model", "text", "finish_reason", "seed")} == {
        "model": "demo",
        "text": "Hello",
        "finish_reason": "length",
        "seed": 5,
    }
    assert told["prefill"] == {"cached_tokens": 0, "chunk_length": 64, "chunk_ends": [told["prompt_tokens"]]}
    assert set(told["timings"]) == {"load_s", "ttft_s", "prefill_tps", "decode_tps", "total_s"}
    assert told["placement"][0]["layers"] == [0, 6]
    assert told["speculation"] == {"drafted": 0, "accepted": 0, "compared_by_depth": [], "accepted_by_depth": []}


SPOKEN = 'hm\n</think>\n\nI look.\n<tool_call>\n{"name": "clock", "arguments": {"zone": "Rome"}}\n</tool_call>\nDone.'


@pytest.fixture
def thinking(backend: ScriptedBackend) -> None:
    """Let the model think and call a tool."""
    backend.dialect = named("qwen", ThoughtMarkers())
    backend.opening = "<think>\n"
    backend.script = one_answer(SPOKEN)


@pytest.mark.usefixtures("thinking")
def test_json_tells_thoughts_and_calls_apart(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("run", "demo", "hi", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["text"], told["reasoning"], told["content"]) == (SPOKEN, "hm", "I look.\n\nDone.")
    assert told["tool_calls"] == [{"id": "", "name": "clock", "arguments": '{"zone": "Rome"}'}]


@pytest.mark.usefixtures("thinking")
def test_a_pipe_gets_the_text_as_the_model_wrote_it(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("run", "demo", "hi") == 0
    assert capfd.readouterr().out == SPOKEN + "\n"


@pytest.mark.usefixtures("thinking")
def test_a_terminal_shows_thoughts_and_calls_in_grey(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.written_answer.moves_its_cursor", lambda: True)
    monkeypatch.setattr("cli.written_answer.columns", lambda _stream: 80)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run("run", "demo", "hi") == 0
    shown = capfd.readouterr().out.replace("\x1b[0m\x1b[3;90m", "")
    call = 'calls clock {"zone": "Rome"}'
    assert shown == f"\x1b[3;90mhm\x1b[0m\n\nI look.\n\n\x1b[3;90m{call}\x1b[0m\n\nDone.\n"


def test_options_override_the_models_defaults_and_nothing_else(run: Run, backend: ScriptedBackend) -> None:
    sampling = ["--temperature", "0", "--top-k", "5", "--min-p", "0.1"]
    limits = ["--stop", "a", "--stop", "b", "--ignore-eos", "--no-loop-detection"]
    assert run("run", "demo", "hi", *sampling, *limits) == 0
    request = backend.requests[0]
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.min_p) == (0, 5, 0.1)
    assert request.sampling.top_p == backend.sampling.top_p
    assert (request.stop, request.ignore_eos, request.detect_loops) == (("a", "b"), True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hi", "--temperature", "nan"], "temperature"),
        (["hi", "--max-tokens", "0"], "max_tokens"),
        (["hi", "--input-ids", "1"], "not both"),
        (["--input-ids", "1,x"], "--input-ids"),
        ([" "], "empty"),
        (["hi", "--raw", "--system", "x"], "--system"),
        (["hi", "--seed", "x"], "--seed"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(
    run: Run, backend: ScriptedBackend, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("run", "demo", *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert not backend.requests


@pytest.mark.parametrize(
    ("typed", "cure"),
    [
        ("run demo Who are you", "the prompt in quotes: moe-cluster run demo 'Who are you'"),
        ("run --seed 1 demo Who are you --local", "moe-cluster run --seed 1 demo 'Who are you' --local"),
        ("run demo Who --local are you?", "moe-cluster run demo 'Who are you?'"),
        ("chat demo hello there", "after moe-cluster chat demo, or use moe-cluster run demo 'hello there'"),
        ("show My Models/x", "a path with spaces in quotes: moe-cluster show 'My Models/x'"),
        ("plan My Models/x --many", "moe-cluster plan 'My Models/x' --many"),
    ],
)
def test_words_without_quotes_are_told_as_they_should_be_typed(
    run: Run, capfd: pytest.CaptureFixture[str], typed: str, cure: str
) -> None:
    assert run(*typed.split()) == 2
    err = capfd.readouterr().err
    assert (err[:7], err.count("\n")) == ("error: ", 1)
    assert cure in err


def test_stdin_that_is_no_text_is_refused(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("run", "demo", stdin=b"ab\xff") == 2
    assert "offset 2" in capfd.readouterr().err


def test_a_failure_amid_an_answer_keeps_what_was_printed(
    run: Run, backend: ScriptedBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.failure = NumericsError("layer 3 is not finite")
    assert run("run", "demo", "hi") == 5
    assert capfd.readouterr() == ("Hello\x1b[0m there\n", "error: layer 3 is not finite\n")
    assert backend.closed


def test_an_unforeseen_error_is_one_line_unless_debugged(
    run: Run, models: ScriptedModels, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_model: str, **_options: bool) -> ScriptedBackend:
        raise RuntimeError("boom")

    monkeypatch.setattr(models, "open", fail)
    assert run("run", "demo", "hi") == 1
    assert capfd.readouterr().err == "error: RuntimeError: boom (--debug shows where)\n"
    assert run("run", "demo", "hi", "--debug") == 1
    assert "Traceback" in capfd.readouterr().err


def test_too_little_memory_has_its_own_exit_code(
    run: Run, models: ScriptedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: str, **_options: bool) -> ScriptedBackend:
        raise InsufficientMemoryError("needs 1 GB, has 0.5")

    monkeypatch.setattr(models, "open", fail)
    assert run("run", "demo", "hi") == 4


def test_ctrl_c_before_the_first_token_ends_with_130(run: Run, backend: ScriptedBackend) -> None:
    backend.prefill_chunks = 3
    backend.on_prefill = lambda chunk: signal.raise_signal(signal.SIGINT) if chunk == 1 else None
    assert run("run", "demo", "hi") == 130


def scripted(tmp_path: Path, text: str, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start the command line over a script in its own process."""
    script = tmp_path / "script"
    script.write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "tests.cli.scripted", str(script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOE_CLUSTER_HOME": str(tmp_path / "home")}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_keeps_what_was_printed(tmp_path: Path) -> None:
    with scripted(tmp_path, "partial" + WAIT, "run", "demo", "hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == b"partial"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (130, b"\n", b"")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before: whoever reads a part leaves at a moment that no test can tell
    with scripted(tmp_path, "x" * 10_000, "run", "demo", "hi", stdout=writer) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=PATIENCE_S) == 141


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [("up --join -", "<&-"), ("run demo", "<&-"), ("--version", ">&-"), ("status", "<&- >&- 2>&-")],
)
def test_closed_streams_are_as_empty_ones(tmp_path: Path, arguments: str, closed: str) -> None:
    command = f"{sys.executable} -m cli {arguments} </dev/null"
    environment = {**os.environ, "MOE_CLUSTER_HOME": str(tmp_path)}
    ends = [
        subprocess.run(["sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True)
        for line in (command, f"{command} {closed}")
    ]
    assert ends[1].returncode == ends[0].returncode
    assert ends[1].stdout == ends[0].stdout * (">&- " not in f"{closed} ")
    assert ends[1].stderr == ends[0].stderr * ("2>&-" not in closed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "--version", "show demo", "show demo --json"])
def test_a_full_disk_is_one_line(tmp_path: Path, arguments: str) -> None:
    environment = {**os.environ, "MOE_CLUSTER_HOME": str(tmp_path)}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "cli", *arguments.split()]
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "error: No space left on device (--debug shows where)\n"


@pytest.mark.parametrize("columns", ["0", "20"])
def test_a_value_is_shown_however_narrow_the_terminal(tmp_path: Path, columns: str) -> None:
    environment = {**os.environ, "MOE_CLUSTER_HOME": str(tmp_path), "COLUMNS": columns}
    command = [sys.executable, "-m", "cli", "show", "demo"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "deepseek_v3" in "".join(shown.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['moe-cluster', '--help']\n"
        "try: runpy.run_module('cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'mlx', 'tokenizers', 'prompt_toolkit', 'rich', 'jinja2', 'numpy', 'grpc', 'zeroconf'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"
    assert "chat" in result.stdout


def test_version_is_printed(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out.startswith("moe-cluster ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("up --port 70000", "invalid value for '--port': must be 0 to 65534, got 70000; moe-cluster up -h"),
        ("token create --uses 0", "must be 1 or more, got 0; moe-cluster token create -h"),
        (
            "run demo hi --temperature abc",
            "invalid value for '--temperature': must be a number, got 'abc'; moe-cluster",
        ),
        ("plan demo --chunk 1.5", "must be a whole number, got '1.5'; moe-cluster plan -h"),
        ("demo --prompt=", "the prompt is empty"),
        ("run demo hi --seed x", "'--seed'"),
        ("plan", "missing argument 'MODEL'; moe-cluster plan -h"),
        ("nope", "no such command 'nope'"),
        ("--nope", "no such option: --nope"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_refused_in_one_line(
    run: Run, capfd: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert run(*line.split()) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert said in err


def test_down_without_a_node_suggests_no_other_command(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOE_CLUSTER_HOME", str(tmp_path))
    assert run("down") == 9
    assert capfd.readouterr().err == "error: no node runs on this machine\n"


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_the_list_of_commands_is_not_cut(columns: int) -> None:
    environment = {**os.environ, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "cli", "--help"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    sections = shown.partition("Answers:")[2]
    assert "Nodes:" in sections
    assert "..." not in sections
