"""bench --emulate refuses what it cannot emulate, before anything is started; what it prints is called emulated."""

import json
from pathlib import Path

import pytest

from cli.bench.counts import counts
from cli.bench.emulate import emulate
from cluster.emulation.asked import Asked
from mlx_moe.errors import InvalidRequestError


def asked(**changes: object) -> Asked:
    values = {
        "nodes": "2xM3-Ultra-96GB",
        "model": "Qwen3-30B-A3B",
        "wire": "10gbe",
        "draft": "none",
        "users": (1,),
        "prompts": (64,),
        "tokens": 12,
    }
    return Asked(**(values | changes))  # type: ignore[arg-type]  # each by its name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wire": "carrier pigeon"}, "there is no link 'carrier pigeon'; links are: 10gbe, tb, 1gbe, loopback"),
        ({"draft": "best"}, "--draft takes none, mtp, ngram, stated, or acceptance rates"),
        ({"draft": "0.5,1.5"}, "--draft takes none, mtp, ngram, stated, or acceptance rates"),
        ({"model": "demo"}, "'demo' cannot be emulated; models are: .*deepseek-v3"),
        ({"nodes": "many"}, "many"),
    ],
)
def test_what_cannot_be_emulated_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        emulate(asked(**changes), None, as_json=False)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "-1", "x", "99999999", "\u00b2"])
def test_counts_are_small_whole_numbers(text: str) -> None:
    assert counts("--users", "1,2,8") == (1, 2, 8)
    with pytest.raises(InvalidRequestError, match="--users takes whole numbers"):
        counts("--users", text)


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["mtp", "1.0"])
def test_the_json_and_the_trace_say_that_they_are_emulated(
    draft: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    emulate(asked(draft=draft), trace, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["emulated"] is True
    for side in (told["plain"], told["drafted"]):
        assert [decoded["as_written"] for decoded in side["decoded"]] == [True]
    assert told["drafted"]["decoded"][0]["drafted"] > 0
    traced = json.loads(trace.read_text())
    assert traced["otherData"] == {"emulated": True}
    assert {event["cat"] for event in traced["traceEvents"] if event["ph"] == "X"} >= {"prefill", "decode", "turn"}
