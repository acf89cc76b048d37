"""What quantization costs: python -m bench.quality TRAINED.

TRAINED is a checkpoint of bench.trained; it is made if it does not exist. Perplexity of it and of the demo model on
text that both did not learn, at several numbers of bits, against the weights that the conversions are made from.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

import mlx_moe
from bench import trained
from examples.demo_model.corpus import conversation, usual_length
from examples.demo_model.tokenization import encoded
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import Recipe, mixed, uniform
from mlx_moe.conversion.conversion import Conversion
from mlx_moe.conversion.plan import plan
from mlx_moe.pipeline.frame import Frame, FrameKind, Refused
from mlx_moe.pipeline.link import LocalLink

N_CHATS, N_BLOCKS = 40, 40
GROUP_SIZE = 32
"""Of the affine recipes: the demo model's matrices have 96 inputs, which groups of 64 do not divide."""

RECIPES = {
    "8 bit": uniform(8, group_size=GROUP_SIZE),
    "6 bit": uniform(6, group_size=GROUP_SIZE),
    "mixed 4 bit, others 6": mixed(4, group_size=GROUP_SIZE),
    "4 bit": uniform(4, group_size=GROUP_SIZE),
    "4 bit, groups of 64": uniform(4),
    "mixed mxfp4, others 6": mixed(4, "mxfp4"),
    "mxfp4": uniform(4, "mxfp4"),
    "mixed 3 bit, others 6": mixed(3, group_size=GROUP_SIZE),
    "3 bit": uniform(3, group_size=GROUP_SIZE),
}


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and for each whether it counts."""

    input_ids: Sequence[int]
    counts: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Quality:
    """Perplexity, mean KL divergence from the source's predictions in nats a token, and how often the likeliest agree.

    `bits_per_weight` is what was written.
    """

    bits_per_weight: float
    perplexity: float
    divergence: float
    agreement: float


def main(directory: str) -> None:
    """Print a table for each model."""
    if not Path(directory).exists():
        trained.train(Path(directory))
    for name, path, texts in [
        ("demo (8 bit is the source)", library.locate(library.DEMO), _chats()),
        ("trained (bfloat16 is the source)", Path(directory), _blocks()),
    ]:
        wanted = _log_probabilities(path, texts)
        print(f"\n{name}: perplexity {_perplexity(wanted, texts):.4f} over {_n_counted(texts):,} tokens")
        print(f"{'recipe':24} {'bits a weight':>13} {'perplexity':>10} {'divergence':>10} {'same likeliest':>14}")
        for recipe_name, recipe in RECIPES.items():
            found = _quality(path, recipe, texts, wanted)
            print(
                f"{recipe_name:24} {found.bits_per_weight:13.2f} {found.perplexity:10.4f} {found.divergence:10.5f} "
                f"{found.agreement:14.2%}",
                flush=True,
            )


def _chats() -> list[Text]:
    """Return conversations of which the demo model has learnt none; the assistant's tokens count."""
    tokenizer = Tokenizer.from_file(str(library.locate(library.DEMO) / "tokenizer.json"))
    drawn = Random("quality")
    chats = [encoded(tokenizer, conversation(drawn, "held-out", usual_length(drawn))) for _ in range(N_CHATS)]
    return [Text(chat.input_ids, chat.is_answer) for chat in chats]


def _blocks() -> list[Text]:
    return [Text(list(block), [True] * len(block)) for block in trained.blocks()[1][:N_BLOCKS]]


def _quality(source: Path, recipe: Recipe, texts: Sequence[Text], wanted: Sequence[npt.NDArray[np.float32]]) -> Quality:
    with tempfile.TemporaryDirectory() as scratch, Checkpoint.open(source) as checkpoint:
        planned = plan(checkpoint, families.config_of(checkpoint), recipe)
        directory = Path(scratch, "model")
        Conversion(checkpoint, planned, directory, str(source)).run()
        found = _log_probabilities(directory, texts)
    divergences, agreements = [], []
    for text, p, q in zip(texts, wanted, found, strict=True):
        counted = np.array(text.counts[1:])
        divergences.append((np.exp(p) * (p - q)).sum(-1)[counted])
        agreements.append((p.argmax(-1) == q.argmax(-1))[counted])
    return Quality(
        planned.bits_per_weight,
        _perplexity(found, texts),
        float(np.concatenate(divergences).mean()),
        float(np.concatenate(agreements).mean()),
    )


def _perplexity(found: Iterable[npt.NDArray[np.float32]], texts: Sequence[Text]) -> float:
    losses = [
        -predicted[np.arange(len(text.input_ids) - 1), text.input_ids[1:]][np.array(text.counts[1:])]
        for predicted, text in zip(found, texts, strict=True)
    ]
    return math.exp(float(np.concatenate(losses).mean()))


def _n_counted(texts: Sequence[Text]) -> int:
    return sum(sum(text.counts[1:]) for text in texts)


def _log_probabilities(directory: Path, texts: Sequence[Text]) -> list[npt.NDArray[np.float32]]:
    """Return for each text the log-probabilities `[L-1, V]` of what follows each of its tokens but the last."""
    model = mlx_moe.load(directory)
    link = LocalLink([model.stage], slice_s=math.inf)
    found = []
    for number, text in enumerate(texts):
        embedded = model.head.embed(mx.array(list(text.input_ids)))
        link.send(Frame(str(number), 0, embedded, FrameKind.PREFILL))
        while not (returned := link.receive(str(number))):
            pass
        (frame,) = returned
        assert not isinstance(frame, Refused)
        logits = model.head.logits(frame.hidden_states)[:-1].astype(mx.float32)
        found.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True)))
        model.stage.release(str(number))
    model.close()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
