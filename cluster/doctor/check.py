"""Check: what is read, and the pure function that judges it. Reads commands and files, each within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cluster.doctor.finding import Finding, Remark, finding, not_checked

READ_S = 2.0
MAX_OUTPUT = 1 << 20

Command: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A check of this machine: `judge` gets a text for each source.

    A source in `optional` that cannot be read is an empty text; any other makes the check impossible. ValueError of
    `judge` means that a text is not as expected.
    """

    name: str
    sources: tuple[Command | Path, ...]
    judge: Callable[..., Iterable[Remark]]
    optional: frozenset[Command | Path] = frozenset()

    async def run(self) -> Finding:
        """Read the sources at the same time, and judge them."""
        texts = await asyncio.gather(*map(read, self.sources))
        for source, text in zip(self.sources, texts, strict=True):
            if isinstance(text, UnreadError) and source not in self.optional:
                return not_checked(self.name, str(text))
        return self.judged(*("" if isinstance(text, UnreadError) else text for text in texts))

    def judged(self, *texts: str) -> Finding:
        """Return what the texts mean."""
        try:
            return finding(self.name, self.judge(*texts))
        except ValueError as error:
            sources = " and ".join(map(shown, self.sources))
            return not_checked(self.name, f"{sources} said something unknown: {str(error)[:80]}")


class UnreadError(Exception):
    """Why a source could not be read."""


async def read(source: Command | Path) -> str | UnreadError:
    """Return the text of a command or file, or why there is none."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return file.read(MAX_OUTPUT).decode(errors="replace")
        except OSError as error:
            return UnreadError(f"{source}: {error.strerror}")
    return await _output(source)


async def _output(command: Command) -> str | UnreadError:
    """Return what a program writes to its standard output; an error code alone does not make that worthless."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        return UnreadError(f"{command[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(READ_S):
            output, errors = await process.communicate()
    except TimeoutError:
        return UnreadError(f"`{shown(command)}` took longer than {READ_S:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    text = output[:MAX_OUTPUT].decode(errors="replace")
    if process.returncode and not text.strip():
        said = errors.decode(errors="replace").strip().splitlines()
        return UnreadError(f"`{shown(command)}`: {said[-1] if said else f'code {process.returncode}'}")
    return text


def shown(source: Command | Path) -> str:
    """Return a source as a person would type it."""
    return str(source) if isinstance(source, Path) else " ".join(source)
