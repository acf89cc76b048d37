"""A backend that answers by a script: a small working one, whose tokens are characters."""

# ruff: noqa: ARG002  # it takes what a backend takes
from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.chat.thinking import PLAIN
from cli.nodes import placement_table
from cli.progress import OnProgress
from cli.tables import HeadedTable
from cli.waiting import OnWaiting
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import CheckpointError, InvalidRequestError, MoeClusterError
from mlx_moe.node_placement import NodePlacement
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.dialects import Dialect

END = 0
NOTHING = 1
WAIT = "\x00"
"""In a script: from here on tokens without text, until somebody stops the answer."""

CTRL_C = "\x03"
"""In a script: whoever runs this presses Ctrl-C, once the character before was written."""

Script = Callable[[str], str]
"""What to answer to a prompt; everything before the answer is in the prompt."""


class ScriptedAnswer:
    """An answer that is written already. `failure` is raised where the script ends."""

    def __init__(self, request: Request, text: str, conversation: ScriptedConversation) -> None:
        self.seed = 7 if request.sampling.seed is None else request.sampling.seed
        self.finish_reason: FinishReason | None = None
        self.stats = GenerationStats(prompt_tokens=len(request.input_ids), ttft_s=0.2, chunk_length=64)
        self._conversation = conversation
        self._request = request
        self._text = text
        self._started = time.monotonic()

    def __iter__(self) -> ScriptedAnswer:
        return self

    def __next__(self) -> Token:
        if self.finish_reason is not None:
            raise StopIteration
        done, request = self.stats.generated_tokens, self._request
        position = len(request.input_ids) + done
        if done == 0:
            self._conversation.prefill()
        self.stats.generated_tokens += 1
        self.stats.decode_s += 0.04
        token = self._token(done, position)
        room = self._conversation.backend.context_tokens - len(request.input_ids)
        if self.finish_reason is None and done + 1 >= min(request.max_tokens or room, room):
            self.finish_reason = "length"
        return token

    def close(self) -> None:
        if self.finish_reason is None:
            self.finish_reason = "cancelled"

    def _token(self, done: int, position: int) -> Token:
        if done >= len(self._text):
            if failure := self._conversation.backend.failure:
                raise failure
            self.finish_reason = self._conversation.backend.ending
            return Token(END, "", 0.0, position)
        character = self._text[done]
        if character == WAIT:
            time.sleep(0.01)
            self._text = self._text[:done] + WAIT * 2
            return Token(NOTHING, "", 0.0, position)
        if self._text[done + 1 : done + 2] == CTRL_C:
            signal.raise_signal(signal.SIGINT)
        return Token(ord(character), character, 0.0, position)


class ScriptedConversation:
    """Remembers what was asked, and how much of it was new."""

    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend
        self.closed = False
        self._progress: OnProgress | None = None

    def answer(
        self, request: Request, progress: OnProgress | None = None, waiting: OnWaiting | None = None
    ) -> ScriptedAnswer:
        if len(request.input_ids) >= self.backend.context_tokens:
            raise InvalidRequestError("over the context")
        self.backend.requests.append(request)
        self._progress = progress
        prompt = self.backend.decode(request.input_ids, skip_special_tokens=False)
        return ScriptedAnswer(request, self.backend.script(prompt), self)

    def prefill(self) -> None:
        for chunk in range(self.backend.prefill_chunks):
            self.backend.on_prefill(chunk)
            if self._progress is not None:
                self._progress(chunk + 1, self.backend.prefill_chunks)

    def close(self) -> None:
        self.closed = True


@dataclass
class ScriptedBackend:
    """A "model" of this machine. Its prompts read "<user>hi</user><assistant>"."""

    script: Script
    name: str = "demo"
    context_tokens: int = 4096
    ending: FinishReason = "stop"
    failure: MoeClusterError | None = None
    has_chat_template: bool = True
    prefill_chunks: int = 1
    on_prefill: Callable[[int], None] = lambda _chunk: None
    opening: str = ""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    kv_bytes_per_token: int = 1152
    load_s: float = 0.5
    notes: Sequence[str] = ()
    dialect: Dialect = PLAIN
    thoughts_apart: bool = True
    prediction: str = ""
    placement: Sequence[NodePlacement] = (NodePlacement("mac-1", range(6), 80, 6_400_000, 9_000_000),)

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.conversations: list[ScriptedConversation] = []
        self.variables: list[Mapping[str, Any]] = []
        self.label = self.name
        self.closed = False
        self.made_ready = 0

    def nodes_table(self) -> HeadedTable:
        return placement_table(self.placement)

    def ensure_ready(self) -> None:
        self.made_ready += 1

    def format_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        self.variables.append(variables)
        turns = "".join(
            f"<{m['role']}{'+thought' * ('reasoning_content' in m)}>{m['content']}</{m['role']}>" for m in messages
        )
        return self.encode(f"{turns}<assistant>{self.opening}", add_special_tokens=False)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(i) for i in token_ids if i not in (END, NOTHING))

    def new_conversation(self) -> ScriptedConversation:
        self.conversations.append(ScriptedConversation(self))
        return self.conversations[-1]

    def close(self) -> None:
        self.closed = True


class ScriptedModels:
    """Models of all names but "missing", which answer by one script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.served: str | None = None
        self.opened: list[ScriptedBackend] = []

    def check(self, model: str) -> None:
        if model == "missing":
            raise CheckpointError("no model 'missing' here")

    def open(self, model: str, *, needs_text: bool = True) -> ScriptedBackend:
        self.check(model)
        self.opened.append(ScriptedBackend(self.script, name=model))
        return self.opened[-1]


def one_answer(text: str) -> Script:
    """Return a script that says one text, and goes on with it where a prompt already has its beginning."""

    def script(prompt: str) -> str:
        begun = prompt.rpartition("<assistant>")[2]
        return text.removeprefix(begun)

    return script


def main() -> None:
    """Run the command line over a script that is a file's text: `python scripted.py FILE chat …`."""
    from cli import app
    from cli.commands import answers

    models = ScriptedModels(one_answer(Path(sys.argv.pop(1)).read_text(encoding="utf-8")))
    answers._models = lambda *_how: models
    app.main()


if __name__ == "__main__":
    main()
