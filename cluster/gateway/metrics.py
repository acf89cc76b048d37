"""Metrics: what Prometheus reads at /metrics; vLLM's names where it has them, so that its dashboards fit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cluster.client import ClusterStatus
from cluster.gateway.answering import End, Piece, Prefill
from cluster.gateway.cluster_metrics import ClusterMetrics
from cluster.gateway.turns import Turns
from mlx_moe.errors import MoeClusterError

_TTFT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)
_ANSWER_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

MOST_DEPTH = 16
"""From this depth on drafts are counted together."""

RATE_S = 2.0
RECENT_S = 60.0


class Metrics:
    """The gateway's counts and times since it started."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.registry = CollectorRegistry()
        self._written_at: deque[float] = deque(maxlen=10_000)
        self._recent_ttft: deque[tuple[float, float]] = deque(maxlen=100)
        running = Gauge("vllm:num_requests_running", "Requests that are being answered", registry=self.registry)
        running.set_function(lambda: turns.running)
        waiting = Gauge("vllm:num_requests_waiting", "Requests that wait for their turn", registry=self.registry)
        waiting.set_function(lambda: turns.waiting)
        self._prompt = self._counter("vllm:prompt_tokens", "Tokens of prompts")
        self._generated = self._counter("vllm:generation_tokens", "Tokens of answers")
        self._queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens that were looked for in the KV cache")
        self._hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens that were in the KV cache")
        self._ended = Counter(
            "vllm:request_success", "Answers by how they ended", ["finished_reason"], registry=self.registry
        )
        self._failed = Counter("moe_cluster:request_failure", "Failures by code", ["code"], registry=self.registry)
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "Time to the first token", _TTFT_S)
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Time from token to token", _TOKEN_S)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Time of a whole answer", _ANSWER_S)
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Drafts that were sent")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Drafts that were right")
        self._by_depth = Counter(
            "moe_cluster:drafts",
            "Drafts that were compared with the model's token",
            ["depth", "result"],
            registry=self.registry,
        )
        self._waited = self._counter("moe_cluster:recovery_seconds", "Time that answers waited for lost nodes")
        self._recovered = self._counter("moe_cluster:recovered_answers", "Answers that outlived a lost node")
        self._cluster = ClusterMetrics()
        self.registry.register(self._cluster)

    async def measured(self, events: AsyncIterator[Prefill | Piece | End]) -> AsyncIterator[Prefill | Piece | End]:
        """Yield the events of an answer and measure them."""
        began = last = time.monotonic()
        n_tokens = 0
        try:
            async with aclosing(events) as answer:  # type: ignore[type-var]
                async for event in answer:
                    now = time.monotonic()
                    if isinstance(event, Piece):
                        (self._between if n_tokens else self._ttft).observe(now - last)
                        self._written_at.append(now)
                        if not n_tokens:
                            self._recent_ttft.append((now, now - last))
                        n_tokens, last = n_tokens + 1, now
                    elif isinstance(event, End):
                        self._end(event, now - began)
                    yield event
        except MoeClusterError as error:
            self._failed.labels(error.code).inc()
            raise

    def summary(self) -> dict[str, float]:
        """Return counts of this gateway's requests, the mean of recent times, and tokens per second now."""
        now = time.monotonic()
        recent = [(at, seconds) for at, seconds in self._recent_ttft if now - at <= RECENT_S]
        written = sum(1 for at in self._written_at if now - at <= RATE_S)
        return {
            "running": self._turns.running,
            "waiting": self._turns.waiting,
            "ttft_s": round(sum(s for _, s in recent) / len(recent), 3) if recent else 0.0,
            "tokens_per_s": round(written / RATE_S, 1),
        }

    def text(self, status: ClusterStatus | None) -> bytes:
        """Return all metrics in Prometheus' text format; None if the cluster's status is not known."""
        self._cluster.status = status
        return generate_latest(self.registry)

    def _end(self, end: End, seconds: float) -> None:
        stats = end.stats
        self._whole.observe(seconds)
        self._ended.labels(end.finish_reason).inc()
        self._prompt.inc(stats.prompt_tokens)
        self._generated.inc(stats.generated_tokens)
        self._queries.inc(stats.prompt_tokens)
        self._hits.inc(stats.cached_tokens)
        self._drafted.inc(stats.drafted)
        self._accepted.inc(stats.accepted)
        for depth, (compared, right) in enumerate(
            zip(stats.compared_by_depth, stats.accepted_by_depth, strict=True), 1
        ):
            shown = str(depth) if depth < MOST_DEPTH else f"{MOST_DEPTH}+"
            self._by_depth.labels(shown, "right").inc(right)
            self._by_depth.labels(shown, "wrong").inc(compared - right)
        if stats.waited_s:
            self._waited.inc(stats.waited_s)
            self._recovered.inc()

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self.registry)
