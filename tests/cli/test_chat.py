"""The chat's behaviour, over a script and without a terminal."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.chat import commands, loop, writing
from cli.chat.chat import Chat
from cli.chat.dialogue import Dialogue, Message
from cli.chat.reader import is_open, unfenced
from cli.chat.saving import Saving
from cli.chat.screen import Screen
from cli.chat.transcript import SavedChat, Transcripts
from cli.options import AnswerOptions
from cluster.errors import NodeLostError
from mlx_moe.errors import InsufficientMemoryError, NumericsError
from mlx_moe.text.dialects import named
from mlx_moe.text.thought import ThoughtMarkers
from tests.cli.scripted import CTRL_C, ScriptedBackend, ScriptedModels, one_answer


class Lines:
    """A reader of given lines; remembers the drafts it was offered."""

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)
        self.drafts: list[str] = []

    def read(self, draft: str = "", /) -> str:
        self.drafts.append(draft)
        for line in self._lines:
            return line
        raise EOFError


class Sitting:
    """A chat with a scripted backend, and what it printed."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.backend = ScriptedBackend(one_answer("Hello there"))
        self.transcripts = Transcripts(directory)
        self.screen = Screen(live=False)
        dialogue = Dialogue()
        saving = Saving(self.transcripts, "demo", dialogue, self.screen.notice)
        self.models = ScriptedModels(one_answer("Other"))
        self.chat = Chat(self.backend, self.models, self.screen, saving, dialogue, AnswerOptions())
        self._capture = capture

    def say(self, *lines: str) -> str:
        """Type lines; return what was printed and noticed."""
        self.reader = Lines(*lines)
        loop.run(self.chat, self.reader)
        out, err = self._capture.readouterr()
        return out + err

    @property
    def texts(self) -> list[str]:
        return [m.text for m in self.chat.dialogue.messages]

    @property
    def saved(self) -> SavedChat:
        saved = self.transcripts.latest()
        assert saved is not None
        return saved

    @property
    def chats(self) -> list[SavedChat]:
        return [saved for saved in self.transcripts.listing() if isinstance(saved, SavedChat)]

    def prompt(self, index: int = -1) -> str:
        return self.backend.decode(self.backend.requests[index].input_ids)


@pytest.fixture
def sitting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Sitting]:
    sitting = Sitting(tmp_path, capsys)
    yield sitting
    sitting.chat.close()


def test_a_turn_is_answered_shown_and_saved(sitting: Sitting) -> None:
    assert "Hello there\n" in sitting.say("hi")
    assert sitting.texts == ["hi", "Hello there"]
    assert sitting.saved.dialogue == sitting.chat.dialogue
    sitting.say("again")
    assert sitting.prompt() == "<user>hi</user><assistant>Hello there</assistant><user>again</user><assistant>"


def test_empty_input_asks_nothing(sitting: Sitting) -> None:
    sitting.say("", "   ", "\n")
    assert not sitting.backend.requests


def test_undo_takes_the_last_exchange_back(sitting: Sitting) -> None:
    assert "removed: two" in sitting.say("one", "two", "/undo")
    assert sitting.texts == ["one", "Hello there"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages
    assert "nothing to undo" in sitting.say("/undo", "/undo")


def test_retry_answers_the_same_question(sitting: Sitting) -> None:
    sitting.say("one")
    sitting.backend.script = one_answer("Something else")
    sitting.say("/retry")
    assert sitting.texts == ["one", "Something else"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages
    assert sitting.prompt(0) == sitting.prompt(1)


def stopped_after_h(prompt: str) -> str:
    """Answer with one character, press Ctrl-C, and go on when asked to."""
    return "ello there" if prompt.endswith("H") else f"H{CTRL_C}ello there"


def test_a_stopped_answer_is_kept_and_goes_on_with_the_same_tokens(sitting: Sitting) -> None:
    sitting.backend.script = stopped_after_h
    assert "stopped; /continue goes on" in sitting.say("hi")
    assert sitting.texts == ["hi", "H"]
    assert sitting.chat.dialogue.messages[-1].finish_reason == "cancelled"
    sitting.say("/continue")
    assert sitting.texts == ["hi", "Hello there"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages
    first, second = sitting.backend.requests
    assert second.input_ids == (*first.input_ids, ord("H"))
    assert second.sampling.seed == 7


def test_a_loaded_answer_goes_on_from_its_text(sitting: Sitting) -> None:
    sitting.backend.script = stopped_after_h
    sitting.say("hi", "/save tea", "/new", "/load tea", "/continue")
    assert sitting.texts == ["hi", "Hello there"]
    assert sitting.prompt() == "<user>hi</user><assistant>H"


def test_a_question_stopped_before_its_answer_goes_back_to_the_line(sitting: Sitting) -> None:
    sitting.backend.prefill_chunks = 3
    sitting.backend.on_prefill = lambda chunk: signal.raise_signal(signal.SIGINT) if chunk == 0 else None
    assert "stopped before the answer began" in sitting.say("a long question")
    assert sitting.texts == []
    assert sitting.reader.drafts == ["", "a long question"]
    assert sitting.transcripts.listing() == []


def test_a_retry_stopped_at_once_keeps_the_old_answer(sitting: Sitting) -> None:
    sitting.say("one")
    sitting.backend.on_prefill = lambda _chunk: signal.raise_signal(signal.SIGINT)
    sitting.say("/retry")
    assert sitting.texts == ["one", "Hello there"]


@pytest.mark.parametrize("before", [[], ["hi"]])
def test_a_refused_message_is_forgotten_unless_the_person_edits_it(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    def editor(text: str) -> str:
        edited.append(text)
        return text[:3]

    edited: list[str] = []
    monkeypatch.setattr("cli.chat.editor.edit", editor)
    sitting.say(*before)
    kept = sitting.texts
    sitting.backend.context_tokens = 150
    assert "/edit" in sitting.say("too long" * 20)
    sitting.backend.failure = NumericsError("layer 3 is not finite")
    sitting.backend.script = lambda _prompt: ""
    assert "/edit" in sitting.say("failing")
    assert sitting.texts == kept
    assert [s.dialogue.messages for s in sitting.chats] == [sitting.chat.dialogue.messages] * len(before)
    assert sitting.reader.drafts[-1] == ""
    sitting.backend.failure, sitting.backend.script = None, one_answer("Hello there")
    sitting.say("/edit")
    assert edited == ["failing"]
    assert sitting.texts == [*kept, "fai", "Hello there"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages


@pytest.mark.parametrize(("value", "said"), [('"vim', "$EDITOR is not a command"), ("", "an editor needs a terminal")])
def test_an_editor_that_cannot_be_is_one_line(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", value)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert said in sitting.say("/edit")


@pytest.mark.parametrize("command", ["/clear", "/new", "/undo"])
def test_a_saved_chat_is_never_emptied(sitting: Sitting, command: str) -> None:
    sitting.say("hi", "/save tea", command)
    assert sitting.texts == []
    assert "continuing tea: 2 messages" in sitting.say("other", "/load tea")
    assert sitting.texts == ["hi", "Hello there"]


LINES = ("one", "two", "x" * 300, "/undo", "/retry", "/clear", "/new", "/load 1", "/load 2", "/save tea", "/load tea")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_whatever_is_typed_no_file_loses_its_last_answer(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], lines: list[str]
) -> None:
    sitting = Sitting(tmp_path_factory.mktemp("chats"), capsys)
    sitting.backend.context_tokens = 200
    with closing(sitting.chat):
        for line in lines:
            sitting.say(line)
            assert all(len(saved.dialogue.messages) >= 2 for saved in sitting.chats)
            if sitting.texts:
                assert sitting.chat.dialogue in [saved.dialogue for saved in sitting.chats]


def test_a_failure_amid_an_answer_keeps_the_part_and_the_chat(sitting: Sitting) -> None:
    sitting.backend.failure = NumericsError("layer 3 is not finite")
    assert "error: layer 3 is not finite" in sitting.say("hi")
    assert sitting.texts == ["hi", "Hello there"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages
    sitting.backend.failure = None
    assert "Hello there" in sitting.say("more")


def test_an_answer_cut_off_by_a_lost_node_is_kept_and_the_model_asked_for_again(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> bool:
        raise NodeLostError("the coordinator does not answer")

    monkeypatch.setattr(writing, "matches", lost)
    sitting.backend.failure = NodeLostError("node mac-3 does not answer")
    said = sitting.say("hi")
    assert "error: node mac-3 does not answer" in said
    assert "reloads the model" in said
    assert sitting.texts == ["hi", "Hello there"]
    assert sitting.saved.dialogue.messages == sitting.chat.dialogue.messages
    sitting.backend.failure = None
    sitting.say("more", "/retry", "/continue")
    assert sitting.backend.made_ready == 4


def test_a_full_context_says_so_with_numbers_and_the_cure(sitting: Sitting) -> None:
    sitting.backend.context_tokens = 60
    said = sitting.say("hi", "x" * 50)
    assert "the context is full" in said
    assert "room for 60" in said
    assert "/new" in said
    assert sitting.texts == ["hi", "Hello there"]
    sitting.backend.context_tokens = len("<user>hi</user><assistant>") + 4
    assert "the context is full" in sitting.say("/new", "hi")
    assert sitting.texts == ["hi", "Hell"]


def test_max_tokens_and_loops_are_told_in_one_line(sitting: Sitting) -> None:
    assert "stopped: max_tokens (3) reached" in sitting.say("/set max_tokens 3", "hi")
    sitting.backend.ending = "loop"
    assert "repeating itself" in sitting.say("/set max_tokens default", "hi")


def test_settings_change_what_is_asked(sitting: Sitting) -> None:
    sitting.say(
        "/set parameter temperature 0", "/set top-k=3", '/set stop "a b" \\n', "/set loops on", "/set seed 4", "hi"
    )
    request = sitting.backend.requests[0]
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.seed) == (0, 3, 4)
    assert (request.stop, request.detect_loops) == (("a b", "\n"), False)
    assert "temperature: 0.6 (default)" in sitting.say("/set temperature default")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/set stop foo", 'stop: "foo"'),
        ("/set stop 'a \" b' \\n", 'stop: "a \\" b", "\\n"'),
        ("/set stop default", "stop: none (default)"),
        ("/set max_tokens 5", "max_tokens: 5"),
        ("/set max_tokens default", "max_tokens: no limit (default)"),
        ("/set seed default", "seed: a new one for each answer (default)"),
        ("/set top_k 0", "top_k: off"),
        ("/set top_p 0.5", "top_p: 0.5"),
        ("/set loops on", "loops: allowed"),
    ],
)
def test_a_setting_is_told_in_words(sitting: Sitting, line: str, told: str) -> None:
    assert told in sitting.say(line).splitlines()
    assert told.partition(": ")[2] in sitting.say("/set")


@pytest.mark.parametrize("line", ["/set temperature nan", "/set top_k 1.5", "/set colour red", "/set verbose maybe"])
def test_a_wrong_setting_changes_nothing(sitting: Sitting, line: str) -> None:
    assert "error: " in sitting.say(line)
    assert sitting.chat.options == AnswerOptions()


def test_the_system_message_is_set_shown_and_removed(sitting: Sitting) -> None:
    assert "set" in sitting.say("/system be brief", "hi")
    assert sitting.prompt().startswith("<system>be brief</system><user>hi")
    assert "be brief" in sitting.say("/system")
    sitting.say("/system none", "more")
    assert "system" not in sitting.prompt()


def test_unknown_commands_name_the_nearest(sitting: Sitting) -> None:
    assert "did you mean /help?" in sitting.say("/hlep")
    assert "did you mean /sessions?" in sitting.say("/session")
    assert not sitting.backend.requests
    sitting.say("/usr/bin/python is what?")
    assert sitting.backend.requests


def test_every_command_is_listed_and_runs(sitting: Sitting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cli.chat.clipboard.copy", lambda text: f"{text}!")
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.chdir(tmp_path)
    sitting.say("hi")
    listing = sitting.say("/help")
    for command in commands.COMMANDS:
        for name in command.names:
            assert name in listing
            if name not in ("/exit", "/bye", "/quit", "/load"):
                assert "error" not in sitting.say(name) or name in ("/undo", "/continue", "/copy", "/export", "/retry")
    sitting.say("/bye", "never read")
    assert sitting.chat.leaving


def test_an_export_never_overwrites(sitting: Sitting, tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    assert "written" in sitting.say("hi", f"/export {path}")
    assert path.read_text() == "## You\n\nhi\n\n## demo\n\nHello there\n"
    assert "exists" in sitting.say(f"/export {path}")
    assert "written" in sitting.say("more", f"/export -f {path}")
    assert "more" in path.read_text()
    assert "not a file" in " ".join(sitting.say(f"/export -f {tmp_path}").split())
    assert "cannot write" in sitting.say(f"/export {tmp_path}/missing/x.md")


@pytest.mark.parametrize("name", ["x.json", "a chat 日本.JSON"])
def test_an_exported_chat_can_be_loaded(sitting: Sitting, tmp_path: Path, name: str) -> None:
    path = tmp_path / "elsewhere" / name
    path.parent.mkdir()
    sitting.say("/system be brief", "hi \ud83d 日本", f"/export {path}", "/new", "/system none")
    before = path.read_bytes()
    assert "a copy goes on here" in sitting.say(f'/load "{path}"')
    assert (sitting.chat.dialogue.system, sitting.texts) == ("be brief", ["hi \ud83d 日本", "Hello there"])
    sitting.say("more")
    assert len(sitting.saved.dialogue.messages) == 4
    assert path.read_bytes() == before


def test_thinking_is_kept_for_the_template_and_asked_for(sitting: Sitting) -> None:
    sitting.backend.opening = "<think>\n"
    sitting.backend.script = one_answer("<think>\nhm</think>Yes")
    sitting.say("/think on", "hi")
    assert sitting.texts[-1] == "<think>\nhm</think>Yes"
    assert sitting.backend.variables[-1]["enable_thinking"] is True
    assert "hm" in sitting.say("/think show")


OTHER = named("plain", ThoughtMarkers("◁think▷", "◁/think▷"))


def test_an_earlier_thought_goes_to_the_template_apart_from_the_answer(sitting: Sitting) -> None:
    sitting.backend.script = one_answer("<think>\nhm\n</think>\n\nYes")
    sitting.say("hi", "more")
    assert "<assistant+thought>Yes</assistant>" in sitting.prompt()
    thinking = {"role": "assistant", "content": "Yes", "reasoning_content": "hm"}
    assert sitting.chat.dialogue.for_template(2, OTHER, apart=True)[1] == thinking


def test_a_template_that_strips_thoughts_itself_gets_them_between_its_own_markers(sitting: Sitting) -> None:
    sitting.backend.script = one_answer("<think>hm</think>\nYes")
    sitting.say("hi")
    sitting.backend.thoughts_apart = False
    sitting.say("more")
    assert "<assistant><think>hm</think>\nYes</assistant>" in sitting.prompt()
    sitting.backend.dialect = OTHER
    sitting.say("/retry")
    assert "<assistant>◁think▷\nhm\n◁/think▷\n\nYes</assistant>" in sitting.prompt()


def stopped_amid_a_thought(prompt: str) -> str:
    begun = prompt.rpartition("<assistant>")[2]
    return "m◁/think▷Yes" if begun.endswith("h") else "h" + CTRL_C


@pytest.mark.parametrize("way", ["go on", "load", "export"])
def test_a_thought_that_the_prompt_begins_goes_on_and_keeps_its_border(
    sitting: Sitting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    copied: list[str] = []
    monkeypatch.setattr("cli.chat.clipboard.copy", lambda text: copied.append(text) or "test")
    sitting.backend.dialect = OTHER
    sitting.backend.opening = "◁think▷\n"
    sitting.backend.script = stopped_amid_a_thought
    sitting.say("hi")
    assert sitting.texts[-1] == "◁think▷\nh"
    if way == "load":
        sitting.say(f"/load {sitting.saved.id}")
    elif way == "export":
        sitting.say(f"/export {tmp_path / 'chat.json'}", f"/load {tmp_path / 'chat.json'}")
    sitting.say("/continue", "/copy")
    assert sitting.texts[-1] == "◁think▷\nhm◁/think▷Yes"
    assert sitting.saved.dialogue.messages[-1].parts.thinking == "hm"
    assert copied == ["Yes"]
    assert "hm" in sitting.say("/think show")


def test_a_thought_that_was_stopped_is_not_sent_as_an_answer(sitting: Sitting) -> None:
    sitting.backend.script = lambda prompt: "<think>h" + CTRL_C if prompt.count("<user>") == 1 else "ok"
    sitting.say("hi", "more")
    assert "<assistant+thought></assistant>" in sitting.prompt()


def test_loading_a_damaged_chat_loses_nothing(sitting: Sitting, tmp_path: Path) -> None:
    sitting.say("hi")
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"chat": "x", "model": "demo"}\n{"role": 3}\n')
    assert "line 2" in sitting.say("/load damaged")
    assert sitting.texts == ["hi", "Hello there"]
    assert "damaged" in sitting.say("/sessions")


def test_another_model_takes_over_the_chat(sitting: Sitting) -> None:
    old = sitting.backend
    sitting.say("hi", "/model other", "more")
    assert old.closed
    assert sitting.texts[-1] == "Other"
    assert sitting.saved.model == "other"


def test_a_model_that_is_not_there_leaves_the_old_one(sitting: Sitting) -> None:
    assert "error" in sitting.say("/model missing")
    assert not sitting.backend.closed
    assert "Hello there" in sitting.say("hi")


def test_triple_quotes_hold_several_lines() -> None:
    assert is_open('"""')
    assert is_open('"""a\nb')
    assert not is_open('"""a\nb"""')
    assert not is_open("plain")
    assert unfenced('"""\na\nb\n"""') == "a\nb"
    assert unfenced('"""one"""') == "one"


def test_a_model_that_does_not_fit_brings_the_old_one_back(sitting: Sitting, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_some(model: str) -> ScriptedBackend:
        opened.append(model)
        if model == "huge":
            raise InsufficientMemoryError("needs 378 GB, has 64 GB")
        return ScriptedBackend(one_answer("Back"), name=model)

    monkeypatch.setattr(sitting.models, "open", open_some)
    assert "needs 378 GB" in sitting.say("/model huge")
    assert opened == ["huge", "demo"]
    assert "Back" in sitting.say("hi")


def test_a_question_killed_before_its_answer_is_back_on_the_line(sitting: Sitting) -> None:
    sitting.say("one")
    transcript = sitting.transcripts.new("demo", Dialogue(messages=[Message("user", "lost?")]), name="killed")
    transcript.close()
    sitting.say("/load killed")
    assert sitting.reader.drafts[-1] == "lost?"
    assert [m.text for m in sitting.saved.dialogue.messages] == ["lost?"]
    sitting.say("lost?")
    assert sitting.texts == ["lost?", "Hello there"]
    assert sitting.transcripts.find("killed").dialogue == sitting.chat.dialogue


def test_ctrl_c_twice_starts_from_a_fresh_cache(sitting: Sitting) -> None:
    def press_twice(_chunk: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one raises at once")

    sitting.backend.on_prefill = press_twice
    before = sitting.backend.conversations[-1]
    sitting.say("hi")
    assert before.closed
    assert not sitting.backend.conversations[-1].closed
