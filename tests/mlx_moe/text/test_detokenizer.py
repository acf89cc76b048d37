"""Detokenizer: pieces add up to the decoded text, never half a character, at the same cost per token."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlx_moe.text import detokenizer
from mlx_moe.text.byte_level import BYTE_OF
from mlx_moe.text.detokenizer import Detokenizer

TEXTS = [
    "the cat and the hat, 42 times; then it's  the   rat",
    "naïve façade über Straße",
    "日本語の文章 です。漢字",
    "🙂🙃 👩‍👩‍👧 emoji 🏳️‍🌈",
    "עברית العربية हिन्दी",
    "def f(x):\n\treturn x  # ▁ and �\n",
]
SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
PLAIN = [AddedToken("<think>", special=False), AddedToken(" é ", special=False)]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_tokens(PLAIN)
    return tokenizer


def byte_fallback(strip: bool) -> Tokenizer:
    """Build one as sentencepiece's are converted: ▁ for a space, bytes for characters that have no token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=120, limit_alphabet=40, show_progress=False)
    trained.train_from_iterator(TEXTS[:2] * 3, trainer)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = trained.get_vocab()
    words += sorted(learnt, key=learnt.__getitem__)
    pairs = [(a, b) for a in words for b in words if a + b in learnt and "<" not in a + b]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def word_pieces() -> Tokenizer:
    words = ["[UNK]", "<s>", "</s>", "the", "cat", "##s", "##ing", "sing", ",", ".", "do", "n't", "not"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("a", -3.0), ("bé", -4.0)], 0))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def undecoded() -> Tokenizer:
    return Tokenizer(models.WordLevel({"a": 0, "b": 1, "é": 2, "[UNK]": 3}, unk_token="[UNK]"))


BUILD: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": lambda: byte_fallback(strip=True),
    "byte fallback, no prefix": lambda: byte_fallback(strip=False),
    "word pieces": word_pieces,
    "unigram": unigram,
    "no decoder": undecoded,
}
KINDS = {kind: build() for kind, build in BUILD.items()}
BYTES_AND_TEXT = ["byte level", "byte fallback", "byte fallback, no prefix"]


def detokenizer_of(tokenizer: Tokenizer) -> Detokenizer:
    added = tokenizer.get_added_tokens_decoder()
    return Detokenizer(tokenizer, frozenset(i for i, token in added.items() if token.special))


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    one = detokenizer_of(tokenizer)
    return [*(one.add(i) for i in ids), one.finish()]


TEXT = st.lists(st.sampled_from([*"".join(TEXTS), *TEXTS, "<s>", "<think>", " é ", "  "]), max_size=8).map("".join)


@pytest.mark.parametrize("kind", BYTES_AND_TEXT)
@settings(max_examples=60)
@given(text=TEXT | st.text(max_size=20))
def test_pieces_add_up_to_the_text_and_hold_no_half_characters(kind: str, text: str) -> None:
    ids = KINDS[kind].encode(text, add_special_tokens=False).ids
    pieces = pieces_of(KINDS[kind], ids)
    assert "".join(pieces) == KINDS[kind].decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "fallback" not in kind])
@settings(max_examples=60)
@given(data=st.data())
def test_pieces_of_any_tokens_add_up_to_the_decoded_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    highest = tokenizer.get_vocab_size() + 3  # ids that mean nothing: a padded vocabulary has them
    ids = data.draw(st.lists(st.integers(0, highest), max_size=25))
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def naive_fallback(tokenizer: Tokenizer, ids: list[int], strip: bool) -> str:
    """Decode all at once: whole characters kept, a replacement character for every byte outside of one."""
    data = b""
    for token in (tokenizer.id_to_token(i) for i in ids):
        if token is None or token in ("<s>", "</s>"):
            continue
        byte = re.fullmatch("<0x(..)>", token)
        # a character ends what bytes before it began
        data += bytes([int(byte[1], 16)]) if byte else b"\xff\xfe" + token.replace("▁", " ").encode() + b"\xff\xfe"
    text, run = "", data
    while run:
        for size in (1, 2, 3, 4):
            try:
                text += run[:size].decode()
            except UnicodeDecodeError:
                continue
            run = run[size:]
            break
        else:
            text += "\x00" if run[:2] == b"\xff\xfe" else "\ufffd"
            run = run[2 if run[:2] == b"\xff\xfe" else 1 :]
    text = text.replace("\x00", "")
    return text[1:] if strip and text.startswith(" ") else text


@pytest.mark.parametrize("strip", [True, False])
@settings(max_examples=100)
@given(
    parts=st.lists(
        st.lists(st.sampled_from([0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, 0xE2, 0x20, 0x61]), max_size=6)
        | st.sampled_from([list("é".encode()), list("😀".encode())])
        | st.integers(256, 300),
        max_size=10,
    )
)
def test_broken_bytes_spoil_no_whole_character(strip: bool, parts: list[list[int] | int]) -> None:
    tokenizer = KINDS["byte fallback" if strip else "byte fallback, no prefix"]
    ids = [3 + x for part in parts for x in (part if isinstance(part, list) else [part])]
    assert "".join(pieces_of(tokenizer, ids)) == naive_fallback(tokenizer, ids, strip)


def test_an_answer_cut_within_a_character_ends_as_the_library_decodes_it() -> None:
    for kind in BYTES_AND_TEXT:
        ids = KINDS[kind].encode("the cat 🙃", add_special_tokens=False).ids
        for length in range(len(ids) + 1):
            assert "".join(pieces_of(KINDS[kind], ids[:length])) == KINDS[kind].decode(ids[:length])


def test_a_character_is_given_out_with_its_last_token() -> None:
    smile = [3 + byte for byte in "🙂".encode()]
    assert pieces_of(KINDS["byte fallback"], smile * 2) == ["", "", "", "🙂", "", "", "", "🙂", ""]


@settings(max_examples=60)
@given(data=st.binary(max_size=30))
def test_bytes_that_are_no_text_are_not_held_for_ever(data: bytes) -> None:
    waiting = 0
    for piece in pieces_of(KINDS["byte fallback"], [3 + byte for byte in b"a" + data])[:-1]:
        waiting = 0 if piece else waiting + 1
        assert waiting < 4


def test_finish_gives_out_what_is_held_once() -> None:
    for kind in BYTES_AND_TEXT:
        tokenizer = KINDS[kind]
        one = detokenizer_of(tokenizer)
        for token_id in tokenizer.encode("🙃", add_special_tokens=False).ids[:-1]:
            one.add(token_id)
        assert set(one.finish()) == {"\ufffd"}
        assert one.finish() == ""


@pytest.mark.parametrize("kind", BYTES_AND_TEXT)
def test_a_token_costs_the_same_at_the_end_of_a_long_answer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    whole = detokenizer._WindowText._decode

    def counted(text: detokenizer._WindowText) -> str:
        decoded.append(len(text._window))
        return whole(text)

    monkeypatch.setattr(detokenizer._WindowText, "_decode", counted)
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(" ".join(TEXTS * 20), add_special_tokens=False).ids
    no_text = [tokenizer.token_to_id("<0x80>") or tokenizer.token_to_id("Ģ")] * 500
    pieces_of(tokenizer, [*ids, *no_text, tokenizer.get_vocab_size() + 9, *ids])
    assert max(decoded, default=0) <= 8


def test_the_byte_alphabet_is_that_of_the_library() -> None:
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF.values()) == list(range(256))
