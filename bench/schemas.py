"""Answers that obey a JSON schema, as a Markdown table: python -m bench.schemas [SCHEMAS] [SEED].

Random SCHEMAS (200) over HTTP, answered by the demo model on three nodes of this machine: how many finished answers are
valid, and what is refused. Then the time of a mask, with the demo's vocabulary and with one of 150,000 tokens.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Stored

from bench.http import TABLE, client, line, percentiles
from bench.nodes import running_nodes
from cluster.client import GatewayOptions
from mlx_moe.checkpoint import library
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.text.grammar import Grammar
from mlx_moe.text.tokenizer import Tokenizer

Schema = dict[str, Any]

AT_ONCE = 8
ANSWER_TOKENS = 400
VOCABULARY = 150_000
MASKED_SCHEMAS = 40
MASKED_TOKENS = 60

NAMES = ("name", "age", "tags", "größe", "in stock", "a", "b", "items")
LEAVES: tuple[Callable[[random.Random], Schema], ...] = (
    lambda _: {"type": "null"},
    lambda _: {"type": "boolean"},
    lambda r: {"type": "integer", "minimum": r.randint(-99, 0), "maximum": r.randint(0, 9999)},
    lambda r: {"type": "number", "minimum": 0, "exclusiveMaximum": r.randint(1, 50)},
    lambda r: {"type": "string", "minLength": r.randint(0, 2), "maxLength": r.randint(2, 12)},
    lambda r: {"type": "string", "pattern": r.choice(("^[a-c]{1,3}$", r"^\d{4}-\d{2}$", "^(yes|no)$"))},
    lambda r: {"type": "string", "format": r.choice(("date", "time", "uuid", "ipv4"))},
    lambda r: {"enum": r.sample(["yes", "no", "é", 3, 1.5, None, True], 3)},
    lambda r: {"const": r.choice(["x", 7, None, ["a", 1]])},
)
UNSUPPORTED: tuple[Schema, ...] = (
    {"type": "array", "uniqueItems": True},
    {"not": {"type": "string"}},
    {"type": "array", "contains": {"const": 1}},
    {"if": {"type": "string"}, "then": {"minLength": 2}},
)
UNSUPPORTED_SHARE = 0.05


def main(schemas: int = 200, seed: int = 0) -> None:
    """Print all rows."""
    chosen = random.Random(seed)
    drawn = [draw(chosen) for _ in range(schemas)]
    with running_nodes([{0, 1}] * 3) as nodes:
        url = nodes.own.serve(GatewayOptions(port=0))
        nodes.load("demo", (2, 2, 2))
        ends, token_s = asyncio.run(answers(url, drawn))
    rows = [(f"{schemas} schemas: {what}", str(count)) for what, count in sorted(ends.items())]
    rows.append(("time of a token with a schema, median of answers, ms", f"{1e3 * statistics.median(token_s):.1f}"))
    demo = Tokenizer.load(library.locate("demo"))
    rows.append((f"mask with {len(demo.vocabulary):,} tokens, p50 and p99, ms", percentiles(masks_ms(demo, seed))))
    with tempfile.TemporaryDirectory() as directory:
        write_tokenizer(Path(directory), chosen)
        large = Tokenizer.load(Path(directory))
        rows.append(
            (f"mask with {len(large.vocabulary):,} tokens, p50 and p99, ms", percentiles(masks_ms(large, seed)))
        )
        large.close()
    demo.close()
    print(TABLE, *map(line, rows), sep="\n")


def draw(chosen: random.Random, depth: int = 0) -> Schema:
    """Return a random schema, rarely with something that cannot be enforced."""
    if chosen.random() < UNSUPPORTED_SHARE / (depth + 1):
        return chosen.choice(UNSUPPORTED)
    kind = chosen.choice(("object", "array", "any", "leaf")) if depth else "object"
    if kind == "leaf" or depth == 3:
        return chosen.choice(LEAVES)(chosen)
    if kind == "array":
        least = chosen.randint(0, 2)
        return {"type": "array", "items": draw(chosen, depth + 1), "minItems": least, "maxItems": least + 2}
    if kind == "any":
        return {"anyOf": [draw(chosen, depth + 1) for _ in range(chosen.randint(1, 3))]}
    names = chosen.sample(NAMES, chosen.randint(1, 4))
    required = chosen.sample(names, chosen.randint(0, len(names)))
    properties = {name: draw(chosen, depth + 1) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


async def answers(url: str, schemas: list[Schema]) -> tuple[Counter[str], list[float]]:
    """Ask for an answer of each schema. Return how the answers ended, and the seconds of a token of each."""
    ends: Counter[str] = Counter()
    token_s: list[float] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def answer(http: httpx2.AsyncClient, schema: Schema) -> None:
        async with turns:
            began = time.perf_counter()
            response = await http.post("/v1/chat/completions", json=body(schema))
            seconds = time.perf_counter() - began
        said = response.json()
        if response.status_code != 200:
            reason = said["error"]["message"].rpartition(": ")[2]
            ends[f"refused before work, by name: {reason}" if response.status_code == 400 else "failed"] += 1
            return
        choice = said["choices"][0]
        token_s.append(seconds / said["usage"]["completion_tokens"])
        ends[verdict(choice, schema)] += 1

    async with client(url) as http, asyncio.TaskGroup() as tasks:
        for schema in schemas:
            tasks.create_task(answer(http, schema))
    return ends, token_s


def body(schema: Schema) -> dict[str, Any]:
    """Return a request for an answer of a schema."""
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    messages = [{"role": "user", "content": "Tell me about a Mac."}]
    return {"messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 1.0, "response_format": asked}


def verdict(choice: dict[str, Any], schema: Schema) -> str:
    """Say how an answer ended, and whether it is valid if it was finished."""
    if choice["finish_reason"] != "stop":
        return f"cut off at {ANSWER_TOKENS} tokens"
    try:
        jsonschema.validate(
            json.loads(choice["message"]["content"]),
            schema,
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )
    except (ValueError, jsonschema.ValidationError):
        return "finished and not valid"
    return "finished and valid"


def masks_ms(tokenizer: Tokenizer, seed: int) -> list[float]:
    """Return the times of the masks of random answers, in milliseconds."""
    chosen, constraints, times = random.Random(seed), Constraints(tokenizer, len(tokenizer.vocabulary)), []
    for _ in range(MASKED_SCHEMAS):
        schema = chosen.choice(LEAVES)(chosen)
        grammar = Grammar.of_schema({"type": "object", "properties": {"a": schema, "b": {"type": "string"}}})
        constraint, ids = constraints.new(grammar, []), list[int]()
        while len(ids) < MASKED_TOKENS and (not ids or ids[-1] not in tokenizer.eos_token_ids):
            began = time.perf_counter()
            allowed = constraint.allowed(ids)
            times.append(1e3 * (time.perf_counter() - began))
            ids.append(int(chosen.choice(np.flatnonzero(np.array(allowed)))))
    return times


def write_tokenizer(directory: Path, chosen: random.Random) -> None:
    """Write a byte-level BPE tokenizer of VOCABULARY tokens: each is a random one before it and one more letter."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [token for token in tokens if token.isascii()] + ["Ġ"]
    known, merges = set(tokens), []
    while len(tokens) < VOCABULARY - 1:
        pair = (tokens[chosen.randrange(len(tokens))], chosen.choice(letters))
        if (joined := "".join(pair)) not in known:
            known.add(joined)
            tokens.append(joined)
            merges.append(pair)
    stored = Stored(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    stored.decoder = decoders.ByteLevel()
    stored.add_special_tokens([AddedToken("<end>", special=True)])
    stored.save(str(directory / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
