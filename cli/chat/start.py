"""Starts a chat: chooses the model, the saved chat, the reader and the screen."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType

from cli.backend import Models, lasting
from cli.chat import commands, loop
from cli.chat.chat import Chat
from cli.chat.dialogue import Dialogue
from cli.chat.reader import PipeReader, Reader, TerminalReader
from cli.chat.saving import Saving
from cli.chat.screen import Screen
from cli.chat.transcript import SavedChat, TranscriptError, Transcripts
from cli.keyboard import quiet_keyboard
from cli.options import AnswerOptions
from cli.terminal import moves_its_cursor
from cli.units import tokens_text
from cli.visible import short_name
from cluster.errors import ClusterError
from cluster.home import Home
from mlx_moe.checkpoint.library import DEMO
from mlx_moe.errors import InvalidRequestError


def start(models: Models, model: str | None, go_on: bool, system: str | None, options: AnswerOptions) -> None:
    """Chat until the person leaves."""
    options.check()
    home = Home.default()
    screen = Screen(live=_is_lively())
    transcripts = Transcripts(home.sessions)
    saved = transcripts.latest() if go_on else None
    if go_on and saved is None:
        screen.notice("no saved chat to continue; starting a new one")
    name, why = _choose_model(model, models.served, saved, transcripts)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    backend = models.open(name)
    if not backend.has_chat_template:
        backend.close()
        raise InvalidRequestError(f"{name} has no chat template, it only completes text: use moe-cluster run --raw")
    dialogue = Dialogue(system)
    saving = Saving(transcripts, lasting(name), dialogue, screen.notice)
    chat = Chat(backend, models, screen, saving, dialogue, options)
    try:
        _create(home)
        if screen.live:
            nodes = ", ".join(p.node for p in backend.placement)
            context = tokens_text(backend.context_tokens)
            screen.notice(
                f"{short_name(name)}{why} · {nodes} · context {context} · /help lists commands, Ctrl-D leaves"
            )
        for note in backend.notes:
            screen.notice(note)
        if saved is not None:
            commands.resume(chat, saved)
            if system is not None:
                chat.set_system(system)
        with quiet_keyboard():
            loop.run(chat, _reader(chat, home))
    finally:
        chat.close()


def _is_lively() -> bool:
    """Whether stdin and stdout are a terminal that can move its cursor."""
    return moves_its_cursor() and sys.stdin.isatty() and sys.stdout.isatty()


def _choose_model(
    model: str | None, served: str | None, saved: SavedChat | None, transcripts: Transcripts
) -> tuple[str, str]:
    """Return the model and, if the person did not name it, a note on the choice."""
    if model is not None:
        return model, ""
    if served is not None:  # an old chat must not replace the model that others use
        return served, " (served by the cluster)"
    if saved is not None:
        return saved.model, ""
    try:
        latest = transcripts.latest()
    except TranscriptError:
        latest = None
    if latest is None:
        return DEMO, " (built in; moe-cluster chat MODEL takes another)"
    return latest.model, " (as last time)"


def _create(home: Home) -> None:
    with suppress(ClusterError):  # the first message then reports that it cannot be saved
        home.create()


def _reader(chat: Chat, home: Home) -> Reader:
    if not chat.screen.live:
        return PipeReader()
    return TerminalReader(home.chat_history, commands.choices(lambda: chat), lambda: chat.bar)


def _leave(signum: int, _frame: FrameType | None) -> None:
    """Exit normally when the terminal closes: the answer so far is saved."""
    raise SystemExit(128 + signum)
