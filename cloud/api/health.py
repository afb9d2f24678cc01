"""GET /api/health, /livez and /readyz."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from cloud.api import answers
from cloud.api.boundary import IN_FLIGHT
from cloud.api.shapes import CacheHealth, DatabaseHealth, Health, HealthServices, SchedulerHealth
from cloud.services import SERVICES, Services, wall_ms
from pisyncd.core import wire
from pisyncd.core.errors import TransientError

PING_TIMEOUT_S = 5.0


async def _database(services: Services) -> DatabaseHealth:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PING_TIMEOUT_S), services.db.reading() as tx:
            await tx.value("ping")
    except (TransientError, TimeoutError):
        return DatabaseHealth(status="disconnected", latency=None)
    return DatabaseHealth(status="connected", latency=round((time.perf_counter() - begun) * 1000, 3))


async def get_health(request: web.Request) -> web.Response:
    """200 when the database answers, else 503; latencies are measured for this answer."""
    services = request.app[SERVICES]
    database = await _database(services)
    healthy = database.status == "connected"
    next_ms = services.janitor.next_run_ms
    body = Health(
        status="healthy" if healthy else "unhealthy",
        uptime=int(time.monotonic() - services.started_monotonic),
        services=HealthServices(
            database=database,
            cache=CacheHealth(
                status="connected", evictions=services.identity.evictions, entries=services.identity.remembered
            ),
            scheduler=SchedulerHealth(
                status="stopped" if next_ms is None else "running", nextSync=answers.time_or_none(next_ms)
            ),
        ),
        timestamp=wire.rfc3339(wall_ms()),
    )
    return answers.beside(request, body, status=200 if healthy else 503)


async def get_livez(_request: web.Request) -> web.Response:
    """200 as long as the process answers at all."""
    return web.Response(text="ok\n")


async def get_readyz(request: web.Request) -> web.Response:
    """200 when requests can be served, else 503: the service is stopping, or its database does not answer."""
    if request.app[IN_FLIGHT].draining:
        return web.Response(text="the service is stopping\n", status=503)
    ready = (await _database(request.app[SERVICES])).status == "connected"
    return web.Response(text="ok\n" if ready else "the database does not answer\n", status=200 if ready else 503)


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/health", get_health)
    app.router.add_get("/livez", get_livez)
    app.router.add_get("/readyz", get_readyz)
