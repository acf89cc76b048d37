"""Words on the command line that no argument takes: most are of a text, or a path, that stands without quotes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import typer
from typer.core import TyperCommand

from cli.failures import reported


class WordyCommand(TyperCommand):
    """A command that says how its last argument is to be typed, where more words follow it."""

    allow_extra_args = True

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse; more words than there are arguments end the command, with exit code 2."""
        typed = list(args)
        further = super().parse_args(ctx, args)
        if further and not ctx.resilient_parsing:
            from mlx_moe.errors import InvalidRequestError

            taken = [str(ctx.params[p.name]) for p in self.params if p.param_type_name == "argument" and p.name]
            with reported(debug=False):
                raise InvalidRequestError(_cure(ctx.info_name or "", taken, further, typed))
        return further


def _cure(command: str, taken: Sequence[str], further: Sequence[str], typed: list[str]) -> str:
    words = [taken[-1], *further]
    if command == "chat":
        text = shlex.quote(" ".join(further))
        model = shlex.quote(taken[-1])
        return (
            f"messages are typed in the chat that moe-cluster chat {model} begins; moe-cluster run {model} {text} "
            "answers one"
        )
    what = "the prompt" if command == "run" else "a path with spaces"
    return f"put {what} in quotes: moe-cluster {command} {shlex.join(_joined(typed, words))}"


def _joined(typed: list[str], words: Sequence[str]) -> list[str]:
    """Return what was typed with words as one; options between them are left out."""
    for i in range(len(typed)):
        if typed[i : i + len(words)] == [*words]:
            return [*typed[:i], " ".join(words), *typed[i + len(words) :]]
    return [*typed[: typed.index(words[0])], " ".join(words)]
