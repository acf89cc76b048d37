"""convert: writes a model quantized, in the layout that mlx-lm and this program load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.failures import print_line
from cli.progress import progress_bar
from cli.units import count_text, duration_text
from cli.visible import visible
from mlx_moe.errors import InvalidRequestError
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from mlx_moe.checkpoint.recipe import Recipe
    from mlx_moe.config import QuantizationConfig
    from mlx_moe.conversion.plan import ConversionPlan

RECIPES = ("uniform", "mixed")


@dataclass(frozen=True, slots=True)
class Form:
    """The options that say how a model is quantized; None: the mode's default."""

    bits: int | None
    mode: str
    group_size: int | None
    recipe: str

    def read(self) -> Recipe:
        """Return the recipe. Raises InvalidRequestError if there is none."""
        from mlx_moe.checkpoint import recipe

        if self.recipe not in RECIPES:
            raise InvalidRequestError(f"--recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        build = recipe.mixed if self.recipe == "mixed" else recipe.uniform
        return build(self.bits, self.mode, self.group_size)


def convert(model: str, directory: Path, form: Form, *, keep_mtp: bool) -> None:
    """Convert a model into a directory; the same call goes on with an unfinished conversion.

    Raises:
        InvalidRequestError: a form that MLX does not have, a directory that is something else, a full disk.
        CheckpointError: the model's files are not usable.
    """
    recipe = form.read()
    from mlx_moe import families
    from mlx_moe.checkpoint import library
    from mlx_moe.checkpoint.checkpoint import Checkpoint
    from mlx_moe.conversion.conversion import Conversion
    from mlx_moe.conversion.plan import plan

    with Checkpoint.open(library.locate(model)) as checkpoint:
        config = families.config_of(checkpoint)
        planned = plan(checkpoint, config, recipe, keep_mtp=keep_mtp)
        conversion = Conversion(checkpoint, planned, directory, model, keep_mtp=keep_mtp)
        if conversion.is_finished:
            print(f"{visible(str(directory))} has this conversion already")
            return
        _print_plan(rows(model, directory, planned, config.num_nextn_predict_layers > 0))
        if done := len(planned.files) - len(conversion.remaining):
            print(f"going on: {done} of {len(planned.files)} files are complete")
        started, nbytes = time.monotonic(), conversion.remaining_bytes
        try:
            with progress_bar("converting", "bytes") as report:
                conversion.run(report)
        except KeyboardInterrupt:
            done = len(planned.files) - len(conversion.remaining)
            print_line(f"{done} of {len(planned.files)} files are complete; this goes on: {conversion.command}")
            raise
    print(f"wrote {bytes_text(nbytes)} in {duration_text(time.monotonic() - started)}")


def rows(model: str, directory: Path, plan: ConversionPlan, promises_mtp: bool) -> list[tuple[str, str]]:
    """Return labels and values for people."""
    experts, others = plan.recipe.experts, plan.recipe.others
    how = [("quantization", _quantization_text(experts))]
    if experts != others:
        how = [("routed experts", _quantization_text(experts)), ("other matrices", _quantization_text(others))]
    mtp = "kept" if plan.has_mtp else "left out" if promises_mtp else "none"
    return [
        ("from", visible(model)),
        ("to", visible(str(directory))),
        *how,
        ("router, norms, biases", "as they are"),
        ("multi-token prediction", mtp),
        ("writes", f"{bytes_text(plan.nbytes)} in {len(plan.files)} files"),
        ("weights", f"{count_text(plan.n_weights)}, {plan.bits_per_weight:.2f} bits each"),
        *(("note", note) for note in _notes(plan)),
    ]


def _print_plan(labelled: list[tuple[str, str]]) -> None:
    from rich.table import Table

    from cli.tables import table_console

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for label, value in labelled:
        table.add_row(label, value)
    table_console().print(table)


def _quantization_text(how: QuantizationConfig | None) -> str:
    from mlx_moe.checkpoint.modes import quantization_text

    return "as stored" if how is None else quantization_text(how)


def _notes(plan: ConversionPlan) -> list[str]:
    """Return what is said of matrices that are quantized already."""
    notes = []
    if plan.requantized:
        stored = plan.requantized[0].stored.origin.form.text
        notes.append(f"{len(plan.requantized)} matrices lose twice: they are quantized already ({stored})")
    if plan.kept:
        stored = _quantization_text(plan.kept[0].quantization)
        notes.append(f"{len(plan.kept)} matrices stay as they are: more bits would not help ({stored})")
    return notes
