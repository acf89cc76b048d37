"""The table in README.md is of the thirty rows, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.faults.record import README, Record, render
from tests.faults.rows import ROWS

ROOT = Path(__file__).parents[2]


def numbers_in(table: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]


def test_there_are_thirty_rows_in_order() -> None:
    assert [row.number for row in ROWS] == [*range(1, 31)]


def test_the_table_has_all_rows_in_order_and_their_faults() -> None:
    table = README.read_text()
    numbers = numbers_in(table)
    assert sorted(set(numbers)) == [row.number for row in ROWS]
    assert numbers == sorted(numbers)
    assert all(f"| {row.number} | {row.fault} | {row.when} |" in table for row in ROWS)


def test_every_test_that_is_named_exists() -> None:
    for row in ROWS:
        for name in row.shown_by:
            path, _, function = name.partition("::")
            defined = {
                node.name
                for node in ast.walk(ast.parse((ROOT / path).read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert function in defined, name


def test_a_row_without_a_record_and_without_a_test_says_so() -> None:
    table = render([Record(1, "SIGKILL", "all went on", 0.5, 1.25, True)], "0.0")
    assert "| SIGKILL | all went on | 0.5 | 1.2 | yes |" in table
    assert numbers_in(table) == [*range(1, 31)]
    assert "| 2 | kill -9 of the first, of the last stage | G |  | not measured in this run |" in table
