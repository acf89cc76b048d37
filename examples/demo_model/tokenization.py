"""The demo model's tokenizer: byte-level BPE learned from the corpus, and its chat format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.demo_model.corpus import Conversation, conversation, usual_length

PAD, BOS, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
PAD_ID, BOS_ID, END_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL_TOKENS))

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' or message['role'] == 'developer' -%}"
    "{{- '<|system|>' + message['content'] | trim -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<|user|>' + message['content'] | trim -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + eos_token -}}"
    "{%- else -%}"
    "{{- raise_exception('the demo model knows system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """Hold token ids, and for each whether the assistant wrote it (its end of turn included)."""

    input_ids: list[int]
    is_answer: list[bool]


def trained_tokenizer(seed: int, vocab_size: int, n_conversations: int = 12000) -> Tokenizer:
    """Learn the merges from a sample of the training conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, n_conversations), trainer)
    return tokenizer


def _texts(seed: int, n_conversations: int) -> Iterator[str]:
    rng = Random(f"{seed} tokenizer")
    for _ in range(n_conversations):
        drawn = conversation(rng, "train", usual_length(rng))
        if drawn.system is not None:
            yield drawn.system
        for turn in drawn.turns:
            yield turn.user
            yield turn.assistant


def encoded(tokenizer: Tokenizer, chat: Conversation) -> EncodedConversation:
    """Encode a conversation exactly as the chat template renders it."""
    pieces: list[tuple[list[int], bool]] = [([BOS_ID], False)]
    if chat.system is not None:
        pieces.append(([SYSTEM_ID, *_ids(tokenizer, chat.system)], False))
    for turn in chat.turns:
        pieces.append(([USER_ID, *_ids(tokenizer, turn.user), ASSISTANT_ID], False))
        pieces.append(([*_ids(tokenizer, turn.assistant), END_ID], True))
    return EncodedConversation(
        [token for ids, _ in pieces for token in ids], [answer for ids, answer in pieces for _ in ids]
    )


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """Encode one question up to where the answer begins."""
    return [BOS_ID, USER_ID, *_ids(tokenizer, question), ASSISTANT_ID]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
