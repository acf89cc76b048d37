"""Stop strings, however the text is cut; loops, and what only looks like one."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_moe.text.stopping import LoopDetector, StopStrings

PIECES = st.lists(st.text(alphabet="ab\n🙂", max_size=4), max_size=12)
STOPS = st.lists(st.text(alphabet="ab\n🙂", min_size=1, max_size=4), max_size=4)


def up_to_the_first(text: str, stop: list[str]) -> str | None:
    """Return what is before the first stop string to be complete, reading character by character."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(pieces=PIECES, stop=STOPS)
def test_what_is_shown_is_the_text_before_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    stops = StopStrings(stop)
    shown, so_far = "", ""
    for piece in pieces:
        so_far += piece
        text, stopped = stops.feed(piece)
        shown += text
        wanted = up_to_the_first(so_far, stop)
        assert stopped == (wanted is not None)
        if wanted is not None:
            assert shown == wanted
            assert stops.feed("more") == ("", True)
            assert stops.finish() == ""
            return
        held = len(so_far) - len(shown)
        assert so_far.startswith(shown)
        assert held == max((n for s in stop for n in range(len(s)) if so_far.endswith(s[:n])), default=0)
    assert shown + stops.finish() == so_far
    assert stops.finish() == ""


@given(text=st.text(alphabet="ab", max_size=20), stop=STOPS, cuts=st.lists(st.integers(0, 20), max_size=6))
def test_how_the_text_is_cut_makes_no_difference(text: str, stop: list[str], cuts: list[int]) -> None:
    def shown(pieces: list[str]) -> str:
        stops = StopStrings(stop)
        return "".join([stops.feed(piece)[0] for piece in pieces]) + stops.finish()

    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert shown([text[a:b] for a, b in pairwise(ends)]) == shown([text]) == shown(list(text))


def fires(tokens: list[int]) -> int | None:
    detector = LoopDetector()
    return next((i for i, token in enumerate(tokens) if detector.feed(token)), None)


@pytest.mark.parametrize("period", [1, 2, 7, 12, 31, 51, 52, 63, 200, 300, 320])
def test_a_token_a_phrase_or_a_paragraph_again_and_again_is_a_loop(period: int) -> None:
    tokens = [1, 2, 3, *list(range(100, 100 + period)) * 300]
    assert fires(tokens) == 3 + max(256, 5 * period) - 1


def test_a_paragraph_that_repeats_words_within_is_a_loop() -> None:
    paragraph = [ord(c) for c in "the cat and the dog and the cat and the bird, and so on and on. "]
    assert fires([*range(500, 900), *paragraph * 20]) == 400 + 5 * len(paragraph) - 1


def words(text: str) -> list[int]:
    """Return a token for each word, space and sign, which is how vocabularies cut."""
    vocabulary: dict[str, int] = {}
    pieces = text.replace(" ", " \0").replace("\n", "\n\0").replace(",", ",\0").split("\0")
    return [vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces]


CODE = "\n".join(
    f"    def test_{name}(self) -> None:\n        value = self.build({n})\n        self.assertEqual(value, {n * n})\n"
    f"        self.assertIsNone(value.error)\n"
    for n, name in enumerate(f"{a}_{b}" for a in ("sum", "mean", "max", "min") for b in range(12))
)
TABLE = "\n".join(f"| {n} | item {n} | yes | {n * 7 % 11}.50 | in stock |" for n in range(60))
REFRAIN = "Oh the wind and the rain,\nhey ho, the wind and the rain,\nfor the rain it rains every day.\n"
POEM = "".join(f"{' '.join(f'word{v}{w}' for w in range(40))}\n{REFRAIN}" for v in range(4))
ORDINARY = {
    "counting": ", ".join(str(n) for n in range(1, 501)),
    "counting by lines": "\n".join(str(n) for n in range(1, 501)),
    "table": TABLE,
    "code": CODE,
    "poem": POEM,
    "refrain four times": REFRAIN * 4,
    "laughter": "ha " * 10,
    "a list of zeros": "values = [" + "0, " * 100 + "0]",
    "a board": "| . . . . . . . . |\n" * 8,
    "multiplication": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 11) for b in range(1, 11)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_looks_like_a_loop_is_none(name: str) -> None:
    assert fires(words(ORDINARY[name])) is None


@pytest.mark.parametrize("text", [ORDINARY["counting"], TABLE, "-" * 80 + "\n", "ha" * 10, REFRAIN])
def test_neither_is_it_where_every_character_is_a_token(text: str) -> None:
    assert fires([ord(character) for character in text]) is None


@settings(max_examples=60)
@given(
    before=st.lists(st.integers(0, 2), max_size=5),
    block=st.lists(st.integers(0, 2), min_size=1, max_size=70),
    repeats=st.integers(2, 300),
    slip=st.integers(0, 400),
)
def test_it_fires_exactly_by_its_rule(before: list[int], block: list[int], repeats: int, slip: int) -> None:
    tokens = (before + block * repeats)[:600]
    if slip < len(tokens):
        tokens[slip] = 3
    detector = LoopDetector()
    run = [0] * 321
    for n, token in enumerate(tokens):
        for p in range(1, min(n, 320) + 1):
            run[p] = run[p] + 1 if tokens[n - p] == token else 0
        assert detector.feed(token) == any(run[p] + p >= max(256, 5 * p) for p in range(1, 321))


def test_its_memory_does_not_grow_with_the_answer() -> None:
    detector = LoopDetector()
    for n in range(5000):
        detector.feed(n * 7919 % 3001)
    assert len(detector._recent) == sum(map(len, detector._places.values())) == LoopDetector.MAX_PERIOD
    assert len(detector._run) <= LoopDetector.MAX_PERIOD
