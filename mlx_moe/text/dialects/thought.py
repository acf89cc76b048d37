"""The thought at the start of an answer, as most dialects write it: between two markers."""

from __future__ import annotations

from mlx_moe.text.dialects.reader import Reader, Steps, Tags
from mlx_moe.text.thought import ThoughtMarkers


def read_thought(answer: Reader, markers: ThoughtMarkers, *also_end: str) -> Steps[None]:
    """Read a thought if the answer begins with one, up to its closing marker or to a tag that follows without it.

    `also_end`: special tokens that no model writes within a thought. Line breaks next to the markers belong to them.
    """
    before = yield from answer.space()
    if not (yield from answer.accept(markers.open)):
        answer.content(before)
        return
    answer.markup(before + markers.open)
    yield from answer.breaks()
    if (yield from answer.up_to(Tags(markers.close, *also_end), answer.reasoning)) == markers.close:
        yield from answer.accept(markers.close)
        answer.markup(markers.close)
        yield from answer.breaks()
