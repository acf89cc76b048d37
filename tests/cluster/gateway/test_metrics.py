"""Metrics: what Prometheus reads, and the dashboard of Grafana that draws it."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import prometheus_client.parser

from cluster.client import ClusterStatus, Holding, NodeState, NodeStatus, WorkerStats
from cluster.gateway.metrics import Metrics
from cluster.gateway.turns import Turns
from cluster.membership.membership import LinkSpeed
from tests.cluster.membership.test_membership import info

DASHBOARD = Path(__file__).parents[3] / "examples" / "grafana" / "moe-cluster.json"

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

FIRST = WorkerStats(10, compute_s=4.0, idle_s=6.0, away_s=5.0, kv_positions=50, kv_budget_positions=200)
SECOND = WorkerStats(9, compute_s=3.0, held_s=3.5, decode_batches={1: 5, 3: 4}, expert_load={2: (0.5, 1.5)})


def status(*stats: WorkerStats) -> ClusterStatus:
    """Return a cluster whose nodes each run a stage, the first one coordinates."""
    nodes = tuple(
        NodeStatus(
            info(n + 1),
            f"mac-{n}",
            NodeState.PRESENT,
            None,
            Holding("demo", 3, n, range(n, n + 1), 8, leads=True, coordinates=n == 0, weights_bytes=100, stats=counted),
            {info(2 - n).node_id: LinkSpeed(0.001, 1e9)},
        )
        for n, counted in enumerate(stats)
    )
    return ClusterStatus("c", False, nodes, None, "", ())


def values(metrics: bytes) -> dict[tuple[str, ...], float]:
    """Return the samples by their name and the values of their labels, in the order of the labels' names."""
    families = prometheus_client.parser.text_string_to_metric_families(metrics.decode())
    return {(s.name, *(s.labels[n] for n in sorted(s.labels))): s.value for family in families for s in family.samples}


def exposed(metrics: bytes) -> set[str]:
    """Return the names that expressions may use."""
    families = prometheus_client.parser.text_string_to_metric_families(metrics.decode())
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ())}


def used(dashboard: dict[str, Any]) -> Collection[str]:
    """Return the names of metrics in the expressions of a dashboard."""
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert expressions
    return {name for text in expressions for name in re.findall(r"[a-z_]+:[a-z0-9_]+", text)}


def test_bubbles_and_hops_follow_from_what_the_stages_count() -> None:
    shown = values(Metrics(Turns()).text(status(FIRST, SECOND)))
    assert shown["moe_cluster:active_seconds_total",] == 10.0
    assert shown["moe_cluster:stage_bubble_seconds_total", "mac-0", "0"] == 6.0
    assert shown["moe_cluster:stage_bubble_seconds_total", "mac-1", "1"] == 7.0
    assert shown["moe_cluster:hop_seconds_total",] == 1.5
    assert shown["vllm:kv_cache_usage_perc",] == 0.25
    assert shown["moe_cluster:decode_batch_size_bucket", "2", "mac-1", "1"] == 5
    assert shown["moe_cluster:decode_batch_size_bucket", "4", "mac-1", "1"] == 9
    assert shown["moe_cluster:decode_batch_size_sum", "mac-1", "1"] == 17
    assert shown["moe_cluster:expert_load_max", "mac-1", "1"] == 1.5
    assert shown["moe_cluster:link_latency_seconds", "mac-0", "mac-1"] == 0.001


def test_what_this_process_counts_is_there_without_a_node() -> None:
    metrics = Metrics(Turns())
    metrics.text(status(FIRST))
    shown = exposed(metrics.text(None))
    assert "vllm:generation_tokens_total" in shown
    assert "moe_cluster:active_seconds_total" not in shown


def test_no_series_is_there_twice() -> None:
    shown = Metrics(Turns()).text(status(FIRST, SECOND)).decode().splitlines()
    series = [line.rpartition(" ")[0] for line in shown if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_every_expression_of_the_dashboard_has_its_metric() -> None:
    assert used(json.loads(DASHBOARD.read_text())) <= exposed(Metrics(Turns()).text(status(FIRST, SECOND)))


def test_no_panels_of_the_dashboard_overlap_and_ids_are_unique() -> None:
    panels: Sequence[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
