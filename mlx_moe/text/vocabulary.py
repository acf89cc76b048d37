"""Vocabulary: the tokenizer that a checkpoint's files describe together, merged as transformers merges them.

Knows the supported formats: tokenizer.json, and the rank file of the Kimi models.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe.checkpoint import json_file
from mlx_moe.checkpoint.hub_cache import hf_command
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from mlx_moe.text import rank_file
from mlx_moe.text.stated_tokens import StatedTokens, optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

MAX_TOKENIZER_BYTES = 256 << 20

MAX_TOKEN_CHARACTERS = 1 << 16
MAX_DECODER_GROWTH = 256
"""Real decoders replace one character by one."""

_OTHER_FORMATS = (rank_file.NAME, "tokenizer.model", "tekken.json", "vocab.json")

_QWEN2_DEFAULTS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizers.Tokenizer with every added token, the special tokens by name, and the ids that end a turn."""

    tokenizer: TokenizersTokenizer
    special_tokens: dict[str, str]
    eos_token_ids: frozenset[int]

    @classmethod
    def read(cls, directory: Path, config: Mapping[str, Any]) -> Vocabulary:
        """Read and merge a checkpoint's tokenizer files; `config` is its tokenizer_config.json.

        Raises:
            CheckpointError: a file is missing or damaged, or has a format that is not supported.
        """
        model_config = optional(directory / "config.json")
        path = _find(directory, config, model_config)
        with library_errors(f"{path} is not a tokenizer"):
            if path.name == rank_file.NAME:
                tokenizer = rank_file.read(path)
                stated = StatedTokens.read(directory, config, {}, {}).without_gaps(tokenizer.get_vocab_size())
                tokenizer.add_tokens(stated.missing({}))
            else:
                tokenizer, stated = _from_tokenizer_json(path, config, model_config)
            tokenizer.encode_special_tokens = config.get("split_special_tokens") is True
            tokenizer.no_truncation()  # the file may contain the settings of training
            tokenizer.no_padding()
            tokenizer.decode(tokenizer.encode("a").ids)  # some damage is found only by use
            special_tokens = {name: str(token) for name, token in stated.named.items()}
            ends = {tokenizer.token_to_id(text) for text in stated.eos_tokens}
        return cls(tokenizer, special_tokens, frozenset(i for i in ends if i is not None))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text. Raises CheckpointError if the tokenizer cannot encode it."""
        with library_errors("the tokenizer cannot encode this text"):
            return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def require_harmless(self) -> None:
        """Raise CheckpointError if turning ids into text, which is done without limits, may take much memory."""
        longest = max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)), default=0)
        if longest > MAX_TOKEN_CHARACTERS:
            raise CheckpointError(f"a token has {longest:,} characters; the limit is {MAX_TOKEN_CHARACTERS:,}")
        growth = math.prod(max(1, len(text)) for text in _replacements(self.tokenizer))
        if growth > MAX_DECODER_GROWTH:
            raise CheckpointError(f"the tokenizer's decoder may make text {growth:,} times as long")

    @classmethod
    def empty(cls) -> Vocabulary:
        """Return a vocabulary without tokens."""
        from tokenizers import Tokenizer, models

        return cls(Tokenizer(models.BPE()), {}, frozenset())


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise CheckpointError in place of the tokenizers library's exceptions and panics."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as exc:
        raise CheckpointError(f"{what}: {str(exc)[:200]}") from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # a Rust panic; the type cannot be imported, nor is it an Exception
            raise
        raise CheckpointError(f"{what}: {str(exc)[:200]}") from exc


def _replacements(tokenizer: TokenizersTokenizer) -> Iterator[str]:
    """Yield what the decoder writes in place of other text."""
    steps = [] if tokenizer.decoder is None else [json.loads(tokenizer.decoder.__getstate__())]
    while steps:
        step = steps.pop()
        steps += step.get("decoders", [])
        if step["type"] == "Replace":
            yield step["content"]


def _find(directory: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> Path:
    """Return the file with the vocabulary. Raises CheckpointError, which names the cure, if none is supported."""
    for name in ("tokenizer.json", *_OTHER_FORMATS):
        path = directory / name
        if not path.exists():
            continue
        if name == "tokenizer.json" or (name == rank_file.NAME and rank_file.is_kimi(config, model_config)):
            return path
        why = ", and only the publisher's code says how it splits texts" if name == rank_file.NAME else ""
        raise UnsupportedModelError(
            f"{directory} has {name} but no tokenizer.json{why}. Take that of a converted copy of the model: "
            + hf_command("mlx-community/NAME", "tokenizer.json", "--local-dir", str(directory))
        )
    raise CheckpointError(
        f"{directory} has no tokenizer.json: download it again; run --input-ids works without a tokenizer"
    )


def _from_tokenizer_json(
    path: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> tuple[TokenizersTokenizer, StatedTokens]:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as TokenizersTokenizer

    tokenizer = TokenizersTokenizer.from_buffer(json_file.read_bytes(path, MAX_TOKENIZER_BYTES))
    is_qwen2 = _is_qwen2(tokenizer, config, model_config)
    defaults = {} if tokenizer.padding is None else {"pad_token": tokenizer.padding["pad_token"]}
    defaults |= _QWEN2_DEFAULTS if is_qwen2 else {}
    stated = StatedTokens.read(path.parent, config, defaults, tokenizer.get_added_tokens_decoder())
    if is_qwen2:
        tokenizer = _rebuilt_as_qwen2(tokenizer, add_prefix_space=config.get("add_prefix_space") is True)
    tokenizer.add_tokens(stated.missing(tokenizer.get_added_tokens_decoder()))
    if is_qwen2:
        tokenizer.add_tokens([AddedToken(str(t), special=True) for t in (*stated.named.values(), *stated.extra)])
    return tokenizer, stated


def _is_qwen2(tokenizer: TokenizersTokenizer, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> bool:
    """Whether transformers takes only the vocabulary from tokenizer.json and everything else from Qwen2Tokenizer."""
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    named = str(declared).removesuffix("Fast") == "Qwen2Tokenizer"
    implied = declared is None and model_config.get("model_type") == "qwen3_moe"
    return (named or implied) and type(tokenizer.model).__name__ == "BPE"


def _rebuilt_as_qwen2(tokenizer: TokenizersTokenizer, *, add_prefix_space: bool) -> TokenizersTokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    stored = json.loads(tokenizer.model.__getstate__())
    model = models.BPE(vocab=stored["vocab"], merges=[tuple(pair) for pair in stored["merges"]])
    rebuilt = Tokenizer(model)
    rebuilt.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated")
    rebuilt.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)]
    )
    rebuilt.decoder = decoders.ByteLevel()
    rebuilt.post_processor = tokenizer.post_processor
    return rebuilt
