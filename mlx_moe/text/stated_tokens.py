"""StatedTokens: the added and special tokens stated in the files beside tokenizer.json.

tokenizer_config.json names special tokens (`eos_token`) and usually lists all added tokens (`added_tokens_decoder`). If
that list is missing, as in older checkpoints, special_tokens_map.json, added_tokens.json and tokenizer.json's own list
are used.

Source: `_from_pretrained` and `TokenizersBackend.__init__` of transformers 5, which define the precedence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import AddedToken

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names of special tokens that every tokenizer knows; a model may have others, for example `image_token`."""

_EXTRA = "extra_special_tokens"
_OLD_EXTRA = "additional_special_tokens"
_MAP = "special_tokens_map.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class StatedTokens:
    """The tokens that the files state.

    Attributes:
        added: added tokens by stated id. The library assigns ids in this order without gaps.
        named: special tokens by name, in the order in which missing ones are added.
        extra: special tokens without a name.
        eos_tokens: every text that any file states as `eos_token`, even if another file has precedence.
    """

    added: dict[int, AddedToken]
    named: dict[str, str | AddedToken]
    extra: list[str | AddedToken]
    eos_tokens: frozenset[str]

    @classmethod
    def read(
        cls, directory: Path, config: Mapping[str, Any], defaults: Mapping[str, str], own: Mapping[int, AddedToken]
    ) -> StatedTokens:
        """Read the files of a checkpoint.

        Args:
            directory: the checkpoint's directory.
            config: the content of tokenizer_config.json.
            defaults: named tokens to use if no file has their name.
            own: the added tokens of tokenizer.json, by id.

        Raises:
            CheckpointError: a token is not text, or its flags or its id are invalid.
        """
        values, named = _modern(config)
        decoder = config.get("added_tokens_decoder")
        older = optional(directory / _MAP)
        if decoder is not None:
            added = _decoder(decoder, f"{directory / 'tokenizer_config.json'}: added_tokens_decoder")
        else:
            _merge_map(values, named, older, f"{directory / _MAP}")
            added = _legacy(values, directory / "added_tokens.json") | dict(own)
        extra = _listed(values[_EXTRA] if _EXTRA in values else values.get(_OLD_EXTRA), f"{directory}: {_EXTRA}")
        standard = {name: values.get(name, defaults.get(name)) for name in NAMED}
        others = {key: value for key, value in values.items() if _is_named(key, value)}
        named = {name: value for name, value in (standard | others | named).items() if value is not None}
        ends = [source["eos_token"] for source in (named, config, older) if source.get("eos_token") is not None]
        return cls(
            added,
            {name: _token(value, f"{directory}: {name}") for name, value in named.items()},
            [_token(value, f"{directory}: {_EXTRA}") for value in extra],
            frozenset(str(_token(value, f"{directory}: eos_token")) for value in ends),
        )

    def without_gaps(self, first: int) -> StatedTokens:
        """Return a copy that has a reserved token for each missing id from `first` to the highest stated one."""
        from tokenizers import AddedToken

        reserved = range(first, max(self.added, default=first))
        filled = {i: AddedToken(f"<|reserved_token_{i}|>", special=True) for i in reserved}
        return replace(self, added=filled | self.added)

    def missing(self, present: Mapping[int, AddedToken]) -> list[AddedToken]:
        """Return the tokens to add, in order, to a tokenizer that has the added tokens `present`."""
        tokens: list[str | AddedToken] = [token for _, token in sorted(self.added.items())]
        known = {str(token) for token in (*present.values(), *tokens)}
        for token in (*self.named.values(), *self.extra):
            if str(token) not in known and token not in tokens:  # the same text with other flags is another token
                tokens.append(token)
        names = {str(token) for token in self.named.values()}
        return [_special(token, always=str(token) in names) for token in tokens]


def optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one if the file is missing. Raises CheckpointError."""
    return json_file.read(path) if path.exists() else {}


def _modern(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a config's values under transformers 5's keys, and the tokens that it gives model-specific names."""
    values = dict(config)
    if _OLD_EXTRA in values and not values.get(_EXTRA):
        values[_EXTRA] = values.pop(_OLD_EXTRA)
    named = {key: values.pop(key) for key in config if _is_named(key, config[key]) and isinstance(config[key], str)}
    if isinstance(values.get(_EXTRA), dict):
        named |= values.pop(_EXTRA)
    return values, named


def _merge_map(values: dict[str, Any], named: dict[str, Any], older: Mapping[str, Any], source: str) -> None:
    """Override a config's values with those of special_tokens_map.json, whose tokens are all special."""
    for key, value in older.items():
        if key == _EXTRA and isinstance(value, dict):
            values.pop(_EXTRA, None)
            named.update(value)
        elif key == _EXTRA and isinstance(value, list):
            before = _listed(values.get(key), f"{source}: {key}")
            values[key] = [*before, *({**v, "special": True} if isinstance(v, dict) else v for v in value)]
        elif isinstance(value, dict):
            values[key] = _special(_token(value, f"{source}: {key}"), always=True)
        else:
            values[key] = value


def _decoder(decoder: Any, source: str) -> dict[int, AddedToken]:
    if not isinstance(decoder, dict) or not all(k.isdecimal() and isinstance(t, dict) for k, t in decoder.items()):
        raise CheckpointError(f"{source} must map ids to tokens, got {str(decoder)[:80]}")
    return {int(i): _special(_token(token, f"{source} {i}"), always=False) for i, token in decoder.items()}


def _legacy(values: Mapping[str, Any], path: Path) -> dict[int, AddedToken]:
    """Return the tokens of added_tokens.json, which maps texts to ids and has no flags."""
    from tokenizers import AddedToken

    special = {str(values[name]) for name in NAMED if values.get(name)}
    special |= set(map(str, _listed(values.get(_EXTRA), f"{path.parent}: {_EXTRA}")))
    added = {}
    for text, token_id in optional(path).items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise CheckpointError(f"{path}: {text!r} must have a token id, got {str(token_id)[:80]}")
        added[token_id] = AddedToken(text, normalized=text not in special, special=text in special)
    return added


def _listed(value: Any, source: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise CheckpointError(f"{source} must be a list of tokens, got {str(value)[:80]}")
    return value or []


def _is_named(key: str, value: Any) -> bool:
    """Whether a key is a model-specific name of a token."""
    from tokenizers import AddedToken

    is_token = isinstance(value, str | AddedToken) or (isinstance(value, dict) and value.get("__type") == "AddedToken")
    return is_token and key.endswith("_token") and key not in NAMED


def _special(token: str | AddedToken, always: bool) -> AddedToken:
    """Return a token, special if it is a plain text, if its flag says so, or if `always`."""
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=True)
    token.special = token.special or always
    return token


def _token(value: Any, source: str) -> str | AddedToken:
    from tokenizers import AddedToken

    if isinstance(value, str | AddedToken):
        return value
    content = value.get("content") if isinstance(value, dict) else None
    flags = {flag: value[flag] for flag in _FLAGS if flag in value} if isinstance(value, dict) else {}
    if not isinstance(content, str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"{source} must be a token's text, got {str(value)[:80]}")
    return AddedToken(content, **flags)
