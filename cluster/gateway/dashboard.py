"""Dashboard: the page at /, and the endpoints by which it, or any program, watches and changes the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from cluster.client import ClusterStatus, NodeClient, Wanted
from cluster.cost_reader import read_costs
from cluster.errors import NotFoundError
from cluster.gateway import cluster_view, openai_errors
from cluster.gateway.asking import json_response
from cluster.gateway.events import event
from cluster.gateway.failures import Failure
from cluster.gateway.guard import body_of
from cluster.gateway.metrics import Metrics
from cluster.gateway.question import read
from cluster.gateway.served import Served
from cluster.placement import predict, solve
from mlx_moe.checkpoint import library
from mlx_moe.errors import InvalidRequestError, MoeClusterError

PAGE = Path(__file__).parent / "page"
FILES = {"": "index.html", "dashboard.css": "dashboard.css", "dashboard.js": "dashboard.js", "chat.js": "chat.js"}

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " + (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere: what a model writes cannot become a script."""

EVERY_S = 1.0
"""How often the state is sent; nodes hear of each other as often."""

CONTEXT = 8192


class ModelBody(msgspec.Struct):
    """A model to plan for or to load."""

    model: str
    replace: bool | None = None
    download: bool | None = None


class Dashboard:
    """The page and its endpoints."""

    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served = served
        self._metrics = metrics

    async def page(self, request: Request) -> Response:
        """Return the page, or one of its files."""
        name = FILES.get(request.path_params.get("name", ""))
        if name is None:
            raise NotFoundError(f"{request.url.path[:200]}: there is no such file")
        headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
        return FileResponse(PAGE / name, headers=headers)

    async def cluster(self, _request: Request) -> Response:
        """Return the state of the cluster."""
        return json_response(await self._state())

    async def events(self, _request: Request) -> Response:
        """Stream the state of the cluster, once a second."""
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def experts(self, _request: Request) -> Response:
        """Return how often each expert of the model was chosen."""
        return json_response({"layers": cluster_view.of_experts(await self._served.status())})

    async def models(self, _request: Request) -> Response:
        """List the models on the disks of the cluster."""
        node = await self._served.node()
        return json_response({"models": cluster_view.of_models(await node.models())})

    async def plan(self, request: Request) -> Response:
        """Return who would hold what of a model, and how fast it would answer, without loading it."""
        body = read(await body_of(request), ModelBody)
        return json_response(await asyncio.to_thread(_plan, body.model, await self._served.status()))

    async def load(self, request: Request) -> Response:
        """Load a model; stream the progress. Loading goes on if the client goes away."""
        body = read(await body_of(request), ModelBody)
        node = await self._served.node()
        wanted = Wanted(body.model, replace=bool(body.replace), download=bool(body.download))
        return StreamingResponse(_loading(node, wanted), media_type="text/event-stream")

    async def unload(self, _request: Request) -> Response:
        """Unload the model of the cluster."""
        node = await self._served.node()
        return json_response({"unloaded": await node.unload("it was unloaded from the dashboard")})

    async def _state(self) -> dict[str, Any]:
        status = await self._served.status()
        return {**cluster_view.of_status(status), "requests": self._metrics.summary()}

    async def _stream(self) -> AsyncIterator[bytes]:
        while True:
            try:
                yield event(await self._state())
            except MoeClusterError as error:  # the node is ending or starting: it may come back
                yield event(openai_errors.error_body(Failure.of(error)))
            await asyncio.sleep(EVERY_S)


def _plan(model: str, status: ClusterStatus) -> dict[str, Any]:
    try:
        library.locate(model)
    except InvalidRequestError as missing:
        raise InvalidRequestError(f"{missing}: the plan is shown while it is loaded") from missing
    costs = read_costs(model, float_bytes=status.float_bytes)
    nodes, links = status.capacities(), status.links()
    context_tokens = min(CONTEXT, costs.context.tokens)
    placement = solve(costs, nodes, links, context_tokens=context_tokens, concurrency=1)
    names = {node.node_id: node.name for node in nodes}
    return cluster_view.of_plan(placement, costs, predict(placement, costs, nodes, links), names)


async def _loading(node: NodeClient, wanted: Wanted) -> AsyncIterator[bytes]:
    try:
        async with aclosing(node.load(wanted)) as steps:
            async for status in steps:
                yield event({"nodes": cluster_view.of_progress(status.nodes)})
        yield event({"ready": True})
    except MoeClusterError as error:
        yield event(openai_errors.error_body(Failure.of(error)))
