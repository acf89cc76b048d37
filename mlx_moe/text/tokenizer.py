"""Tokenizer: converts text to token ids and back, and conversations to ids, by a checkpoint's tokenizer files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.text.chat_template import ChatTemplate
from mlx_moe.text.deepseek_v32_prompt import DeepSeekV32Prompt
from mlx_moe.text.detokenizer import Detokenizer, bytes_of, is_byte_level
from mlx_moe.text.dialects import choose
from mlx_moe.text.dialects.deepseek import DEEPSEEK_V32
from mlx_moe.text.generation_defaults import GenerationDefaults
from mlx_moe.text.stated_tokens import optional
from mlx_moe.text.text_process import SHARED, TextProcess
from mlx_moe.text.tool_messages import Template, ToolMessages
from mlx_moe.text.vocabulary import Vocabulary

MAX_TEXT_CHARACTERS = 32 << 20

PROMPT_ENDING = 64
"""Number of tokens at the end of a prompt that may contain the beginning of the answer; each has at least one byte."""


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        eos_token_ids: all tokens that end a turn.
        dialect: how this model's answers mark reasoning and tool calls.
        failure: why the tokenizer files cannot be used, or None. If set, encoding raises it and ids have no text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        eos_token_ids: frozenset[int],
        chat_template: Template | None,
        failure: CheckpointError | None = None,
        model_type: str = "",
        process: TextProcess | None = None,
    ) -> None:
        tokenizer = vocabulary.tokenizer
        bos_token = vocabulary.special_tokens.get("bos_token")
        self.bos_token_id: int | None = None if bos_token is None else tokenizer.token_to_id(bos_token)
        self.special_tokens = vocabulary.special_tokens
        self.eos_token_ids = eos_token_ids
        self.failure = failure
        self.chat_template = chat_template
        self._conversations: ToolMessages | None = None
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._tokenizer = tokenizer
        self._is_byte_level = is_byte_level(tokenizer)
        self._encoder: TextProcess | Vocabulary = process or vocabulary
        added = tokenizer.get_added_tokens_decoder()
        template = chat_template.source if isinstance(chat_template, ChatTemplate) else ""
        self.dialect = choose(template, model_type, [str(token) for token in added.values()])
        if chat_template is not None:
            self._conversations = ToolMessages(chat_template, self.dialect)
        shown = {self.dialect.markers.open, self.dialect.markers.close, *self.dialect.special_tokens}
        self._hidden_ids = frozenset(
            i for i, token in added.items() if token.special and (i in eos_token_ids or str(token) not in shown)
        )

    @classmethod
    def load(cls, directory: Path, process: TextProcess | None = None) -> Tokenizer:
        """Read a checkpoint's tokenizer files, chat template and end-of-turn tokens.

        A turn ends with any `eos_token_id` of generation_config.json and config.json, and with the `eos_token` of
        tokenizer_config.json and special_tokens_map.json.

        Texts are encoded in `process`, or without one here, without limits. If it has begun it is waited for: what
        reading these files does here has then been done there, within its limits.

        Raises:
            CheckpointError: a file is missing or damaged, or has a format that is not supported.
        """
        if process is not None and process.has_begun:
            process.load()
        config = optional(directory / "tokenizer_config.json")
        vocabulary = Vocabulary.read(directory, config)
        jinja = _template_source(directory, config)
        ends = GenerationDefaults.read(directory).eos_token_ids | vocabulary.eos_token_ids
        model_type = str(optional(directory / "config.json").get("model_type", ""))
        template: Template | None = (
            None if jinja is None else ChatTemplate(jinja, vocabulary.special_tokens, process or SHARED)
        )
        if template is None and model_type == DEEPSEEK_V32.name:
            template = DeepSeekV32Prompt()
        return cls(vocabulary, ends, template, model_type=model_type, process=process)

    @classmethod
    def load_if_usable(cls, directory: Path, process: TextProcess | None = None) -> Tokenizer:
        """Call `load`; if it fails, return a tokenizer with the `failure`: the model still answers token ids."""
        try:
            return cls.load(directory, process)
        except CheckpointError as exc:
            return cls(Vocabulary.empty(), GenerationDefaults.read(directory).eos_token_ids, None, exc)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text. The text of a special token becomes that token, as in transformers.

        This includes text that a person types in a message: `<|end|>` there ends the turn. A server that must not allow
        this has to search for it first.

        Raises:
            InvalidRequestError: the text contains half of a surrogate pair, or is too long.
            CheckpointError: the tokenizer cannot encode it, or there is none.
        """
        self._require_usable()
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InvalidRequestError(f"the text has {len(text):,} characters; the limit is {MAX_TEXT_CHARACTERS:,}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as exc:
            where = f"at character {exc.start}"
            raise InvalidRequestError(f"the text has half of a surrogate pair {where}") from exc
        return self._encoder.encode(text, add_special_tokens)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids. Unknown ids have no text."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def piece(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for, perhaps a part of a character; b"" for an unknown id."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return b"" if token is None else bytes_of(token, is_byte_level=self._is_byte_level)

    def answer_text(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer without its special tokens, except those that its dialect is marked with."""
        one = self.detokenizer()
        return "".join(map(one.add, token_ids)) + one.finish()

    def format_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """Return the ids of a conversation, formatted by the chat template, up to where the answer begins.

        The ids equal those of transformers' `apply_chat_template`. The template writes all special tokens itself.
        `tools`, calls and results are in the form of OpenAI's API; a template that does not know them gets text.

        Raises:
            InvalidRequestError: the checkpoint has no chat template, or the messages cannot be written as JSON.
            TemplateError: the template failed.
            CheckpointError: there is no tokenizer.
        """
        self._require_usable()
        if self._conversations is None:
            raise InvalidRequestError("this checkpoint has no chat template: use --raw, and a plain prompt")
        text = self._conversations.render(messages, add_generation_prompt, **variables)
        return self.encode(text, add_special_tokens=False)

    @cached_property
    def takes_thoughts_apart(self) -> bool:
        """Whether the chat template takes thoughts of earlier turns in a key of their own, apart from the answer."""
        return self.chat_template is None or self.chat_template.takes_thoughts_apart(self.dialect.markers)

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens by their texts: a text that a model writes cannot contain them."""
        return {str(token): i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    @property
    def as_json(self) -> str:
        """The tokenizer in the form of tokenizer.json. Raises CheckpointError without a tokenizer."""
        self._require_usable()
        return str(self._tokenizer.to_str())

    def opening(self, prompt_ids: Sequence[int]) -> str:
        """Return the end of a prompt that belongs to the answer, such as an open thought; "" if there is none."""
        return self.dialect.opening(self.decode(prompt_ids[-PROMPT_ENDING:], skip_special_tokens=False))

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of each token, added tokens included, by its spelling. Raises CheckpointError without a tokenizer."""
        self._require_usable()
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def close(self) -> None:
        """End the process that encodes, if there is one; another encoding starts it again."""
        if isinstance(self._encoder, TextProcess):
            self._encoder.stop()

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        return Detokenizer(self._tokenizer, self._hidden_ids)

    def _require_usable(self) -> None:
        if self.failure is not None:
            raise self.failure


def _template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Return chat_template.jinja's text, else tokenizer_config.json's template (the default one of several), else None.

    Raises:
        CheckpointError: a template is not text.
    """
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return json_file.read_bytes(path).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"{path} is not UTF-8") from exc
    template = config.get("chat_template")
    if isinstance(template, list) and template:
        named = {
            t.get("name"): t.get("template") for t in template if isinstance(t, dict) and isinstance(t.get("name"), str)
        }
        template = named.get("default", next(iter(named.values()), template))
    if template is not None and not isinstance(template, str):
        source = directory / "tokenizer_config.json"
        raise CheckpointError(f"{source}: chat_template must be text, got {str(template)[:80]}")
    return template
