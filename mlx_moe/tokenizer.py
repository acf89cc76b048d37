"""Tokenizer: text to ids and back, and conversations to ids, from a checkpoint's tokenizer files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe import json_file
from mlx_moe.chat_template import ChatTemplate
from mlx_moe.detokenizer import Detokenizer
from mlx_moe.errors import CheckpointError, InvalidRequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

MAX_TOKENIZER_BYTES = 256 << 20
MAX_TEXT_CHARACTERS = 32 << 20


class Tokenizer:
    """A checkpoint's tokenizer. `eos_token_ids` are all that end a turn."""

    def __init__(
        self,
        tokenizer: TokenizersTokenizer,
        bos_token_id: int | None,
        eos_token_ids: frozenset[int],
        chat_template: ChatTemplate | None,
    ) -> None:
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.chat_template = chat_template
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read tokenizer.json, tokenizer_config.json, chat_template.jinja, and who ends a turn.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        from tokenizers import Tokenizer as TokenizersTokenizer

        path = directory / "tokenizer.json"
        data = json_file.read_bytes(path, MAX_TOKENIZER_BYTES)
        try:
            tokenizer = TokenizersTokenizer.from_buffer(data)
        except Exception as exc:  # the library raises bare Exception
            raise CheckpointError(f"{path} is not a tokenizer: {str(exc)[:200]}") from exc
        config = _optional(directory / "tokenizer_config.json")
        names = {key: _token_text(config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        special_tokens = {key: text for key, text in names.items() if text is not None}
        bos, eos = (tokenizer.token_to_id(special_tokens.get(key, "")) for key in ("bos_token", "eos_token"))
        ends = {eos} if eos is not None else set()
        for source in ("generation_config.json", "config.json"):
            ends |= _eos_ids(_optional(directory / source).get("eos_token_id"), directory / source)
        jinja = _template_source(directory, config)
        template = None if jinja is None else ChatTemplate(jinja, special_tokens)
        return cls(tokenizer, bos, frozenset(ends), template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text. The text of a special token becomes that token, as in transformers.

        Raises:
            InvalidRequestError: half of a surrogate pair, or too long a text.
        """
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InvalidRequestError(f"a text of {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are encoded")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise InvalidRequestError(f"the text has half of a surrogate pair at character {exc.start}") from exc
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def format_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """Return the ids of a conversation by the chat template, up to where the answer begins.

        Raises:
            InvalidRequestError: the checkpoint has no chat template.
            TemplateError: the template failed.
        """
        if self.chat_template is None:
            raise InvalidRequestError("this checkpoint has no chat template: send the prompt as it is with --raw")
        text = self.chat_template.render(messages, add_generation_prompt, **variables)
        return self.encode(text, add_special_tokens=False)

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        return Detokenizer(self._tokenizer, self._special_ids)


def _optional(path: Path) -> dict[str, Any]:
    return json_file.read(path) if path.exists() else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _eos_ids(value: Any, path: Path) -> set[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise CheckpointError(f"{path}: eos_token_id is {str(value)[:80]}, wanted token ids")
    return set(ids)


def _template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return json_file.read_bytes(path).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"{path} is not UTF-8") from exc
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
