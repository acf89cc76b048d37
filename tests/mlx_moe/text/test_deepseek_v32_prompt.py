"""DeepSeek-V3.2's prompt: the published structure, as mlx-lm has it too, but for the words that tell of the tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text import deepseek_v32_prompt
from mlx_moe.text.deepseek_v32_prompt import DeepSeekV32Prompt
from mlx_moe.text.dialects import choose
from mlx_moe.text.tool_messages import ToolMessages
from tests.mlx_moe.text.test_tool_messages import MESSAGES, TOOLS

SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "It rains.", "reasoning_content": "so"}
AGAIN = {"role": "user", "content": "And then?"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [SYSTEM, MESSAGES[0]],
    [SYSTEM, MESSAGES[0], ANSWER, AGAIN],
    [SYSTEM, *MESSAGES],
    [SYSTEM, *MESSAGES, ANSWER, AGAIN],
    [SYSTEM, MESSAGES[0], {**MESSAGES[1], "tool_calls": MESSAGES[1]["tool_calls"] * 2}, MESSAGES[2], MESSAGES[2]],
    [MESSAGES[0], ANSWER],
]


@pytest.mark.oracle
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("thinks", [True, False])
def test_the_text_is_that_of_mlx_lm(
    messages: list[dict[str, Any]], thinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.chat_templates import deepseek_v32 as theirs

    monkeypatch.setattr(theirs, "render_tools", deepseek_v32_prompt._told)
    monkeypatch.setattr(theirs, "tools_from_openai_format", lambda tools: tools)
    tools = TOOLS if messages[0] is SYSTEM else None
    wanted = theirs.apply_chat_template(messages, tools=tools, enable_thinking=thinks, add_generation_prompt=True)
    ours = ToolMessages(DeepSeekV32Prompt(), choose("", "deepseek_v32", []))
    assert ours.render(messages, tools=tools, enable_thinking=thinks) == wanted


def test_tools_without_a_system_message_are_told_first() -> None:
    text = DeepSeekV32Prompt().render(MESSAGES[:1], tools=TOOLS)
    assert text.startswith("<｜begin▁of▁sentence｜>\n\n## Tools")
    assert json.dumps(TOOLS[0]["function"]) in text
    assert text.endswith("<｜User｜>Weather?<｜Assistant｜><think>")


def test_without_a_generation_prompt_the_answer_is_not_begun() -> None:
    for thinks in (True, False):
        text = DeepSeekV32Prompt().render(MESSAGES[:1], add_generation_prompt=False, thinking=thinks)
        assert text == "<｜begin▁of▁sentence｜><｜User｜>Weather?"


def test_other_messages_are_refused() -> None:
    with pytest.raises(TemplateError, match="no role 'boss'"):
        DeepSeekV32Prompt().render([{"role": "boss", "content": ""}])
    with pytest.raises(InvalidRequestError, match=r"content of a message must be text, got \[\{'type': 'image'"):
        DeepSeekV32Prompt().render([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(InvalidRequestError, match="must be a mapping"):
        DeepSeekV32Prompt().render(["hello"])  # type: ignore[list-item]
