"""Tables at all widths of a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.chat import tables
from cli.chat.dialogue import Dialogue, Message
from cli.chat.transcript import Transcripts, read_transcript
from cli.nodes import NodeRow, cluster_table, holders_table
from cli.tables import HeadedTable

CELLS = {
    "name": "my node",
    "chip": "Apple M4 Pro",
    "size": "64.0 GB",
    "rate": "0.41",
    "says": "some words " * 8,
}


def shown(table: HeadedTable, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns)
    console.print(table)
    text = console.file.getvalue()
    assert isinstance(text, str)
    return text.splitlines()


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 50, 40, 30])
def test_a_narrow_terminal_loses_columns_and_no_letter(columns: int) -> None:
    table = HeadedTable(
        *CELLS,
        texts=("name", "chip", "says"),
        wrapped="says",
        optional=("rate", "chip", "size"),
        legend={"rate": "GB/s", "size": "of memory"},
    )
    table.add_row(*CELLS.values())
    lines = shown(table, columns)
    words = " ".join(lines).split()
    left_out = [column for column in CELLS if column not in lines[0]]
    assert left_out == sorted(("rate", "chip", "size")[: len(left_out)], key=list(CELLS).index)
    assert all(set(CELLS[column].split()) <= set(words) for column in CELLS if column not in left_out)
    assert max(map(len, lines)) <= columns
    assert ("rate: GB/s" in " ".join(words)) == ("rate" not in left_out)


def row(name: str, role: str) -> NodeRow:
    return NodeRow(
        name=name,
        node_id="0",
        addresses=("127.0.0.1:7420",),
        state="present",
        is_here=False,
        chip="Apple M3 Ultra",
        offered_bytes=440 * 10**9,
        role=role,
        stage=0,
        layers=range(10, 61),
        experts=12_800,
        weights_bytes=123 * 10**9,
        kv_positions=131_072,
        peak_memory_bytes=130 * 10**9,
        used_memory_bytes=128 * 10**9,
        memory="",
        latency_s=0.0123,
        bytes_per_s=1.2e9,
        keeps_authority=False,
    )


@pytest.mark.parametrize("columns", [60, 80, 100, 120])
def test_nodes_fit_the_terminal_and_their_columns_are_explained(columns: int) -> None:
    rows = [row("mac-studio-1", "coordinator"), row("mac-studio-2", "experts")]
    for table, least in ((cluster_table(rows), ("node", "state", "layers")), (holders_table(rows), ("node", "role"))):
        lines = shown(table, columns)
        assert max(map(len, lines)) <= columns
        assert all(heading in lines[0] for heading in least)
        assert "mac-studio-2" in "".join(lines)
        assert ("latency" in " ".join(lines)) == (" ms" in lines[0])
    assert "chip" in shown(cluster_table(rows), 120)[0]


def test_saved_chats_fit_60_columns(tmp_path: Path) -> None:
    transcript = Transcripts(tmp_path).new(
        "org/a-model-with-a-long-name-4bit", Dialogue(messages=[Message("user", "why " * 30)])
    )
    transcript.close()
    lines = shown(tables.sessions([read_transcript(transcript.path)], None), 60)
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).count("why") >= 10
