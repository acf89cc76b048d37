"""What connect prints works when it is pasted: an address that can be called, and a key where one is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cli import connect as command
from mlx_moe.errors import InvalidRequestError


class Node:
    """A node at 10.0.0.1 that serves the APIs."""

    def __init__(self, api_url: str) -> None:
        self._api_url = api_url

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def status(self) -> Any:
        own = SimpleNamespace(info=SimpleNamespace(addresses=("10.0.0.1:7420",)))
        return SimpleNamespace(api_url=self._api_url, ready=None, own=own)


@pytest.mark.parametrize(
    ("program", "api_url", "key", "printed", "said"),
    [
        ("aider", "http://127.0.0.1:8080", None, ("http://127.0.0.1:8080/v1", "none"), ""),
        ("aider", "http://0.0.0.0:8080", None, ("http://10.0.0.1:8080/v1", "YOUR_KEY"), "replace YOUR_KEY"),
        ("aider", "https://[::]:8080", "moe-1", ("https://10.0.0.1:8080/v1", "moe-1"), ""),
        ("aider", "http://192.0.2.7:80", "moe-1", ("http://192.0.2.7:80/v1", "moe-1"), ""),
        ("open-webui", "http://127.0.0.1:80", None, ("http://10.0.0.1:80/v1", "YOUR_KEY"), "serve --host 0.0.0.0"),
        ("open-webui", "http://0.0.0.0:80", "moe-1", ("http://10.0.0.1:80/v1", "moe-1"), ""),
    ],
)
def test_a_program_gets_an_address_that_it_can_call_and_a_key_where_one_is_needed(
    program: str,
    api_url: str,
    key: str | None,
    printed: tuple[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command.OwnNode, "connect", lambda _home: Node(api_url))
    command.connect(program, None, key)
    out, err = capsys.readouterr()
    assert f"OPENAI_API_BASE{'_URL' if program == 'open-webui' else ''}={printed[0]}" in out
    assert f"OPENAI_API_KEY={printed[1]}" in out
    assert said in err if said else not err


def test_an_unknown_program_is_refused_with_those_that_are_supported() -> None:
    with pytest.raises(InvalidRequestError, match="'vim' is not supported; supported are: aider"):
        command.connect("vim", None, None)
