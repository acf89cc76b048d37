"""The chat's loop: reads input and runs it as a message or a command."""

from __future__ import annotations

from cli.chat import commands
from cli.chat.chat import Chat
from cli.chat.reader import Reader
from mlx_moe.errors import MoeClusterError


def run(chat: Chat, reader: Reader) -> None:
    """Read and answer until the person leaves."""
    while not chat.leaving:
        try:
            draft, chat.draft = chat.draft, ""
            text = reader.read(draft)
            if commands.is_command(text):
                commands.run(chat, text)
            elif text.strip():
                chat.say(text)
        except EOFError:
            return
        except KeyboardInterrupt:
            chat.screen.notice("Ctrl-D or /exit leaves")
        except MoeClusterError as error:
            chat.report(error)
