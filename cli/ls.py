"""ls: the models on disk: whole or in part, how many bytes, in which form, when they were used."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cli.tables import HeadedTable, table_console
from cli.units import age_text, bytes_text, span_text
from cli.visible import visible
from cluster.home import Home
from cluster.uses import Uses
from mlx_moe.checkpoint import durable_file, hub_cache
from mlx_moe.checkpoint.inventory import Place, State, StoredModel, stored_models
from mlx_moe.families.registry import FAMILIES

COMMIT_LETTERS = 8
"""Shown letters of a commit; `NAME@COMMIT` takes its beginning."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model on a node's disk. `used_at` is when the node last loaded it, in seconds since 1970; None: never."""

    node: str
    model: StoredModel
    used_at: float | None

    @property
    def is_supported(self) -> bool:
        """Whether its family is one that this version runs."""
        return self.model.model_type in FAMILIES

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        model = self.model
        layers = None if model.layers is None else [model.layers.start, model.layers.stop - 1]
        values = asdict(model) | {"path": str(model.path), "layers": layers, "state": model.state}
        return {"node": self.node} | values | {"supported": self.is_supported, "used_at": self.used_at}


def show_models(as_json: bool) -> None:
    """Print the models of this machine."""
    listed = of_this_machine("this machine")
    if as_json:
        print(json.dumps([row.to_json() for row in listed]))
        return
    console = table_console()
    if listed:
        console.print(models_table(listed, time.time()))
        for line in _notes(listed):
            console.print(line, style="yellow")
    else:
        console.print("no model is on this machine; `moe-cluster pull MODEL` downloads one", style="bright_black")
    console.print(_room())


def of_this_machine(node: str) -> list[Listed]:
    """Return the models on this machine's disk, for a node with this name."""
    home = Home.default()
    uses = Uses(home.uses)
    return [Listed(node, model, uses.last(model.path)) for model in stored_models(home.models)]


def models_table(listed: Sequence[Listed], now: float) -> HeadedTable:
    """Return a table of models, with the nodes if there are several."""
    table = HeadedTable(
        *("node", "model", "commit", "here", "on disk", "form", "family", "last used"),
        texts=("node", "model", "commit", "here", "form", "family", "last used"),
        optional=("node", "commit", "family", "last used", "form"),
    )
    several = len({row.node for row in listed}) > 1
    for row in listed:
        model = row.model
        table.add_row(
            visible(row.node) if several else "",
            visible(model.name),
            visible(model.revision[:COMMIT_LETTERS]),
            held_text(model),
            bytes_text(model.disk_bytes),
            visible(model.form),
            visible(model.model_type) + ("" if row.is_supported or not model.model_type else " (not run)"),
            "" if row.used_at is None else age_text(now - row.used_at),
            style="" if row.is_supported and model.state is not State.DAMAGED else "bright_black",
        )
    return table


def held_text(model: StoredModel) -> str:
    """Return which part of a model is here: "whole", "layers 0-29", "34%", "2 of 5 files" or "damaged"."""
    if model.state is not State.PART:
        return str(model.state)
    if model.n_missing:
        return f"{model.n_files - model.n_missing} of {model.n_files} files"
    if model.layers:
        return f"layer{'s' * (len(model.layers) > 1)} {span_text(model.layers)}"
    return f"{model.weights_bytes / model.total_bytes:.0%}"


def _notes(listed: Sequence[Listed]) -> list[str]:
    """Return what is wrong with damaged models, and how models in part are completed."""
    damaged = [(row.model, row.model.damage) for row in listed if row.model.damage]
    incomplete = [
        row.model for row in listed if row.is_supported and row.model.n_missing and row.model.place is Place.CACHE
    ]
    cures = [(model, f"{_missing(model.n_missing)}: {hub_cache.cure(model.path)}") for model in incomplete]
    begun = [row.model for row in listed if row.model.place is Place.DOWNLOAD and not row.model.damage]
    cures += [(model, f"its download goes on with `{hub_cache.pull_command(model.name)}`") for model in begun]
    return [visible(f"{model.name}: {text.replace(f'{model.path}/', '')}") for model, text in (*damaged, *cures)]


def _missing(count: int) -> str:
    return "1 file is missing" if count == 1 else f"{count} files are missing"


def _room() -> str:
    cache = hub_cache.directory()
    return f"{bytes_text(durable_file.free_bytes(cache))} free on the disk of {visible(str(cache))}"
