"""Slash commands: their table, the search for a name, and their actions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.table import Table

from cli.chat import clipboard, editor, export, tables
from cli.chat.chat import Chat
from cli.chat.reader import Choices
from cli.chat.settings import Setting, changed, flag, request_names, sampling_names, value_text
from cli.chat.transcript import SavedChat
from cli.chat.typed_path import typed_path
from cli.units import tokens_text
from cli.whole_file import write_whole
from mlx_moe.errors import InvalidRequestError
from mlx_moe.units import bytes_text


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its names, the usage of its argument, its help and its action."""

    names: tuple[str, ...]
    usage: str
    help: str
    run: Callable[[Chat, str], None]
    choices: Callable[[Chat], Iterable[str]] = lambda _chat: ()


def is_command(text: str) -> bool:
    """Whether a line is a command. "/usr/bin is …" is not: a command has only one slash."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    return text.startswith("/") and "\n" not in text and "/" not in word[1:]


def run(chat: Chat, line: str) -> None:
    """Run a command line. Raises InvalidRequestError that suggests a similar command."""
    word, _, argument = line.strip().partition(" ")
    find(word).run(chat, argument.strip())


def find(word: str) -> Command:
    """Return the command of a name. Raises InvalidRequestError that suggests a similar one."""
    by_name = {name: command for command in COMMANDS for name in command.names}
    if word in by_name:
        return by_name[word]
    near = difflib.get_close_matches(word, by_name, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "/help lists them"
    raise InvalidRequestError(f"there is no command {word}; {hint}")


def choices(chat: Callable[[], Chat]) -> Choices:
    """Return the completions of Tab: commands and their arguments."""

    def of(command: Command) -> Callable[[], Iterable[str]]:
        return lambda: command.choices(chat())

    return {name: of(command) for command in COMMANDS for name in command.names}


def _help(chat: Chat, _argument: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bright_black")
    for command in COMMANDS:
        table.add_row(f"{', '.join(command.names)} {command.usage}".strip(), command.help)
    table.add_row("", "")
    for keys, does in _KEYS:
        table.add_row(keys, does)
    chat.screen.print(table)


def _new(chat: Chat, _argument: str) -> None:
    told = _begin(chat)
    chat.screen.notice(told)


def _clear(chat: Chat, _argument: str) -> None:
    told = _begin(chat)
    chat.screen.clear()
    chat.screen.notice(told)


def _begin(chat: Chat) -> str:
    """Start a new chat; return a notice about the old one."""
    name, is_lost = chat.saving.name or chat.saving.chat_id, chat.saving.is_behind
    chat.begin()
    if is_lost:
        return "a new chat; the old one could not be saved"
    return f"a new chat; /load {name} returns to the old one" if name else "a new chat"


def _undo(chat: Chat, _argument: str) -> None:
    text = " ".join(chat.undo().split())
    chat.screen.notice(f"removed: {text if len(text) <= 60 else text[:59] + '…'}")


def _retry(chat: Chat, _argument: str) -> None:
    if chat.backend.sampling.seed is not None or "seed" in chat.options.sampling:
        chat.screen.notice("the seed is fixed, so the answer will be the same; /set seed default draws a new one")
    chat.retry()


def _continue(chat: Chat, _argument: str) -> None:
    chat.go_on()


def _edit(chat: Chat, argument: str) -> None:
    text = editor.edit(argument or chat.unsent)
    if text.strip():
        chat.screen.notice(text)
        chat.say(text)
    else:
        chat.screen.notice("nothing to send")


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.screen.notice(f"system message: {chat.dialogue.system or 'none'} (/system TEXT sets it, none removes it)")
        return
    chat.set_system(None if argument.lower() == "none" else argument)
    chat.screen.notice("system message removed" if chat.dialogue.system is None else "system message set")


def _set(chat: Chat, argument: str) -> None:
    setting = Setting.parse(argument)
    if not setting.name:
        chat.screen.print(tables.settings(chat.options, chat.backend.sampling, chat.verbose))
    elif setting.name in ("verbose", "quiet"):
        chat.verbose = setting.name == "verbose" and (not setting.value or flag("verbose", setting.value))
        chat.screen.notice(f"numbers after each answer: {'on' if chat.verbose else 'off'}")
    elif setting.name in ("think", "nothink"):
        _think(chat, "off" if setting.name == "nothink" else setting.value or "on")
    elif setting.name == "system":
        _system(chat, setting.value)
    else:
        chat.options = changed(chat.options, setting)
        chat.screen.notice(f"{setting.name}: {value_text(setting.name, chat.options, chat.backend.sampling)}")


def _think(chat: Chat, argument: str) -> None:
    if argument in ("on", "off"):
        chat.think = argument == "on"
        chat.screen.notice(f"the model is asked {'' if chat.think else 'not '}to think, if it supports that")
    elif argument == "hide":
        chat.screen.fold_thinking = True
        chat.screen.notice("thinking is folded to one line")
    elif argument in ("", "show"):
        chat.screen.fold_thinking = False
        last = chat.dialogue.last_answer
        thinking = last.parts.thinking.strip() if last else ""
        nothing = "thinking is shown; the last answer has none" if last else "thinking is shown; no answer yet"
        chat.screen.notice(thinking or nothing)
    else:
        raise InvalidRequestError("/think takes show, hide, on or off")


def _stats(chat: Chat, _argument: str) -> None:
    if chat.stats is None:
        chat.screen.notice("no answer yet")
        return
    sitting = f"{chat.answers:,} answer{'s' * (chat.answers != 1)}, {chat.answered_tokens:,} tokens"
    chat.screen.print(tables.stats(chat.stats, sitting, chat.backend.load_s))


def _tokens(chat: Chat, argument: str) -> None:
    backend = chat.backend
    if argument:
        ids = backend.encode(argument, add_special_tokens=False)
        pieces = " ".join(f"{i}:{backend.decode([i], skip_special_tokens=False)!r}" for i in ids)
        chat.screen.notice(f"{len(ids):,} tokens: {pieces}")
        return
    said = [("system", chat.dialogue.system)] if chat.dialogue.system is not None else []
    said += [(message.role, message.text) for message in chat.dialogue.messages]
    counts = [(role, len(backend.encode(text, add_special_tokens=False))) for role, text in said]
    chat.screen.print(tables.tokens(counts, chat.context_used, backend.context_tokens))


def _save(chat: Chat, argument: str) -> None:
    if argument:
        if len(argument) > 100 or not argument.isprintable() or argument.isdecimal():
            raise InvalidRequestError("a name has 1 to 100 visible characters, and is not a number of /sessions")
        chat.saving.set(name=argument)
    if not chat.dialogue.messages:
        chat.screen.notice("nothing to save yet; a chat is saved automatically from its first message")
        return
    saving = chat.saving
    saving.save()
    if saving.is_behind:
        raise InvalidRequestError("this chat cannot be saved; /export FILE writes it somewhere else")
    chat.screen.notice(f"saved; /load {saving.name or saving.chat_id} continues it")


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise InvalidRequestError("/load takes a number, name, id or file; /sessions lists the chats")
    resume(chat, chat.saving.transcripts.find(argument))


def resume(chat: Chat, saved: SavedChat) -> None:
    """Continue a saved chat; show its last message and answer."""
    chat.load(saved)
    count = len(saved.dialogue.messages)
    other = f", written with {saved.model}" if saved.model and saved.model != chat.backend.name else ""
    chat.screen.notice(f"continuing {saved.name or saved.id}: {count} messages{other}")
    for message in saved.dialogue.messages[saved.dialogue.last_question :]:
        if message.role == "user":
            chat.screen.notice(message.text)
        else:
            chat.screen.replay(message.text, message.dialect)


def _sessions(chat: Chat, _argument: str) -> None:
    if listed := chat.saving.transcripts.listing():
        chat.screen.print(tables.sessions(listed, chat.saving.chat_id))
    else:
        chat.screen.notice("no saved chats yet")


def _export(chat: Chat, argument: str) -> None:
    if not chat.dialogue.messages:
        raise InvalidRequestError("there is nothing to export yet")
    replace = argument.split(maxsplit=1)[:1] == ["-f"]
    path = typed_path(argument.removeprefix("-f" * replace).strip() or f"chat-{chat.saving.chat_id or 'unsaved'}.md")
    write = export.as_json if path.suffix.lower() == export.JSON_SUFFIX else export.as_markdown
    try:
        write_whole(path, write(chat.backend.name, chat.dialogue), replace=replace)
    except FileExistsError:
        told = f"exists; /export -f {path} replaces it" if path.is_file() else "is not a file"
        raise InvalidRequestError(f"{path} {told}") from None
    except OSError as error:
        raise InvalidRequestError(f"cannot write {path}: {error.strerror}") from error
    chat.screen.notice(f"written to {path}")


def _copy(chat: Chat, _argument: str) -> None:
    last = chat.dialogue.last_answer
    if last is None:
        raise InvalidRequestError("there is no answer to copy")
    text = last.parts.answer.strip()
    chat.screen.notice(f"copied {len(text):,} characters to the clipboard by {clipboard.copy(text)}")


def _model(chat: Chat, argument: str) -> None:
    if argument:
        chat.switch_model(argument)
    backend = chat.backend
    where = ", ".join(p.node for p in backend.placement)
    chat.screen.notice(f"{backend.name} on {where}, context {tokens_text(backend.context_tokens)}")


def _nodes(chat: Chat, _argument: str) -> None:
    chat.screen.print(chat.backend.nodes_table())


def _plan(chat: Chat, argument: str) -> None:
    _nodes(chat, argument)
    token_bytes, context = chat.backend.kv_bytes_per_token, chat.backend.context_tokens
    chat.screen.notice(
        f"KV cache: {token_bytes:,} bytes a token, {bytes_text(token_bytes * context)} for {context:,} tokens"
    )
    if prediction := chat.backend.prediction:
        chat.screen.notice(prediction)


def _exit(chat: Chat, _argument: str) -> None:
    chat.leaving = True


def _chat_names(chat: Chat) -> Iterable[str]:
    for saved in chat.saving.transcripts.listing():
        if isinstance(saved, SavedChat):
            yield saved.name or saved.id


def _setting_names(_chat: Chat) -> Iterable[str]:
    return (*sampling_names(), *request_names(), "verbose", "quiet")


COMMANDS = (
    Command(("/help", "/?"), "", "this list", _help),
    Command(("/new",), "", "start a new chat; this one stays saved", _new),
    Command(("/clear",), "", "clear the screen and start a new chat; this one stays saved", _clear),
    Command(("/undo",), "", "remove the last message and its answer", _undo),
    Command(("/retry",), "", "answer the last message again", _retry),
    Command(("/continue",), "", "continue the last answer", _continue),
    Command(("/edit",), "[TEXT]", "write the next message in your editor ($EDITOR)", _edit),
    Command(("/system",), "[TEXT|none]", "show, set or remove the system message", _system, lambda _chat: ("none",)),
    Command(
        ("/set",), "[NAME VALUE]", "change a setting: temperature, max_tokens, seed, verbose, …", _set, _setting_names
    ),
    Command(
        ("/think",),
        "[show|hide|on|off]",
        "show or fold thinking; turn it on or off",
        _think,
        lambda _chat: ("show", "hide", "on", "off"),
    ),
    Command(("/stats",), "", "speed and counts of the last answer", _stats),
    Command(("/tokens",), "[TEXT]", "count the tokens of this chat or of a text", _tokens),
    Command(("/save",), "[NAME]", "name this chat (it is saved automatically)", _save),
    Command(("/load",), "NAME|NUMBER|FILE", "continue a saved chat", _load, _chat_names),
    Command(("/sessions",), "", "list saved chats", _sessions),
    Command(("/export",), "[-f] [FILE]", "write the chat to a .md or .json file; /load reads .json", _export),
    Command(("/copy",), "", "copy the last answer", _copy),
    Command(("/model",), "[MODEL]", "show the model, or load another", _model, lambda _chat: ("demo",)),
    Command(("/nodes",), "", "show which node holds which part of the model", _nodes),
    Command(("/plan",), "", "the same, with the memory of the context and the predicted speed", _plan),
    Command(("/exit", "/bye", "/quit"), "", "leave", _exit),
)

_KEYS = (
    ('"""', "begins and ends a multi-line message"),
    ("Alt-Enter", "a new line"),
    ("Ctrl-G", "your editor"),
    ("Ctrl-R", "search what you typed before"),
    ("Ctrl-C", "stop the answer and keep its text so far"),
    ("Ctrl-D", "leave"),
)
