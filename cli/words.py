"""Extra words on the command line: mostly a prompt or a path without quotes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import typer
from typer.core import TyperCommand

from cli.failures import reported


class WordyCommand(TyperCommand):
    """A command that refuses extra words and shows how to quote its last argument."""

    allow_extra_args = True

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse; exit with code 2 if there are more words than arguments."""
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
            f"chat takes no message on the command line: type it after moe-cluster chat {model}, or use "
            f"moe-cluster run {model} {text}"
        )
    what = "the prompt" if command == "run" else "a path with spaces"
    return f"put {what} in quotes: moe-cluster {command} {shlex.join(_joined(typed, words))}"


def _joined(typed: list[str], words: Sequence[str]) -> list[str]:
    """Return the typed words with `words` joined into one; options between them are dropped."""
    for i in range(len(typed)):
        if typed[i : i + len(words)] == [*words]:
            return [*typed[:i], " ".join(words), *typed[i + len(words) :]]
    return [*typed[: typed.index(words[0])], " ".join(words)]
