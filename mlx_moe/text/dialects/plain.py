"""Any other model: a thought between the model's own markers; calls only if the request has tools.

Tools are then described to it in its prompt (`tool_messages`), which asks for calls as Qwen3 writes them.
"""

from __future__ import annotations

from mlx_moe.text.dialects.calls import read_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.qwen import read_tool_call, write_tool_calls
from mlx_moe.text.dialects.reader import Reader, Steps, Tags
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.thought import ThoughtMarkers


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers)
    if answer.tools:
        yield from read_calls(answer, Tags("<tool_call>"), read_tool_call)
    yield from answer.to_the_end(answer.content)


PLAIN = Dialect("plain", _grammar, write_tool_calls)
