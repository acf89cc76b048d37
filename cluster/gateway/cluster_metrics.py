"""Cluster metrics: what the workers of the served model count, for Prometheus; at most a few series for each node."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from cluster.client import ClusterStatus, Holding

BATCHES = (1, 2, 4, 8, 16, 32, 64)

_Stages = list[tuple[str, Holding]]


class ClusterMetrics:
    """A collector: reads `status`, which is set before. What a worker counts begins anew when it does."""

    status: ClusterStatus | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all nodes, links and stages; those of the coordinator only while a model is loaded."""
        status = self.status
        if status is None:
            return
        yield from _of_nodes(status)
        held = ((node.shown_name, node.holding) for node in status.nodes if node.is_here)
        stages = sorted(
            ((name, h) for name, h in held if h is not None), key=lambda named: (named[1].stage, not named[1].leads)
        )
        yield from _of_workers(stages)
        leaders = [(name, holding) for name, holding in stages if holding.leads]
        if any(holding.coordinates for _, holding in leaders):
            yield from _of_coordinator(leaders)


def _of_nodes(status: ClusterStatus) -> Iterator[Metric]:
    present = GaugeMetricFamily("moe_cluster:node_present", "Whether a node is present", labels=["node"])
    for node in status.nodes:
        present.add_metric([node.shown_name], node.is_here)
    yield present
    latency = GaugeMetricFamily("moe_cluster:link_latency_seconds", "One way, as measured", labels=["from", "to"])
    for node in status.here.values():
        for other, link in node.links.items():
            if other in status.here:
                latency.add_metric([node.shown_name, status.name(other)], link.latency_s)
    yield latency


def _of_workers(stages: _Stages) -> Iterator[Metric]:
    read = CounterMetricFamily(
        "moe_cluster:weights_read_bytes", "Bytes of weights that were read", labels=["node", "source"]
    )
    memory = GaugeMetricFamily("moe_cluster:memory_bytes", "Memory of the workers", labels=["node", "what"])
    for name, holding in stages:
        stats = holding.stats
        for source, nbytes in {"disk": stats.disk_bytes, "peer": stats.peer_bytes, "hub": stats.hub_bytes}.items():
            read.add_metric([name, source], nbytes)
        for what, nbytes in {"weights": holding.weights_bytes, "kv": stats.kv_bytes}.items():
            memory.add_metric([name, what], nbytes)
    yield read
    yield memory


def _of_coordinator(leaders: _Stages) -> Iterator[Metric]:
    of_first = next(holding.stats for _, holding in leaders if holding.coordinates)
    yield GaugeMetricFamily(
        "vllm:kv_cache_usage_perc",
        "Share of the KV cache's positions that are kept, 1 is all",
        of_first.kv_positions / of_first.kv_budget_positions if of_first.kv_budget_positions else 0.0,
    )
    active_s = of_first.compute_s + of_first.idle_s
    yield CounterMetricFamily("moe_cluster:active_seconds", "Time with an unfinished answer", active_s)
    yield CounterMetricFamily("moe_cluster:recoveries", "How often answers went on after a loss", of_first.recoveries)
    yield CounterMetricFamily(
        "moe_cluster:recovery_wait_seconds", "What answers waited for that, added up", of_first.waited_s
    )
    yield CounterMetricFamily(
        "moe_cluster:replayed_tokens", "Positions that were computed again for that", of_first.replayed_positions
    )
    hops_s = of_first.away_s - sum(holding.stats.held_s for _, holding in leaders if not holding.coordinates)
    yield CounterMetricFamily("moe_cluster:hop_seconds", "Time of frames in the hops of all stages", max(0.0, hops_s))
    labels = ["stage", "node"]
    compute = CounterMetricFamily("moe_cluster:stage_compute_seconds", "Time in which a stage computed", labels=labels)
    bubble = CounterMetricFamily(
        "moe_cluster:stage_bubble_seconds", "Time with an unfinished answer in which a stage did not", labels=labels
    )
    frames = CounterMetricFamily("moe_cluster:stage_frames", "Frames that a stage computed", labels=labels)
    positions = CounterMetricFamily("moe_cluster:stage_positions", "Positions that a stage computed", labels=labels)
    hop_bytes = CounterMetricFamily(
        "moe_cluster:hop_bytes", "Bytes that a stage sent to the next, or exchanged for experts", labels=[*labels, "to"]
    )
    skew = GaugeMetricFamily(
        "moe_cluster:expert_load_max", "The most chosen expert of a stage's layers against their mean", labels=labels
    )
    batches = HistogramMetricFamily("moe_cluster:decode_batch_size", "Answers in a decode step", labels=labels)
    for name, holding in leaders:
        stats, stage = holding.stats, [str(holding.stage), name]
        compute.add_metric(stage, stats.compute_s)
        bubble.add_metric(stage, max(0.0, active_s - stats.compute_s))
        frames.add_metric(stage, stats.frames)
        positions.add_metric(stage, stats.positions)
        hop_bytes.add_metric([*stage, "next"], stats.sent_bytes)
        hop_bytes.add_metric([*stage, "experts"], stats.expert_bytes)
        skew.add_metric(stage, max((max(load) for load in stats.expert_load.values()), default=0.0))
        counts = stats.decode_batches
        buckets = [(str(most), sum(n for size, n in counts.items() if size <= most)) for most in BATCHES]
        buckets.append(("+Inf", sum(counts.values())))
        batches.add_metric(stage, buckets, sum(size * n for size, n in counts.items()))
    yield from (compute, bubble, frames, positions, hop_bytes, skew, batches)
