"""Rank file: reads `tiktoken.model`, the published vocabulary of the Kimi models, as a tokenizers.Tokenizer.

Each line has a token's bytes in base64 and its rank, which is also its id. Encoding repeatedly merges the neighbouring
pair whose merged token has the lowest rank. The file does not say how a text is split before that: the publisher's
Python class does, and it is not run. So only files of models whose split is known are read.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError
from mlx_moe.text.byte_level import CHARACTER_OF

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

NAME = "tiktoken.model"
MAX_BYTES = 8 << 20
MAX_TOKEN_BYTES = 1024

_KIMI_MODULES = ("tokenization_kimi", "tokenization_moonshot")
"""The publisher's modules; all of them split texts in the same way."""

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_KIMI_SPLIT = "|".join(
    (
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def is_kimi(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> bool:
    """Whether a model, by its tokenizer_config.json and config.json, splits texts with _KIMI_SPLIT."""
    auto_map = config.get("auto_map")
    classes = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    names = classes if isinstance(classes, list) else [classes]
    modules = {str(name).rpartition("--")[2].split(".")[0] for name in names}
    return not modules.isdisjoint(_KIMI_MODULES) or str(model_config.get("model_type")).startswith("kimi")


def read(path: Path) -> TokenizersTokenizer:
    """Return the tokenizer of a Kimi model's rank file, without special tokens. Raises CheckpointError."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    ranks = _read_ranks(path)
    spelled = {token: "".join(map(CHARACTER_OF.__getitem__, token)) for token in ranks}
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks)]
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_KIMI_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Return the tokens in the order of their ranks 0, 1, 2, …; every single byte is a token.

    Raises:
        CheckpointError: a line is damaged, or a rank or a byte is missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(json_file.read_bytes(path, MAX_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            is_new = token not in ranks and 1 <= len(token) <= MAX_TOKEN_BYTES
            ranks[token] = int(rank)
        except ValueError:
            is_new = False
        if not is_new:
            raise CheckpointError(
                f"{path} is damaged in line {number}: must be a new token in base64 and its rank, got {line[:40]!r}; "
                f"download it again"
            )
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    if [rank for _, rank in ordered] != list(range(len(ordered))):
        raise CheckpointError(f"{path} must have each rank from 0 to {len(ordered) - 1} once; download it again")
    absent = sum(bytes([byte]) not in ranks for byte in range(256))
    if absent:
        raise CheckpointError(f"{path} has no token for {absent} of the 256 bytes; download it again")
    return dict(ordered)


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return all pairs of tokens whose bytes joined are a token, in the order of the joined token's rank."""
    return [
        (token[:at], token[at:])
        for token in ranks
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
