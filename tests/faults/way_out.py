"""The way out of a node for tests: its daemon and its worker dial other nodes through a proxy that the test runs."""

from __future__ import annotations

import functools
import os

from cluster.daemon import worker_host
from cluster.trust import credentials

VARIABLE = "MOE_CLUSTER_TEST_PROXY"
"""HOST:PORT of the proxy."""


def use() -> None:
    """Open all channels of this process through the proxy in VARIABLE, and start workers that do; without one, none."""
    proxy = os.environ.get(VARIABLE)
    if proxy is None:
        return
    others = [option for option in credentials.CHANNEL_OPTIONS if option[0] != "grpc.enable_http_proxy"]
    through = (("grpc.enable_http_proxy", 1), ("grpc.http_proxy", f"http://{proxy}"))
    credentials.CHANNEL_OPTIONS = (*others, *through)  # type: ignore[misc]
    worker_host.worker_process = functools.partial(  # type: ignore[attr-defined]
        worker_host.worker_process,  # type: ignore[attr-defined]
        module="tests.faults.worker",
    )
