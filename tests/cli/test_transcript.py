"""Chats on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.chat.dialogue import Dialogue, Message
from cli.chat.saving import Saving
from cli.chat.transcript import SavedChat, TranscriptError, Transcripts, read_transcript

QUESTION, ANSWER = Message("user", "hi \ud83d\n"), Message("assistant", "hello 日本", "stop")


@pytest.fixture
def transcripts(tmp_path: Path) -> Transcripts:
    return Transcripts(tmp_path)


def save(transcripts: Transcripts, *messages: Message, system: str | None = None) -> Path:
    transcript = transcripts.new("demo", Dialogue(system, list(messages)))
    transcript.close()
    return transcript.path


def test_what_was_said_comes_back(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION, ANSWER, system="be brief")
    saved = read_transcript(path)
    assert saved.dialogue == Dialogue("be brief", [QUESTION, ANSWER])
    assert (saved.model, saved.name, saved.torn) == ("demo", None, False)
    assert path.stat().st_mode & 0o077 == 0


def test_edits_are_appended_and_applied(transcripts: Transcripts) -> None:
    transcript = transcripts.new("demo", Dialogue(messages=[QUESTION]))
    transcript.add_message(ANSWER, seed=3)
    transcript.keep(1)
    transcript.add_message(Message("assistant", "other", "cancelled"))
    transcript.set(system="s", name="mine")
    transcript.set(model="other", system=None)
    transcript.close()
    saved = read_transcript(transcript.path)
    assert [m.text for m in saved.dialogue.messages] == [QUESTION.text, "other"]
    assert (saved.dialogue.system, saved.name, saved.model) == (None, "mine", "other")


def test_a_line_cut_off_by_a_crash_is_left_out(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION, ANSWER)
    path.write_bytes(path.read_bytes() + b'{"role": "user", "te')
    saved = read_transcript(path)
    assert saved.torn
    assert len(saved.dialogue.messages) == 2
    assert transcripts.go_on(saved) is None


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"role": "tool", "text": ""}', '{"role": "user"}', '{"keep": 9}', "[" * 100_000]
)
def test_a_damaged_line_is_named_and_the_file_is_left_as_it_is(transcripts: Transcripts, line: str) -> None:
    path = save(transcripts, QUESTION)
    damaged = path.read_text() + line + "\n" + json.dumps({"role": "user", "text": "x"}) + "\n"
    path.write_text(damaged)
    with pytest.raises(TranscriptError, match=r"damaged in line \d of"):
        read_transcript(path)
    assert path.read_text() == damaged
    assert isinstance(transcripts.listing()[0], TranscriptError)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\n", b"{}\n"])
def test_a_file_that_is_no_chat_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(TranscriptError):
        read_transcript(path)


def test_chats_are_found_by_number_name_id_and_path(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION)
    named = transcripts.new("demo", Dialogue(), name="tea")
    named.close()
    assert transcripts.find("tea").path == named.path
    assert transcripts.find(path.stem).path == path
    assert transcripts.find(str(path)).path == path
    assert {transcripts.find(n).path for n in "12"} == {path, named.path}
    with pytest.raises(TranscriptError, match="/sessions"):
        transcripts.find("coffee")


def test_two_terminals_never_write_one_chat(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION)
    first = transcripts.go_on(read_transcript(path))
    assert first is not None
    assert transcripts.go_on(read_transcript(path)) is None
    first.close()
    second = transcripts.go_on(read_transcript(path))
    assert second is not None
    second.close()


def test_a_home_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    dialogue = Dialogue()
    saving = Saving(Transcripts(tmp_path / "missing"), "demo", dialogue, warnings.append)
    for message in (QUESTION, ANSWER):
        dialogue.messages.append(message)
        saving.add(message)
    saving.keep(1)
    saving.close()
    assert len(warnings) == 1
    assert "not saved" in warnings[0]


def test_a_chat_open_elsewhere_goes_on_as_a_copy(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION, ANSWER)
    open_elsewhere = transcripts.go_on(read_transcript(path))
    assert open_elsewhere is not None
    saving = Saving(transcripts, "demo", Dialogue(), pytest.fail)
    saved = read_transcript(path)
    assert not saving.go_on(saved)
    more = Message("user", "more")
    saved.dialogue.messages.append(more)
    saving.add(more)
    saving.close()
    open_elsewhere.close()
    (copy,) = [s for s in transcripts.listing() if isinstance(s, SavedChat) and s.path != path]
    assert copy.dialogue.messages == [QUESTION, ANSWER, more]
    assert read_transcript(path).dialogue.messages == [QUESTION, ANSWER]
