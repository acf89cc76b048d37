"""Stop strings, however the text is cut; loops, and what only looks like one."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.stopping import LoopDetector, StopStrings

PIECES = st.lists(st.text(alphabet="ab\n", max_size=4), max_size=12)


@given(pieces=PIECES, stop=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    stops = StopStrings(stop)
    shown, so_far = "", ""
    for piece in pieces:
        so_far += piece
        text, stopped = stops.feed(piece)
        shown += text
        at = min((i for i in (so_far.find(s) for s in stop) if i >= 0), default=None)
        assert stopped == (at is not None)
        if at is not None:
            assert shown == so_far[:at]
            return
        assert so_far.startswith(shown)
    assert shown + stops.finish() == so_far


def fires(tokens: list[int]) -> int | None:
    detector = LoopDetector()
    return next((i for i, token in enumerate(tokens) if detector.feed(token)), None)


def test_a_token_a_phrase_or_a_paragraph_again_and_again_is_a_loop() -> None:
    for period in (1, 2, 7, 12, 31, 63, 64, 200, 256):
        tokens = [1, 2, 3, *list(range(100, 100 + period)) * 140]
        assert fires(tokens) == 3 + max(128, 4 * period) - 1


def test_counting_tables_refrains_and_rulers_are_not_loops() -> None:
    counting = [token for n in range(500) for token in (ord(d) for d in f"{n}, ")]
    table = [token for row in range(60) for token in (1, 50 + row, 1, 900 + row * 7 % 11, 1, 2)]
    poem = [token for verse in range(4) for token in [*range(1000 * verse, 1000 * verse + 60), *range(9000, 9040)]]
    ruler = [5] * 40
    laughter = [6, 7] * 10
    for tokens in (counting, table, poem, ruler, laughter):
        assert fires(tokens) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.lists(st.integers(0, 2), max_size=5), st.integers(2, 80))
def test_it_fires_exactly_by_its_rule(block: list[int], before: list[int], repeats: int) -> None:
    tokens = before + block * repeats
    detector = LoopDetector()
    for n, token in enumerate(tokens, start=1):
        periods = range(1, min(n // 4, 256) + 1)
        longest = [max(128, 4 * p) for p in periods]
        rule = any(
            size <= n and all(tokens[i] == tokens[i - p] for i in range(n - size + p, n))
            for p, size in zip(periods, longest, strict=True)
        )
        assert detector.feed(token) == rule
