"""The MTP layer of the embedded model drafts the token after the next, alone and chained over its cache."""

import mlx.core as mx

from mlx_moe import library
from mlx_moe.kv_cache import KVCache
from mlx_moe.model import load
from tests.engine import load_engine

TEXT = "Once upon a time a brave girl lived in a small house. Count from 1 to 20. 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"


def test_it_guesses_most_tokens_after_next_of_what_the_model_itself_writes() -> None:
    engine = load_engine(library.locate("demo"))
    assert engine.mtp is not None
    prompt = load("demo").tokenizer.format_chat([{"role": "user", "content": "Tell me a story."}])
    ids = [*prompt, *engine.greedy(prompt, 48)]
    hidden_states = engine.head.normed(engine.hidden_states(ids, [len(ids)]))
    _, logits = engine.mtp(hidden_states[:-1], mx.array(ids[1:]), KVCache())
    guessed = mx.argmax(logits, axis=-1).tolist()[len(prompt) - 1 : -1]
    right = sum(a == b for a, b in zip(guessed, ids[len(prompt) + 1 :], strict=True))
    assert right >= 0.5 * len(guessed)


def test_one_position_at_a_time_gives_what_all_at_once_gives() -> None:
    engine = load_engine(library.locate("demo"))
    assert engine.mtp is not None
    ids = load("demo").tokenizer.encode(TEXT)
    hidden_states = engine.head.normed(engine.hidden_states(ids, [len(ids)]))
    _, whole = engine.mtp(hidden_states[:-1], mx.array(ids[1:]), KVCache())
    cache = KVCache()
    steps = [engine.mtp(hidden_states[i : i + 1], mx.array(ids[i + 1 : i + 2]), cache)[1] for i in range(len(ids) - 1)]
    assert mx.allclose(mx.concatenate(steps), whole, atol=1e-3).item()


def test_it_is_loaded_only_where_it_is_asked_for() -> None:
    without, with_mtp = load("demo"), load("demo", with_mtp=True)
    assert without.mtp is None
    assert with_mtp.mtp is not None
    assert without._weights_bytes < with_mtp._weights_bytes
