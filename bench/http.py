"""The HTTP APIs on three nodes of this machine, as a Markdown table: python -m bench.http [SECONDS] [ROUNDS].

Demo model: the rate over HTTP against that of the client that `run` uses, in ROUNDS (10) pairs; 64 streams for SECONDS
(60). A small random model with a context of 64k: a shared prefix, through two APIs and from two addresses.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from bench.nodes import Nodes, running_nodes
from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from cluster.client import GatewayOptions, RemoteModel
from mlx_moe.decoding.request import Request
from mlx_moe.sampling_params import SamplingParams

N_STREAMS = 64
ANSWER_TOKENS = 150
SAMPLE_S = 1.0
SETTLED = 1 / 3
"""Share of the time after which memory should not grow any more."""

PREFIX_TOKENS = 4000
PREFIXES = 3

SMALL = TINY_DEEPSEEK | {
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "num_attention_heads": 4,
}

SUBJECTS = ("a Mac", "the sea", "a dog", "rain", "a hunter", "a silver bell", "two nodes", "a long road")

Row = tuple[str, str]

TABLE = "| | |\n|---|---|"


def main(seconds: float = 60.0, rounds: int = 10) -> None:
    """Print all rows."""
    with running_nodes([{0, 1}] * 3) as nodes, tempfile.TemporaryDirectory() as directory:
        url = nodes.own.serve(GatewayOptions(port=0))
        model = nodes.load("demo", (2, 2, 2))
        print(TABLE, *map(line, overhead(url, nodes, model, rounds)), sep="\n", flush=True)
        print(*map(line, asyncio.run(streams(url, nodes, seconds))), sep="\n", flush=True)
        write_checkpoint(Path(directory) / "small", SMALL)
        nodes.load(str(Path(directory) / "small"), (1, 1, 1), context_tokens=2 * PREFIX_TOKENS)
        print(*map(line, asyncio.run(shared_prefix(url))), sep="\n")


def line(row: Row) -> str:
    """Return a row of a table."""
    return f"| {row[0]} | {row[1]} |"


@dataclass(slots=True)
class Stream:
    """What a client sees of an answer: when it asked, and when each piece of text came, in seconds."""

    asked_s: float = field(default_factory=time.perf_counter)
    came_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        """Seconds to the first text."""
        return self.came_s[0] - self.asked_s

    @property
    def rate(self) -> float:
        """Pieces of text per second after the first."""
        return (len(self.came_s) - 1) / (self.came_s[-1] - self.came_s[0])


def overhead(url: str, nodes: Nodes, model: RemoteModel, rounds: int) -> list[Row]:
    """Return the rows of equal greedy answers over HTTP and through the client that `run` uses, alternating."""

    def over_http(ids: Sequence[int]) -> Stream:
        body = {"prompt": list(ids), "max_tokens": ANSWER_TOKENS, "temperature": 0}
        return asyncio.run(_alone(url, "/v1/completions", body))

    def without(ids: Sequence[int]) -> Stream:
        conversation, stream = model.new_conversation(), Stream()
        try:
            for token in conversation.answer(Request(tuple(ids), SamplingParams(temperature=0.0), ANSWER_TOKENS)):
                if token.text:
                    stream.came_s.append(time.perf_counter())
        finally:
            conversation.close()
        return stream

    rates, first_ms, cpu = [], [], []
    for number in range(rounds):
        ids = model.format_chat([{"role": "user", "content": _question(number, 0)}], {})
        measured = {}
        for way in (over_http, without) if number % 2 else (without, over_http):
            before_s = _cpu_s(nodes)
            measured[way] = way(ids), _cpu_s(nodes) - before_s
        (http, http_s), (run, run_s) = measured[over_http], measured[without]
        if len(http.came_s) != len(run.came_s):
            raise ValueError(f"{len(http.came_s)} pieces over HTTP, {len(run.came_s)} without")
        rates.append(http.rate / run.rate)
        cpu.append(http_s / run_s)
        first_ms.append(1e3 * (http.ttft_s - run.ttft_s))
    return [
        ("tokens/s over HTTP / without, one user, median of pairs", _median(rates)),
        ("CPU time of all processes over HTTP / without", _median(cpu)),
        ("first token over HTTP - without, ms", _median(first_ms)),
    ]


async def streams(url: str, nodes: Nodes, seconds: float) -> list[Row]:
    """Return the rows of N_STREAMS clients that ask again as soon as they are answered."""
    failures: list[str] = []
    ends_at = time.perf_counter() + seconds

    async def answers(http: httpx2.AsyncClient, number: int) -> list[Stream]:
        done: list[Stream] = []
        while time.perf_counter() < ends_at:
            messages = [{"role": "user", "content": _question(number, len(done))}]
            try:
                done.append(
                    await ask(http, "/v1/chat/completions", {"messages": messages, "max_tokens": ANSWER_TOKENS})
                )
            except (httpx2.HTTPError, ValueError) as error:
                failures.append(str(error))
        return done

    async with client(url) as http, asyncio.TaskGroup() as tasks:
        sampling = tasks.create_task(_memory(nodes, ends_at))
        clients = [tasks.create_task(answers(http, number)) for number in range(N_STREAMS)]
    at_s, mib = np.array(sampling.result()).T
    settled = at_s > at_s[0] + SETTLED * seconds
    slope = float(np.polyfit(at_s[settled], mib[settled], 1)[0])
    of_clients = [task.result() for task in clients]
    pieces = [sum(came <= ends_at for stream in done for came in stream.came_s) for done in of_clients]
    every = [stream for done in of_clients for stream in done if stream.came_s]
    gaps_s = [b - a for stream in every for a, b in itertools.pairwise(stream.came_s)]
    return [
        (f"{N_STREAMS} streams for {seconds:g} s: answers, failures", f"{len(every)}, {len(failures)} {failures[:1]}"),
        ("tokens/s of all", f"{sum(pieces) / seconds:.1f}"),
        ("tokens of the slowest stream / of the fastest", f"{min(pieces)} / {max(pieces)}"),
        ("first token, p50 and p99, s", percentiles([stream.ttft_s for stream in every])),
        ("token to token, p50 and p99, s", percentiles(gaps_s)),
        ("memory of all processes, at the start and the end, MiB", f"{mib[0]:.0f}, {mib[-1]:.0f}"),
        ("its slope after a third of the time, MiB a minute", f"{60 * slope:+.1f}"),
    ]


async def shared_prefix(url: str) -> list[Row]:
    """Return the rows of the time to the first token where PREFIX_TOKENS of the prompt were read before."""
    same, other = [], []
    for number in range(PREFIXES):
        prefix = "".join(np.random.default_rng(number).choice(list("abcdefgh "), PREFIX_TOKENS))
        body: dict[str, Any] = {"max_tokens": 1}
        first_s = await _whole_s(url, "/v1/completions", body | {"prompt": f"{prefix} one question"})
        same_s = await _whole_s(url, "/v1/completions", body | {"prompt": f"{prefix} another question"})
        raw = {"raw": True, "stream": False, "options": {"num_predict": 1}, "prompt": f"{prefix} what a third one asks"}
        other_s = await _whole_s(url, "/api/generate", raw, "127.0.0.2")
        same.append(same_s / first_s)
        other.append(other_s / first_s)
    what = f"first token after a shared prefix of {PREFIX_TOKENS:,} tokens / without"
    return [
        (f"{what}: the same API and client", _median(same)),
        (f"{what}: Ollama's API, another address", _median(other)),
    ]


async def ask(http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Stream:
    """Read a streamed answer of an API of OpenAI to its end. Raises httpx2.HTTPError, ValueError if it fails."""
    stream, is_done = Stream(), False
    async with http.stream("POST", path, json=body | {"stream": True}) as response:
        if response.status_code != 200:
            raise ValueError((await response.aread()).decode())
        async for event in _events(response):
            is_done = event == "[DONE]"
            said = {} if is_done else json.loads(event)
            if "error" in said:
                raise ValueError(event)
            for choice in said.get("choices", ()):
                if choice.get("text") or choice.get("delta", {}).get("content"):
                    stream.came_s.append(time.perf_counter())
    if not is_done:
        raise ValueError(f"the stream ended after {len(stream.came_s)} pieces without its last event")
    return stream


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


async def _alone(url: str, path: str, body: dict[str, Any]) -> Stream:
    async with client(url) as http:
        await http.get("/health")  # the connection is there, as the other client's
        return await ask(http, path, body)


async def _whole_s(url: str, path: str, body: dict[str, Any], address: str = "127.0.0.1") -> float:
    async with client(url, address) as http:
        await http.get("/health")
        began = time.perf_counter()
        (await http.post(path, json=body)).raise_for_status()
        return time.perf_counter() - began


def client(url: str, address: str = "127.0.0.1") -> httpx2.AsyncClient:
    """Return a client at an address of this machine that waits as long as it takes."""
    limits = httpx2.Limits(max_connections=N_STREAMS)
    transport = httpx2.AsyncHTTPTransport(local_address=address, limits=limits)
    return httpx2.AsyncClient(base_url=url, timeout=None, transport=transport)


async def _memory(nodes: Nodes, ends_at: float) -> list[tuple[float, float]]:
    """Sample the resident memory of the daemons and their children, in MiB, until a time."""
    samples = []
    while (now := time.perf_counter()) < ends_at:
        processes = [process for daemon in nodes.daemons for process in (daemon, *daemon.children(recursive=True))]
        samples.append((now, sum(_resident_bytes(process) for process in processes) / 2**20))
        await asyncio.sleep(SAMPLE_S)
    return samples


def _cpu_s(nodes: Nodes) -> float:
    """Return the CPU time of this process, and of the daemons and their children."""
    times = [p.cpu_times() for daemon in nodes.daemons for p in (daemon, *daemon.children(recursive=True))]
    return time.process_time() + sum(spent.user + spent.system for spent in times)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # a process that rendered a template has ended
        return 0


def _question(user: int, number: int) -> str:
    return f"Tell me a story about {SUBJECTS[(user + number) % len(SUBJECTS)]}. {user}.{number}"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def percentiles(values: Sequence[float]) -> str:
    """Return the median and the 99th percentile."""
    p50, p99 = np.percentile(values, [50, 99])
    return f"{p50:.3f}, {p99:.3f}"


if __name__ == "__main__":
    main(*(kind(argument) for kind, argument in zip((float, int), sys.argv[1:], strict=False)))
