"""POST /api/telemetry/batch, GET /api/telemetry/status and /batches."""

from __future__ import annotations

from aiohttp import web

from cloud.api import access, answers, params, payload
from cloud.api.shapes import BatchLogOut, SyncStatusOut, TelemetryStatus
from cloud.flows import identity
from cloud.flows.ingest import BatchNote, Taken
from cloud.rules import intake
from cloud.rules.access import Principal
from cloud.rules.admit import Unit
from cloud.services import SERVICES, Services
from cloud.store.db import Row
from pisyncd.core import problems, wire

_SETTLED = frozenset({"synced", "duplicate"})


async def post_batch(request: web.Request) -> web.Response:
    """200 with what became of every item. Raises Refusal 400, 401, 403, 413, 422 for the batch as a whole."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True)
    batch = intake.decode_batch(await payload.read(request))
    sent_ms = None if batch.sentAt is None else problems.moment(batch.sentAt, "sentAt")
    facts = tuple(
        intake.item_fact(
            bytes(raw), device_id=principal.device_id, batch_id=batch.batchId, index=index, sent_ms=sent_ms
        )
        for index, raw in enumerate(batch.items)
    )
    taken = await services.ingest.take(Unit(dk=principal.dk, facts=facts), BatchNote(batch_id=batch.batchId))
    brief = "return=minimal" in request.headers.get("Prefer", "").replace(" ", "").lower()
    answer = wire.BatchAnswer(success=True, data=_outcome(taken, brief=brief), next=services.pacing)
    headers = {"Cache-Control": "no-store", **({"Preference-Applied": "return=minimal"} if brief else {})}
    return answers.json(answer, headers=headers)


def _outcome(taken: Taken, *, brief: bool) -> wire.BatchOutcome:
    at = wire.rfc3339(taken.received_at_ms)
    counts = dict.fromkeys(("synced", "duplicate", "failed", "conflict"), 0)
    for outcome in taken.outcomes:
        counts[outcome.status] += 1
    return wire.BatchOutcome(
        processed=len(taken.outcomes),
        successful=counts["synced"] + counts["duplicate"],
        failed=counts["failed"],
        conflicts=counts["conflict"],
        duplicates=counts["duplicate"],
        results=[
            wire.ItemResult(itemId=outcome.item_id, status=outcome.status, timestamp=at, code=outcome.code)
            for outcome in taken.outcomes
            if not brief or outcome.status not in _SETTLED
        ],
        syncTime=at,
        receivedThrough=taken.marks,
    )


async def _asked_device(request: web.Request, services: Services) -> int:
    """The device itself, or the one that a viewer names by ?device_id=."""
    device_id = request.query.get("device_id", "")
    principal: Principal = await access.require(request, device=device_id or True, role="viewer")
    if principal.kind == "device":
        return principal.dk
    if not device_id:
        raise problems.invalid("query:device_id", "required", "device_id says which device is asked about")
    async with services.db.reading() as tx:
        return await identity.device_key(tx, device_id)


async def get_status(request: web.Request) -> web.Response:
    """200 with how a device's messages fare. Raises Refusal 401, 403, 404, 422."""
    services = request.app[SERVICES]
    dk = await _asked_device(request, services)
    async with services.db.reading() as tx:
        state = await tx.one("device_state_by_dk", dk=dk)
        totals = await tx.one("batch_totals", dk=dk)
        rejected = await tx.one("last_rejected", dk=dk)
        marks = await tx.all("stream_marks_of", dk=dk)
    assert state is not None
    assert totals is not None
    through = {mark["stream"]: mark["received_through"] for mark in marks}
    return answers.json(TelemetryStatus(syncStatus=_status(state, totals, rejected, through)))


def _status(state: Row, totals: Row, rejected: Row | None, through: dict[str, int]) -> SyncStatusOut:
    items = int(totals["items"])
    rate = int(totals["accepted"]) / items if items else 1.0
    failing = state["consecutive_failures"] > 0 or rate < 0.95
    last = max(filter(None, (totals["last_at_ms"], state["last_seen_at_ms"])), default=None)
    poor = state["alert_opened_at_ms"] is not None or rate < 0.8
    return SyncStatusOut(
        lastSyncTime=answers.time_or_none(last),
        pendingItems=state["last_queue_depth"] or 0,
        totalItems=items,
        syncHealth="unknown" if last is None else "poor" if poor else "degraded" if failing else "good",
        successRate=round(rate, 4),
        avgSyncDuration=round(float(totals["duration_ms"]), 1),
        lastError=rejected["code"] if rejected else state["last_error_code"],
        receivedThrough=through,
    )


async def get_batches(request: web.Request) -> web.Response:
    """200 with a page of the batch log, newest first. Raises Refusal 401, 403, 404, 422."""
    services = request.app[SERVICES]
    dk = await _asked_device(request, services)
    page = params.page(request, limit=50)
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with services.db.reading() as tx:
        rows = await tx.all(
            "batches_page", dk=dk, before_id=before_id, row_limit=page.limit + 1, row_offset=page.offset
        )
        total = await tx.value("batches_count", dk=dk)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    return answers.ok(
        request,
        [_logged(row) for row in rows],
        pagination=answers.pagination(page.number, page.limit, total, cursor),
    )


def _logged(row: Row) -> BatchLogOut:
    bad = row["failed"] + row["conflicts"]
    return BatchLogOut(
        batchId=row["batch_id"],
        itemCount=row["items"],
        successCount=row["successful"] + row["duplicates"],
        failureCount=row["failed"],
        conflictCount=row["conflicts"],
        duplicateCount=row["duplicates"],
        receivedAt=wire.rfc3339(row["received_at_ms"]),
        duration=row["duration_ms"],
        status="success" if not bad else "error" if bad == row["items"] else "partial",
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/api/telemetry/batch", post_batch)
    app.router.add_get("/api/telemetry/status", get_status)
    app.router.add_get("/api/telemetry/batches", get_batches)
