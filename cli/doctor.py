"""doctor: shows what is wrong with this machine, its node and the cluster, and the commands that mend it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from cli.exit_codes import ExitCode
from cli.tables import HeadedTable, table_console
from cli.visible import visible
from cluster.doctor import Finding, State, examine
from cluster.home import Home

_STYLES = {State.NOT_CHECKED: "bright_black", State.WARNING: "yellow", State.PROBLEM: "red"}


def doctor(as_json: bool) -> None:
    """Print all findings. Raises typer.Exit if there are problems; warnings are none."""
    findings = asyncio.run(examine(Home.default()))
    if as_json:
        print(json.dumps(to_json(findings)))
    else:
        show(findings, table_console())
    if count(findings, State.PROBLEM):
        raise typer.Exit(ExitCode.PROBLEMS)


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print findings as a table, and below it the commands that mend what is wrong."""
    table = HeadedTable("check", "state", "found", texts=("check", "state", "found"), wrapped="found")
    for each in findings:
        found = Text(visible("\n".join(each.found)))
        table.add_row(each.name, Text(each.state, _STYLES.get(each.state, "")), found)
    console.print(table)
    console.print(_summary(findings))
    for each in findings:
        if each.cures:
            console.print(Text(f"\n{each.name}", _STYLES.get(each.state, "")))
        for cure in each.cures:
            console.print(Text(f"  {visible(cure)}"), soft_wrap=True)  # unwrapped, so that it can be pasted


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON values."""
    return {
        "problems": count(findings, State.PROBLEM),
        "warnings": count(findings, State.WARNING),
        "checks": [
            {"name": each.name, "state": each.state, "found": each.found, "cures": each.cures} for each in findings
        ],
    }


def count(findings: Sequence[Finding], state: State) -> int:
    """Return how many findings are in a state."""
    return sum(each.state is state for each in findings)


def _summary(findings: Sequence[Finding]) -> str:
    problems, warnings, unchecked = (count(findings, s) for s in (State.PROBLEM, State.WARNING, State.NOT_CHECKED))
    parts = [
        f"{problems} problem{'s' * (problems != 1)}" * bool(problems),
        f"{warnings} warning{'s' * (warnings != 1)}" * bool(warnings),
    ]
    said = ", ".join(part for part in parts if part) or "nothing is wrong"
    return f"{said}; {unchecked} not checked" if unchecked else said
