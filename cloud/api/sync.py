"""The sync queue: how full it is, how it fares, and a push from a cron job."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cloud.api import access, answers
from cloud.flows import queue
from cloud.flows.queue import Report
from cloud.services import SERVICES, wall_ms
from pisyncd.core import wire

CRON_HEADER = "x-cron-secret"
PROCESS_S = 25.0


class QueueOut(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of webhooks by state; `total` also counts delivered ones, which are remembered for a while."""

    total: int
    processing: int
    pending: int
    failed: int


class ProcessOut(QueueOut, frozen=True, kw_only=True):
    """The same after the push; `processed`: how many had their turn in it."""

    processed: int


class RecentFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed."""

    at: str
    endpoint: str
    type: str | None
    resource: str
    error: str
    status_code: int | None


class SyncHealthOut(msgspec.Struct, frozen=True, kw_only=True):
    """Over the last 24 hours. `failureRate` of attempts is 0-1, `averageRetries` of deliveries that ended."""

    healthy: bool
    message: str
    failureRate: float
    totalFailures: int
    recentFailures: list[RecentFailure]
    failuresByType: dict[str, int]
    failuresByResource: dict[str, int]
    averageRetries: float
    queue: QueueOut


def _queue(counts: queue.Counts) -> QueueOut:
    return QueueOut(total=counts.total, processing=counts.processing, pending=counts.pending, failed=counts.failed)


async def get_status(request: web.Request) -> web.Response:
    """200 with how many deliveries there are. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        counts = await queue.counts(tx)
    return answers.ok(request, _queue(counts))


async def post_process(request: web.Request) -> web.Response:
    """200 when what was due has had its turn, or after 25 s. Raises Refusal 401, 503."""
    services = request.app[SERVICES]
    queue.require_cron(services.cron_secret, request.headers.get(CRON_HEADER, ""))
    processed = await services.dispatcher.process(timeout_s=PROCESS_S)
    async with services.db.reading() as tx:
        counts = await queue.counts(tx)
    return answers.ok(
        request,
        ProcessOut(
            total=counts.total,
            processing=counts.processing,
            pending=counts.pending,
            failed=counts.failed,
            processed=len(processed),
        ),
    )


async def get_health(request: web.Request) -> web.Response:
    """200 with the queue's health, whatever it is. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    return answers.ok(request, health(await queue.report(request.app[SERVICES].db, wall_ms())))


def health(report: Report) -> SyncHealthOut:
    """The health as it is shown."""
    return SyncHealthOut(
        healthy=report.health.healthy,
        message=report.health.message,
        failureRate=report.health.failure_rate,
        totalFailures=report.total_failures,
        recentFailures=[
            RecentFailure(
                at=wire.rfc3339(row["at_ms"]),
                endpoint=row["endpoint_id"],
                type=row["type"],
                resource=row["resource"],
                error=row["error"],
                status_code=row["status_code"],
            )
            for row in report.recent
        ],
        failuresByType=report.by_type,
        failuresByResource=report.by_resource,
        averageRetries=report.average_retries,
        queue=_queue(report.counts),
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/sync/status", get_status)
    app.router.add_post("/api/sync/process", post_process)
    app.router.add_get("/api/sync/health", get_health)
