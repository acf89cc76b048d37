"""`python -m tests.family NAME ...`: run every check of families and print a table; status 1 if one fails.

`--table` writes their rows of the README's table.
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

COLUMNS = (
    "family",
    "models",
    "transformers, difference",
    "mlx-lm's conversions, difference",
    "drafts of its MTP layer, difference",
    "error in bf16",
)


def measure(name: str) -> dict[str, str]:
    """Return what each check of a family says; a failure begins with FAILED."""
    family, found = FamilyUnderTest(name), {}
    for title, check in CHECKS.items():
        try:
            found[title] = check(family)
        except Exception as exc:  # the process's boundary: the others are to be seen too
            found[title] = f"FAILED {type(exc).__name__}: {str(exc)[:200]}"
    return found


def rows_of_readme(text: str) -> dict[str, list[str]]:
    """Return the cells of each row of the README's table, by the family's name."""
    match = TABLE.search(text)
    assert match is not None, "the README has no table of families"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines()[2:] if "|" in line]
    return {names(row[0])[0]: row for row in rows}


def names(cell: str) -> list[str]:
    """Return the model types that a row's first cell names."""
    return cell.replace("`", "").split(", ")


def main(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.family", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(families.NAMES)}; default: all")
    parser.add_argument("--table", action="store_true", help="write their rows of the README's table")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name in families.WITHOUT_TRANSFORMERS:
            parser.error(
                f"{name} has no model in transformers: tests/mlx_moe/families/test_{name}.py holds it to mlx-lm"
            )
        if name not in families.NAMES:
            parser.error(f"{name} is not one of {', '.join(families.NAMES)}")
    console, failed = Console(), False
    for name in options.names or families.NAMES:
        started = time.process_time()
        found = measure(name)
        title = f"{name}, {time.process_time() - started:.1f} s of CPU"
        table = Table("check", "figure", title=title, title_justify="left")
        for check, figure in found.items():
            table.add_row(check, figure)
        console.print(table)
        if any(figure.startswith("FAILED") for figure in found.values()):
            failed = True
        elif options.table:
            _write_row(name, found)
    return int(failed)


def _write_row(name: str, checks: dict[str, str]) -> None:
    text = README.read_text()
    others = {
        name: [f"`{name}`", known_by, "held to mlx-lm", "", "none", ""]
        for name, known_by in families.WITHOUT_TRANSFORMERS.items()
    }
    rows = rows_of_readme(text) | others | {name: _row(name, checks)}
    table = _markdown([rows[name] for name in sorted(rows)])
    README.write_text(TABLE.sub(lambda _: table, text))


def _row(name: str, checks: dict[str, str]) -> list[str]:
    data = families.read(name)
    chosen = ("logits and tokens", "conversions", "its mtp", "its error")
    figures = [next(figure for title, figure in checks.items() if title.startswith(start)) for start in chosen]
    return [", ".join(f"`{n}`" for n in (name, *data.aliases)), data.known_by, *figures]


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    note = f"Held to transformers {version('transformers')} in float32 and mlx-lm {version('mlx-lm')}."
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *lines]) + f"\n\n{note}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
