"""`python -m tests.family NAME ...`: run every check of families and print a table; status 1 if one fails.

`--table` runs them for all families and writes the README's table.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import families
from tests.family_checks import CHECKS, FamilyUnderTest

README = Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- /families -->)", re.DOTALL)
"""The part of the README that is written from the checks."""

COLUMNS = ("family", "models", "largest difference of a logit", "stacked by mlx-lm", "drafts", "bf16 error")


def figures(name: str) -> dict[str, str]:
    """Return what each check of a family says; a failure begins with FAILED."""
    family, found = FamilyUnderTest(name), {}
    for title, check in CHECKS.items():
        try:
            found[title] = check(family)
        except Exception as exc:  # the process's boundary: the others are to be seen too
            found[title] = f"FAILED {type(exc).__name__}: {str(exc)[:200]}"
    return found


def rows_of_readme(text: str) -> list[list[str]]:
    """Return the cells of the README's table."""
    match = TABLE.search(text)
    assert match is not None, "the README has no table of families"
    lines = match[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def main(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.family", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(families.NAMES)}; default: all")
    parser.add_argument("--table", action="store_true", help="write the README's table")
    options = parser.parse_args(arguments)
    console, found = Console(), {}
    for name in options.names or families.NAMES:
        started = time.process_time()
        found[name] = figures(name)
        table = Table(
            "check", "figure", title=f"{name}, {time.process_time() - started:.1f} s of CPU", title_justify="left"
        )
        for title, figure in found[name].items():
            table.add_row(title, figure)
        console.print(table)
    if any(figure.startswith("FAILED") for checks in found.values() for figure in checks.values()):
        return 1
    if options.table:
        README.write_text(TABLE.sub(_markdown(found), README.read_text()))
    return 0


def _markdown(found: dict[str, dict[str, str]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, checks in found.items():
        data = families.read(name)
        chosen = ("logits and tokens", "conversions", "its mtp", "its error")
        cells = [next(figure for title, figure in checks.items() if title.startswith(start)) for start in chosen]
        names = ", ".join(f"`{n}`" for n in (name, *data.aliases))
        lines.append(f"| {' | '.join([names, data.known_by, *cells])} |")
    note = f"Held to transformers {version('transformers')} in float32 and mlx-lm {version('mlx-lm')}."
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
