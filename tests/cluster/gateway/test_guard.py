"""What holds for every request: hosts, keys, sizes, ids."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cluster.gateway import guard
from cluster.gateway.app import Gateway
from cluster.gateway.guard import Admission
from cluster.gateway.keys import Keys
from cluster.gateway.served import Served
from cluster.home import Home


def ask(home: Path, *requests: dict[str, Any], keys: Keys | None = None, **options: Any) -> list[httpx2.Response]:
    """Send requests to a gateway of a home in which no node runs."""

    async def send() -> list[httpx2.Response]:
        hosts, origins = options.get("hosts", ()), options.get("origins", ())
        app = Gateway(Served(Home(home)), Admission(keys, hosts, origins)).app(origins)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8080") as client:
            return [await client.request(**{"method": "GET", **request}) for request in requests]

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:8080", True),
        ("192.168.1.5", True),
        ("mac.example:8080", True),
        ("evil.example", False),
        ("localhost.evil.example:8080", False),
        ("", False),
    ],
)
def test_a_page_of_another_host_cannot_ask_through_a_browser(tmp_path: Path, host: str, is_own: bool) -> None:
    (answer,) = ask(tmp_path, {"url": "/health", "headers": {"host": host}}, hosts=["mac.example"])
    assert answer.status_code == (200 if is_own else 400)


def test_all_paths_but_health_need_a_key_where_keys_are_needed(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    key = keys.create("anna")
    named = [{"authorization": f"Bearer {key}"}, {"x-api-key": key}]
    wrong: list[dict[str, str]] = [{}, {"authorization": "Bearer moe-wrong"}, {"authorization": key}, {"x-api-key": ""}]
    paths = ("/v1/models", "/metrics", "/ready", "/api/tags", "/v1/nothing")
    refused = ask(tmp_path, *({"url": path, "headers": w} for path in paths for w in wrong), keys=keys)
    assert {answer.status_code for answer in refused[:-4]} == {401}
    assert "moe-cluster key create" in refused[0].json()["error"]["message"]
    assert [a.status_code for a in ask(tmp_path, *({"url": "/metrics", "headers": h} for h in named), keys=keys)] == [
        200,
        200,
    ]
    assert ask(tmp_path, {"url": "/health"}, keys=keys)[0].status_code == 200


def test_a_body_has_a_limit_whether_it_says_its_length_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_BODY_BYTES", 1000)

    async def endless() -> Any:
        for _ in range(10):
            yield b" " * 500

    posts = {"method": "POST", "url": "/v1/messages"}
    for answer in ask(tmp_path, {**posts, "content": b" " * 1001}, {**posts, "content": endless()}):
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_a_body_that_does_not_end_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def stuck() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    (answer,) = ask(tmp_path, {"method": "POST", "url": "/v1/messages", "content": stuck()})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "did not arrive" in answer.json()["error"]["message"]


def test_every_answer_has_an_id_of_its_own_and_errors_the_shape_of_their_api(tmp_path: Path) -> None:
    missing, unknown, openai, anthropic, ollama = ask(
        tmp_path,
        {"url": "/nothing"},
        {"url": "/api/embed", "method": "POST"},
        {"url": "/v1/chat/completions", "method": "POST", "content": b"{}"},
        {"url": "/v1/messages", "method": "POST", "content": b"{}"},
        {"url": "/api/chat", "method": "POST", "content": b'{"messages": 5}'},
    )
    assert (unknown.status_code, unknown.json()) == (404, {"error": "POST /api/embed: there is no such endpoint"})
    assert (missing.status_code, openai.json()["error"]["type"]) == (404, "invalid_request_error")
    assert (anthropic.json()["type"], anthropic.json()["error"]["type"]) == ("error", "invalid_request_error")
    assert "messages" in ollama.json()["error"]
    ids = [answer.headers["x-request-id"] for answer in (missing, openai, anthropic, ollama)]
    assert len(set(ids)) == 4
    assert anthropic.headers["request-id"] == ids[2]


def test_without_a_node_or_model_a_client_is_told_to_come_again(tmp_path: Path) -> None:
    hello = b'{"messages": [{"role": "user", "content": "Hello"}]}'
    (answer,) = ask(tmp_path, {"url": "/v1/chat/completions", "method": "POST", "content": hello})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "moe-cluster up" in answer.json()["error"]["message"]


def test_no_page_of_another_origin_may_read_unless_it_is_named(tmp_path: Path) -> None:
    asked = {"url": "/health", "headers": {"origin": "https://chat.example"}}
    (refused,) = ask(tmp_path, asked)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    (own,) = ask(tmp_path, {"url": "/health", "headers": {"origin": "http://127.0.0.1:8080"}})
    assert own.status_code == 200
    named = ask(tmp_path, asked, origins=["https://chat.example"])[0].headers
    assert named["access-control-allow-origin"] == "https://chat.example"


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({}, False),
        ({"origin": "https://chat.example", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_a_page_cannot_post_without_asking_first(tmp_path: Path, headers: dict[str, str], is_refused: bool) -> None:
    posted = {"method": "POST", "url": "/v1/completions", "content": b'{"prompt": "Hello"}'}
    requests = [{**posted, "headers": {"content-type": kind, **headers}} for kind in ("text/plain", "application/json")]
    for answer in ask(tmp_path, *requests, origins=["https://chat.example"]):
        assert answer.status_code == (400 if is_refused else 503)  # 503: no node runs
        assert ("serve --cors" in answer.json()["error"]["message"]) == is_refused


def test_a_link_on_another_page_may_be_followed(tmp_path: Path) -> None:
    (page,) = ask(tmp_path, {"url": "/", "headers": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}})
    assert page.status_code == 200
