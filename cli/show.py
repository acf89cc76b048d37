"""show: describes a checkpoint from its config and headers alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.units import count_text, tokens_text
from cli.visible import visible
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from mlx_moe.summary import ModelSummary


def show(model: str, as_json: bool) -> None:
    """Print a checkpoint's summary. Raises CheckpointError as loading does."""
    import mlx_moe

    summary = mlx_moe.describe(model)
    if as_json:
        print(json.dumps({"model": model, **asdict(summary), "path": str(summary.path)}))
    else:
        _print_table(model, summary)


def _print_table(model: str, summary: ModelSummary) -> None:
    from rich.table import Table

    from cli.tables import table_console

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for label, value in rows(model, summary):
        table.add_row(label, value)
    table_console().print(table)


def rows(model: str, summary: ModelSummary) -> list[tuple[str, str]]:
    """Return labels and values for people."""
    s = summary
    dense = s.num_hidden_layers - s.moe_layers
    experts = f"{s.n_routed_experts} a layer, {s.num_experts_per_tok} for each token" if s.moe_layers else "none"
    if s.n_shared_experts:
        experts += f", {s.n_shared_experts} shared"
    states = f" and {bytes_text(s.kv_fixed_bytes)} of states" if s.kv_fixed_bytes else ""
    context = f"{bytes_text(s.kv_context_bytes)} for the whole context"
    return [
        ("model", visible(model)),
        ("family", visible(s.model_type)),
        ("parameters", f"{count_text(s.parameters)} ({s.parameters:,})"),
        ("multi-token prediction", mtp_text(s)),
        ("weights", f"{bytes_text(s.weights_bytes)} ({s.weights_bytes:,} bytes)"),
        ("stored as", s.form),
        ("layers", f"{s.num_hidden_layers}: {dense} dense, {s.moe_layers} with experts"),
        ("experts", experts),
        ("hidden size", f"{s.hidden_size:,}"),
        ("vocabulary", f"{s.vocab_size:,} tokens"),
        ("context", context_text(s.context_tokens, s.longest_context, s.rope_type)),
        (
            "KV cache",
            f"{s.kv_bytes_per_position:,} bytes a token{states}, {context}",
        ),
        ("content hash", s.content_hash),
        ("path", visible(str(s.path))),
    ]


def mtp_text(summary: ModelSummary) -> str:
    """Return how large the MTP layer is, or why there is none."""
    s = summary
    if s.mtp_missing:
        return f"none: {s.mtp_missing} parameters of the layer that config.json promises are not in the files"
    return f"{count_text(s.mtp_parameters)} ({s.mtp_parameters:,}), beside the above" if s.mtp_parameters else "none"


def context_text(tokens: int, longest: int, rope_type: str) -> str:
    """Return "128k (131,072 tokens, yarn)", and what --context may ask for beyond."""
    rope = "" if rope_type == "default" else f", {rope_type}"
    more = f"; up to {longest:,} with --context" if longest > tokens else ""
    return f"{tokens_text(tokens)} ({tokens:,} tokens{rope}){more}"
