"""The line that shows a tool call."""

from __future__ import annotations

from mlx_moe.text.dialects import ToolCall


def call_line(call: ToolCall) -> str:
    """Return the tool's name and its arguments on one line."""
    return f"calls {call.name} {' '.join(call.arguments.split())}"
