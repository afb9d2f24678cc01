"""POST /api/sync-event and GET /api/device/{id}/sync-history."""

from __future__ import annotations

from aiohttp import web

from cloud.api import access, answers, params, payload
from cloud.api.shapes import SyncEventOut
from cloud.flows import identity, lists
from cloud.rules import intake, times
from cloud.rules.access import Principal
from cloud.rules.admit import Recorded, Unit
from cloud.rules.facts import SyncFact
from cloud.services import SERVICES, Services
from cloud.store.db import Row
from pisyncd.core import problems, wire

STATUSES = ("success", "partial", "failed")


async def device_of(services: Services, principal: Principal, device_id: str) -> int:
    """The internal key of the device that a body or path names. Raises Refusal 403, 404."""
    if principal.kind == "device":
        if principal.name != device_id:
            raise problems.ownership_mismatch(device_id)
        return principal.dk
    async with services.db.reading() as tx:
        return await identity.device_key(tx, device_id)


async def post_sync_event(request: web.Request) -> web.Response:
    """201 with the event as kept, 200 for a repeat. Raises Refusal 400, 403, 404, 409, 422."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, role="operator")
    body = await payload.read(request)
    event = intake.decode_sync_event(body)
    dk = await device_of(services, principal, event.device_id)
    fact = intake.sync_fact(event, body.decode("utf-8"))
    taken = await services.ingest.take(Unit(dk=dk, facts=(fact,)))
    outcome = taken.outcomes[0]
    if outcome.recorded is None:
        raise problems.id_conflict(fact.event_id)
    data = _received(event.device_id, fact, outcome.recorded)
    return answers.ok(request, data, status=201 if outcome.status == "synced" else 200, next=services.pacing)


def _received(device_id: str, fact: SyncFact, recorded: Recorded) -> SyncEventOut:
    return SyncEventOut(
        event_id=fact.event_id,
        device_id=device_id,
        timestamp=fact.timestamp,
        occurred_at=wire.rfc3339(recorded.occurred_at_ms),
        received_at=wire.rfc3339(recorded.received_at_ms),
        time_flags=times.flag_names(recorded.time_flags),  # type: ignore[arg-type]
        total_files_synced=fact.files,
        total_errors=fact.errors,
        internet_speed=fact.speed_mbps,
        sync_status=recorded.status,
        consecutive_failures=recorded.consecutive_failures,
        seq=fact.seq,
        error_code=fact.error_code,
        bytes_sent=fact.bytes_sent,
        duration_ms=fact.duration_ms,
        queue_depth=fact.queue_depth,
        last_updated_at=wire.rfc3339(recorded.received_at_ms),
    )


def kept(device_id: str, row: Row) -> SyncEventOut:
    """A row of the history."""
    return SyncEventOut(
        event_id=row["event_id"],
        device_id=device_id,
        timestamp=row["sent_timestamp"],
        occurred_at=wire.rfc3339(row["occurred_at_ms"]),
        received_at=wire.rfc3339(row["received_at_ms"]),
        time_flags=times.flag_names(row["time_flags"]),  # type: ignore[arg-type]
        total_files_synced=row["files_synced"],
        total_errors=row["errors"],
        internet_speed=row["speed_mbps"],
        sync_status=row["status"],
        consecutive_failures=row["consecutive_failures"],
        seq=row["seq"],
        error_code=row["error_code"],
        bytes_sent=row["bytes_sent"],
        duration_ms=row["duration_ms"],
        queue_depth=row["queue_depth"],
        last_updated_at=wire.rfc3339(row["received_at_ms"]),
    )


async def get_history(request: web.Request) -> web.Response:
    """200 with a page, newest first. Raises Refusal 401, 403, 404, 422."""
    services = request.app[SERVICES]
    device_id = request.match_info["device_id"]
    principal = await access.require(request, device=device_id, role="viewer")
    page = params.page(request)
    span = lists.Span(
        from_ms=params.moment(request, "from", lists.ALWAYS.from_ms),
        to_ms=params.moment(request, "to", lists.ALWAYS.to_ms),
        status=params.choice(request, "status", STATUSES),
    )
    async with services.db.reading() as tx:
        dk = principal.dk or await identity.device_key(tx, device_id)
        rows, total = await lists.history(tx, dk, span, before=page.before, limit=page.limit, offset=page.offset)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    cursor = params.cursor_after(rows[-1]["occurred_at_ms"], rows[-1]["id"]) if more else None
    return answers.ok(
        request,
        [kept(device_id, row) for row in rows],
        pagination=answers.pagination(page.number, page.limit, total, cursor),
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/api/sync-event", post_sync_event)
    app.router.add_get("/api/device/{device_id}/sync-history", get_history)
    app.router.add_get("/api/devices/{device_id}/sync-history", get_history)
