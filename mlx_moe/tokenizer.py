"""Tokenizer: text to ids and back, and conversations to ids, from a checkpoint's tokenizer files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe import json_file
from mlx_moe.chat_template import ChatTemplate
from mlx_moe.detokenizer import Detokenizer
from mlx_moe.errors import CheckpointError, InvalidRequestError, UnsupportedModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

MAX_TOKENIZER_BYTES = 256 << 20
MAX_TEXT_CHARACTERS = 32 << 20

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""Those that have names; a chat template may use them."""

_OTHER_FORMATS = ("tokenizer.model", "tiktoken.model", "tekken.json")


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
        """Read tokenizer.json, tokenizer_config.json, chat_template.jinja, and what ends a turn.

        A turn ends with any of the `eos_token_id` of generation_config.json and config.json, and with
        tokenizer_config.json's `eos_token`.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        tokenizer = _read_tokenizer(directory)
        path = directory / "tokenizer_config.json"
        config = _optional(path)
        texts = {name: _token_text(config.get(name), f"{path}: {name}") for name in SPECIAL_TOKENS}
        special_tokens = {name: text for name, text in texts.items() if text is not None}
        named_ids = {name: tokenizer.token_to_id(text) for name, text in special_tokens.items()}
        eos = named_ids.get("eos_token")
        ends = set() if eos is None else {eos}
        for source in (directory / "generation_config.json", directory / "config.json"):
            ends |= _eos_ids(_optional(source).get("eos_token_id"), source)
        jinja = _template_source(directory, config)
        template = None if jinja is None else ChatTemplate(jinja, special_tokens)
        return cls(tokenizer, named_ids.get("bos_token"), frozenset(ends), template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text. The text of a special token becomes that token, as in transformers.

        So does what a person types in a message: who writes `<|end|>` there ends the turn. A server that
        must not allow that has to look for it before.

        Raises:
            InvalidRequestError: half of a surrogate pair, or too long a text.
            CheckpointError: the tokenizer cannot encode it.
        """
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InvalidRequestError(f"a text of {len(text)} characters, of {MAX_TEXT_CHARACTERS} at most")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as exc:
            where = f"at character {exc.start}"
            raise InvalidRequestError(f"the text has half of a surrogate pair {where}") from exc
        with _library_errors("the tokenizer cannot encode this text"):
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids; ids that are no token have none."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def format_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """Return the ids of a conversation by the chat template, up to where the answer begins.

        They are those of transformers' `apply_chat_template`: the template writes all special tokens itself.

        Raises:
            InvalidRequestError: the checkpoint has no chat template, or the messages are no JSON.
            TemplateError: the template failed.
        """
        if self.chat_template is None:
            raise InvalidRequestError("this checkpoint has no chat template: use --raw, and a plain prompt")
        text = self.chat_template.render(messages, add_generation_prompt, **variables)
        return self.encode(text, add_special_tokens=False)

    @property
    def vocabulary(self) -> dict[str, int]:
        """The token ids by the tokens' spelling, added ones too."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        return Detokenizer(self._tokenizer, self._special_ids)


def _read_tokenizer(directory: Path) -> TokenizersTokenizer:
    from tokenizers import Tokenizer as TokenizersTokenizer

    path = directory / "tokenizer.json"
    others = [name for name in _OTHER_FORMATS if (directory / name).exists()]
    if others and not path.exists():
        raise UnsupportedModelError(f"{directory} has {others[0]}, but only tokenizer.json is read")
    data = json_file.read_bytes(path, MAX_TOKENIZER_BYTES)
    with _library_errors(f"{path} is not a tokenizer"):
        tokenizer = TokenizersTokenizer.from_buffer(data)
        tokenizer.no_truncation()  # training's settings, which the file keeps
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode("a").ids)  # some damage shows only in use
    return tokenizer


@contextlib.contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Turn the library's bare exceptions and panics into CheckpointError."""
    try:
        yield
    except Exception as exc:
        raise CheckpointError(f"{what}: {str(exc)[:200]}") from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # Rust's; it cannot be imported, and is no Exception
            raise
        raise CheckpointError(f"{what}: {str(exc)[:200]}") from exc


def _optional(path: Path) -> dict[str, Any]:
    return json_file.read(path) if path.exists() else {}


def _token_text(value: Any, source: str) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise CheckpointError(f"{source} is {str(value)[:80]}, wanted a token's text")
    return text


def _eos_ids(value: Any, path: Path) -> set[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise CheckpointError(f"{path}: eos_token_id is {str(value)[:80]}, wanted token ids")
    return set(ids)


def _template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Return chat_template.jinja, or tokenizer_config.json's: a template, or the default of several."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return json_file.read_bytes(path).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"{path} is not UTF-8") from exc
    template = config.get("chat_template")
    if isinstance(template, list) and template:
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default", next(iter(named.values()), template))
    if template is not None and not isinstance(template, str):
        source = directory / "tokenizer_config.json"
        raise CheckpointError(f"{source}: chat_template is {str(template)[:80]}, wanted text")
    return template
