"""Dialects: the ways in which models mark reasoning and tool calls in their answers, and one parser for each."""

from mlx_moe.text.dialects.choice import choose, named
from mlx_moe.text.dialects.dialect import AnswerParser, Dialect, merged
from mlx_moe.text.dialects.parts import Content, Markup, Part, Reasoning, ToolCall
from mlx_moe.text.dialects.tools import Definition
from mlx_moe.text.dialects.written import Called

__all__ = [
    "AnswerParser",
    "Called",
    "Content",
    "Definition",
    "Dialect",
    "Markup",
    "Part",
    "Reasoning",
    "ToolCall",
    "choose",
    "merged",
    "named",
]
