"""The clients that people use, from their own packages, against the gateway of a running node."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import anthropic
import httpx2
import openai
import psutil
import pytest
from pydantic import BaseModel, Field

from cluster.client import GatewayOptions
from cluster.errors import ClusterError
from cluster.gateway.keys import Keys
from tests.cluster.running import Cluster, processes_with, running_cluster
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

QUESTION = "What is a Mac?"
ASKED = {"role": "user", "content": QUESTION}
ENDLESS = {"prompt": "Tell a story.", "max_tokens": 1500, "temperature": 5, "logit_bias": {"2": -100}}
"""A request for much random text: token 2 ends an answer."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("gateway"), 1, measured_hardware) as cluster:
        cluster.load("demo")
        yield cluster


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    return cluster.own.serve(GatewayOptions(port=0))


@pytest.fixture(scope="module")
def gpt(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def said(gpt: openai.OpenAI) -> str:
    """Return what the model answers to the question, greedily."""
    answer = gpt.chat.completions.create(model="demo", messages=[ASKED], temperature=0)  # type: ignore[list-item]
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def test_every_api_gives_the_same_answer_whole_and_as_a_stream(
    gpt: openai.OpenAI, claude: anthropic.Anthropic, url: str, said: str
) -> None:
    chunks = gpt.chat.completions.create(model="demo", messages=[ASKED], temperature=0, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    assert gpt.responses.create(model="demo", input=QUESTION, temperature=0).output_text == said
    with gpt.responses.stream(model="demo", input=QUESTION, temperature=0) as events:
        assert events.get_final_response().output_text == said
    cold = {"temperature": 0}
    # More than the context holds: clients send the most of the model that they believe to speak to
    message = claude.messages.create(model="claude-x", max_tokens=128_000, messages=[ASKED], extra_body=cold)  # type: ignore[list-item]
    assert [block.text for block in message.content if block.type == "text"] == [said]
    with claude.messages.stream(model="claude-x", max_tokens=100, messages=[ASKED], extra_body=cold) as stream:  # type: ignore[list-item]
        assert "".join(stream.text_stream) == said
    asked = {"model": "demo", "messages": [ASKED], "options": {"temperature": 0}, "stream": False}
    assert httpx2.post(f"{url}/api/chat", json=asked).json()["message"]["content"] == said


def test_models_are_named_and_counted_as_clients_expect(
    gpt: openai.OpenAI, claude: anthropic.Anthropic, url: str
) -> None:
    assert [model.id for model in gpt.models.list()] == ["demo"]
    assert gpt.models.retrieve("demo").id == "demo"
    counted = claude.messages.count_tokens(model="claude-x", messages=[ASKED])  # type: ignore[list-item]
    usage = gpt.chat.completions.create(model="demo", messages=[ASKED], max_tokens=1).usage  # type: ignore[list-item]
    assert usage is not None
    assert counted.input_tokens == usage.prompt_tokens
    with pytest.raises(openai.NotFoundError, match="this cluster serves 'demo'"):
        gpt.chat.completions.create(model="gpt-4o", messages=[ASKED])  # type: ignore[list-item]
    assert httpx2.get(f"{url}/api/tags").json()["models"][0]["name"] == "demo"
    assert 'vllm:request_success_total{finished_reason="length"}' in httpx2.get(f"{url}/metrics").text


class City(BaseModel):
    name: Literal["Bern", "Rome"]
    size: int = Field(ge=0, le=99)


CITY = City.model_json_schema() | {"additionalProperties": False}


def test_schemas_are_obeyed_and_parsed_by_the_clients_own_helpers(gpt: openai.OpenAI, url: str) -> None:
    parsed = gpt.chat.completions.parse(model="demo", messages=[ASKED], response_format=City, max_tokens=60)  # type: ignore[list-item]
    assert isinstance(parsed.choices[0].message.parsed, City)
    assert isinstance(gpt.responses.parse(model="demo", input=QUESTION, text_format=City).output_parsed, City)
    asked = {"model": "demo", "messages": [ASKED], "format": CITY, "stream": False}
    answer = httpx2.post(f"{url}/api/chat", json=asked, timeout=PATIENCE_S).json()["message"]["content"]
    assert City.model_validate_json(answer)
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        gpt.chat.completions.create(
            model="demo",
            messages=[ASKED],  # type: ignore[list-item]
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
            },
        )


def test_a_prompt_is_scored_as_lm_eval_asks(gpt: openai.OpenAI) -> None:
    whole = gpt.completions.create(model="demo", prompt=QUESTION, max_tokens=8, temperature=0, logprobs=1).choices[0]
    assert whole.logprobs is not None
    ids = [[30, 31, 32, 33], [40, 41]]
    asked = gpt.completions.create(model="demo", prompt=ids, echo=True, logprobs=1, max_tokens=1, temperature=0)
    for choice, prompt in zip(asked.choices, ids, strict=True):
        told = choice.logprobs
        assert told is not None
        assert told.token_logprobs is not None
        assert told.top_logprobs is not None
        assert len(told.token_logprobs) == len(told.top_logprobs) == len(prompt) + 1
        assert told.token_logprobs[0] is None
        assert all(
            logprob <= max(top.values()) <= 0
            for logprob, top in zip(told.token_logprobs[1:], told.top_logprobs[1:], strict=True)
        )
    alone = gpt.completions.create(model="demo", prompt=["Hello there"], echo=True, logprobs=0, max_tokens=0)
    assert alone.choices[0].text == "Hello there"
    assert alone.choices[0].logprobs is not None
    assert "".join(alone.choices[0].logprobs.tokens or ()) == "Hello there"  # no token before it


def test_a_forced_call_is_a_call_in_every_api(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    described = City.model_json_schema()  # says nothing on other properties; a forced call has none
    for tool in (
        {"type": "function", "function": {"name": "City", "parameters": described}},
        openai.pydantic_function_tool(City),
    ):
        answer = gpt.chat.completions.create(
            model="demo",
            messages=[ASKED],  # type: ignore[list-item]
            tools=[tool],  # type: ignore[list-item]
            tool_choice="required",
            parallel_tool_calls=False,
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.tool_calls
        call = answer.message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "City"
        assert City.model_validate_json(call.function.arguments)
    with claude.messages.stream(
        model="claude-x",
        max_tokens=200,
        messages=[ASKED],  # type: ignore[list-item]
        tools=[{"name": "found", "input_schema": described}],
        tool_choice={"type": "tool", "name": "found", "disable_parallel_tool_use": True},
    ) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert [City.model_validate(block.input) for block in message.content if block.type == "tool_use"]


def test_refusals_are_the_clients_own_errors_with_numbers(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    long = {"role": "user", "content": "word " * 20_000}
    with pytest.raises(openai.BadRequestError, match=r"the prompt has 2000\d tokens"):
        gpt.chat.completions.create(model="demo", messages=[long], stream=True)  # type: ignore[call-overload]
    with pytest.raises(anthropic.BadRequestError, match=r"the prompt has 2000\d tokens"):
        claude.messages.create(model="claude-x", max_tokens=5, messages=[long])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match="max_tokens must be 1 or more"):
        gpt.chat.completions.create(model="demo", messages=[ASKED], max_tokens=0)  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match="functions"):
        gpt.chat.completions.create(model="demo", messages=[ASKED], functions=[{"name": "x"}])  # type: ignore[list-item]


def test_langchain_chats_streams_calls_tools_and_parses(url: str, said: str) -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain_openai.ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="demo", temperature=0)
    with contextlib.closing(model.root_client):
        assert model.invoke(QUESTION).content == said
        assert "".join(chunk.content for chunk in model.stream(QUESTION)) == said
        assert isinstance(model.with_structured_output(City).invoke(QUESTION), City)
        calling = model.bind_tools([City], tool_choice="any", parallel_tool_calls=False)
        whole, *chunks = calling.invoke(QUESTION), *calling.stream(QUESTION)
        joined = chunks[0]
        for chunk in chunks[1:]:
            joined += chunk
        for message in (whole, joined):
            assert [call["name"] for call in message.tool_calls] == ["City"]
            assert City.model_validate(message.tool_calls[0]["args"])


def test_ollamas_own_client_chats_streams_and_sees_its_errors(url: str, said: str) -> None:
    ollama = pytest.importorskip("ollama", reason="ollama is not installed")
    cold = {"temperature": 0}
    with ollama.Client(host=url) as client:
        assert client.chat(model="demo", messages=[ASKED], options=cold).message.content == said
        parts = client.chat(model="demo", messages=[ASKED], options=cold, stream=True)
        assert "".join(part.message.content for part in parts) == said
        assert client.generate(model="demo", prompt=QUESTION, options=cold).response == said
        assert City.model_validate_json(client.chat(model="demo", messages=[ASKED], format=CITY).message.content)
        assert (
            [model.model for model in client.list().models] == [model.model for model in client.ps().models] == ["demo"]
        )
        with pytest.raises(ollama.ResponseError, match="this cluster serves 'demo'"):
            client.chat(model="another", messages=[ASKED])
        with pytest.raises(ollama.ResponseError, match="there is no such endpoint"):
            client.embed(model="demo", input="x")


def test_a_client_that_goes_away_ends_its_answer(cluster: Cluster, url: str) -> None:
    with httpx2.stream("POST", f"{url}/v1/completions", json={**ENDLESS, "stream": True}, timeout=PATIENCE_S) as stream:
        next(stream.iter_lines())
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{url}/v1/completions", json=ENDLESS, timeout=0.3)
    until(lambda: cluster.own.status().coordinator_stats.active_requests == 0)


def test_a_gateway_that_is_killed_breaks_the_stream_and_comes_back(cluster: Cluster, url: str, said: str) -> None:
    body = {**ENDLESS, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as stream:
        lines = stream.iter_lines()
        next(lines)
        os.kill(gateway(cluster).pid, signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            list(lines)
    until(lambda: is_up(url))
    answer = httpx2.post(f"{url}/v1/chat/completions", json={"messages": [ASKED], "temperature": 0}, timeout=PATIENCE_S)
    assert answer.json()["choices"][0]["message"]["content"] == said


def test_a_prompt_that_another_client_had_before_is_not_read_again(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    system = "Be brief. " * 100
    first = gpt.chat.completions.create(
        model="demo",
        messages=[{"role": "system", "content": system}, ASKED],
        max_tokens=5,  # type: ignore[list-item]
    ).usage
    other = {"role": "user", "content": "Who are you?"}
    second = claude.messages.create(model="claude-x", max_tokens=5, system=system, messages=[other]).usage  # type: ignore[list-item]
    assert first is not None
    assert (second.cache_read_input_tokens or 0) > 0.9 * first.prompt_tokens
    assert second.input_tokens < 0.1 * first.prompt_tokens


def test_many_at_once_are_all_answered(url: str, said: str) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE_S) as client:
            asked = [
                client.chat.completions.create(model="demo", messages=[ASKED], temperature=0)  # type: ignore[list-item]
                for _ in range(16)
            ]
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [said] * 16


def test_another_address_asks_for_a_key_which_can_be_revoked(cluster: Cluster) -> None:
    keys = Keys(cluster.nodes[0].home.api_keys)
    key = keys.create("anna")
    port = cluster.own.serve(GatewayOptions("0.0.0.0", 0)).rpartition(":")[2]
    url = f"http://127.0.0.1:{port}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as known:
        assert [model.id for model in known.models.list()] == ["demo"]
        keys.revoke("anna")
        with pytest.raises(openai.AuthenticationError, match="moe-cluster key create"):
            known.models.list()
    assert is_up(url)  # a load balancer has no key


def test_a_port_that_is_taken_is_said_and_stopping_frees_it(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ClusterError, match="cannot be used"):
        cluster.own.serve(GatewayOptions(port=taken.getsockname()[1]))
    url = cluster.own.serve(GatewayOptions(port=0))
    assert cluster.own.status().api_url == url
    assert cluster.own.stop_serving() == url
    assert not is_up(url)
    assert cluster.own.stop_serving() == ""
    until(lambda: not list(gateways(cluster)))


def is_up(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").json() == {"status": "ok"}
    except (httpx2.TransportError, json.JSONDecodeError):
        return False


def gateways(cluster: Cluster) -> Iterator[psutil.Process]:
    home = str(cluster.nodes[0].home.path)
    return (process for process in processes_with(home) if "cluster.gateway" in process.info["cmdline"])


def gateway(cluster: Cluster) -> psutil.Process:
    return next(gateways(cluster))
