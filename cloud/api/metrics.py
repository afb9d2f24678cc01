"""GET /metrics, and what the edge reports of every answer."""

from __future__ import annotations

from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cloud.api import access, keys
from cloud.services import SERVICES

#: Where items come in, so that a body that cannot be taken at all counts as one refused item.
_INTAKE = frozenset({"/api/sync-event", "/api/telemetry/batch", "/api/telemetry/track", "/v1/telemetry/events"})
_CONTENT_REFUSED = frozenset({400, 413, 415, 422})
UNMATCHED = "unmatched"


async def get_metrics(request: web.Request) -> web.Response:
    """200 with all figures as text. Raises Refusal 401, 403 unless metrics_open."""
    services = request.app[SERVICES]
    if not services.settings.metrics_open:
        await access.require(request, role="viewer")
    # Always the plain format: what a client names in Accept would come back in the header of the answer.
    headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4, hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=services.figures.text(), headers=headers)


def note(request: web.Request, status: int, seconds: float) -> None:
    """Counts an answer."""
    figures = request.app[SERVICES].figures
    resource = request.match_info.route.resource
    route = UNMATCHED if resource is None else resource.canonical
    code = request.get(keys.PROBLEM)
    figures.answered(request.method, route, status, seconds, code)
    if code is not None and status in _CONTENT_REFUSED and request.method == hdrs.METH_POST and route in _INTAKE:
        figures.rejected((code,))


def setup(app: web.Application) -> None:
    """Adds the route."""
    app.router.add_get("/metrics", get_metrics)
