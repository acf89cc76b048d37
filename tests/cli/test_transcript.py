"""Chats on disk."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.chat.dialogue import Dialogue, Message
from cli.chat.export import as_markdown
from cli.chat.saving import Saving
from cli.chat.transcript import LISTED, SavedChat, TranscriptError, Transcripts, read_transcript, said
from cli.whole_file import write_whole
from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import named
from mlx_moe.text.thought import ThoughtMarkers

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
    transcript.append(said(ANSWER, seed=3))
    transcript.append({"keep": 1}, said(Message("assistant", "other", "cancelled")))
    transcript.append({"system": "s", "name": "mine"})
    transcript.append({"model": "other", "system": None})
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
    with pytest.raises(TranscriptError, match="incomplete"):
        transcripts.go_on(saved)


def test_a_file_that_was_emptied_still_has_its_messages(transcripts: Transcripts) -> None:
    transcript = transcripts.new("demo", Dialogue(messages=[QUESTION, ANSWER]))
    transcript.append({"keep": 0})
    assert read_transcript(transcript.path).dialogue.messages == [QUESTION, ANSWER]
    other = Message("user", "other")
    transcript.append(said(other))
    transcript.close()
    assert read_transcript(transcript.path).dialogue.messages == [other]


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


def test_a_name_is_found_however_old_and_whatever_else_is_damaged(transcripts: Transcripts) -> None:
    old = transcripts.new("demo", Dialogue(messages=[QUESTION]), name="日本 tea")
    old.close()
    for number in range(LISTED + 5):
        os.utime(save(transcripts, QUESTION), (2e9 + number, 2e9 + number))
    (transcripts.directory / "damaged.jsonl").write_text("nonsense\n")
    assert transcripts.find("日本 tea").path == old.path


@pytest.mark.parametrize("wanted", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "/", "/dev/null"])
def test_what_no_chat_can_be_called_is_an_error_of_one_kind(transcripts: Transcripts, wanted: str) -> None:
    with pytest.raises(InvalidRequestError):
        transcripts.find(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"messages": {}}',
        '{"messages": []}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "tool", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": [1]}]}',
    ],
)
def test_a_json_file_that_is_no_chat_is_refused(transcripts: Transcripts, tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.JSON"
    path.write_text(text)
    with pytest.raises(TranscriptError, match="not a chat"):
        transcripts.find(str(path))


def test_two_terminals_never_write_one_chat(transcripts: Transcripts) -> None:
    saved = read_transcript(save(transcripts, QUESTION))
    first = transcripts.go_on(saved)
    with pytest.raises(TranscriptError, match="open in another terminal"):
        transcripts.go_on(saved)
    first.append(said(ANSWER))
    first.close()
    with pytest.raises(TranscriptError, match="changed by another terminal"):
        transcripts.go_on(saved)
    transcripts.go_on(read_transcript(saved.path)).close()


def test_a_home_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    dialogue = Dialogue()
    saving = Saving(Transcripts(tmp_path / "missing"), "demo", dialogue, warnings.append)
    for message in (QUESTION, ANSWER):
        dialogue.messages.append(message)
        saving.add(message)
    saving.keep(1)
    saving.close()
    (warning,) = warnings
    assert "not saved: No such file" in warning


@contextmanager
def disk_with(size_bytes: int) -> Iterator[None]:
    """Let no file of this process become larger: what does not fit is written in part, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_whole_messages_and_gets_the_rest_later(transcripts: Transcripts) -> None:
    warnings: list[str] = []
    dialogue = Dialogue()
    saving = Saving(transcripts, "demo", dialogue, warnings.append)

    def say(message: Message, in_place_of: int | None = None) -> None:
        dialogue.messages[len(dialogue.messages) if in_place_of is None else in_place_of :] = [message]
        saving.add(message, in_place_of=in_place_of)

    with disk_with(20):
        say(QUESTION)
        assert list(transcripts.directory.iterdir()) == []
    say(ANSWER)
    (path,) = transcripts.directory.iterdir()
    with disk_with(path.stat().st_size + 30):  # room for {"keep": 1}, but not for the answer
        say(Message("assistant", "x" * 40), in_place_of=1)
        say(Message("user", "more"))
        saved = read_transcript(path)
        assert (saved.dialogue.messages, saved.torn) == ([QUESTION, ANSWER], False)
    assert len(warnings) == 2
    saving.close()
    assert read_transcript(path).dialogue == dialogue


def test_a_file_that_is_not_written_whole_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    with disk_with(20), pytest.raises(OSError, match="large"):
        write_whole(path, "x" * 100, replace=False)
    assert list(tmp_path.iterdir()) == []
    write_whole(path, "before", replace=False)
    with disk_with(20), pytest.raises(OSError, match="large"):
        write_whole(path, "x" * 100, replace=True)
    with pytest.raises(FileExistsError):
        write_whole(path, "after", replace=False)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path, "after", replace=True)
    assert path.read_text() == "before"


def test_a_chat_open_elsewhere_goes_on_as_a_copy(transcripts: Transcripts) -> None:
    path = save(transcripts, QUESTION, ANSWER)
    open_elsewhere = transcripts.go_on(read_transcript(path))
    saving = Saving(transcripts, "demo", Dialogue(), pytest.fail)
    saved = read_transcript(path)
    with pytest.raises(TranscriptError):
        saving.go_on(saved)
    more = Message("user", "more")
    saved.dialogue.messages.append(more)
    saving.add(more)
    saving.close()
    open_elsewhere.close()
    (copy,) = [s for s in transcripts.listing() if isinstance(s, SavedChat) and s.path != path]
    assert copy.dialogue.messages == [QUESTION, ANSWER, more]
    assert read_transcript(path).dialogue.messages == [QUESTION, ANSWER]


def test_a_page_quotes_thoughts() -> None:
    answer = Message("assistant", "<think>\nhm\n\nso\n</think>\n\nYes.\n", "stop")
    assert as_markdown("demo", Dialogue(messages=[QUESTION, answer])).endswith("## demo\n\n> hm\n>\n> so\n\nYes.\n")


def test_the_border_between_thought_and_answer_is_saved(transcripts: Transcripts) -> None:
    dialect = named("plain", ThoughtMarkers("[THINK]", "[/THINK]"))
    dialogue = Dialogue(messages=[QUESTION, Message("assistant", "[THINK]hm[/THINK]ok", "stop", dialect), QUESTION])
    transcripts.new("demo", dialogue).close()
    (path,) = transcripts.newest()
    assert read_transcript(path).dialogue == dialogue
    assert [("thinking" in json.loads(line)) for line in path.read_text().splitlines()] == [False, False, True, False]
    path.write_text(path.read_text().replace('"[THINK]", "[/THINK]"', '"[THINK]", 7'))
    with pytest.raises(TranscriptError, match=r'line 3 .*"thinking" is not two markers'):
        read_transcript(path)
