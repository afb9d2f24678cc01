"""POST /api/telemetry/track and /batch, POST /v1/telemetry/events, GET /api/telemetry/status and /batches."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from aiohttp import web

from cloud.api import access, answers, commands, keys, params, payload
from cloud.api.shapes import BatchLogOut, ItemTrouble
from cloud.flows import identity
from cloud.flows.ingest import Taken
from cloud.rules import intake, learning
from cloud.rules.access import Principal
from cloud.rules.admit import Clocks, Outcome, Unit
from cloud.rules.facts import AttemptFact, Fact
from cloud.services import SERVICES, Services
from cloud.store.db import Row
from pisyncd.core import envelope, problems, session, track, wire
from pisyncd.core.envelope import Envelope, Rejection

READ_AT_ONCE = 20
_SETTLED = frozenset({"synced", "duplicate"})


async def post_batch(request: web.Request) -> web.Response:
    """200 with what became of every item. Raises Refusal 400, 401, 403, 413, 422, 429 for the batch as a whole."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, user=True)
    batch = intake.decode_batch(await payload.read(request))
    request[keys.RATES] = await services.rates.items(principal, len(batch.items))
    services.figures.batch(len(batch.items))
    sender = intake.Sender(
        device_id=principal.device_id,
        user_id=learner(request, principal) or "",
        batch_id=batch.batchId,
        sent_ms=None if batch.sentAt is None else problems.moment(batch.sentAt, "sentAt"),
        rules=services.records.rules,
    )
    facts = [fact async for fact in _read(batch.items, sender)]
    clocks = Clocks(
        boot_id=batch.sentBootId, boottime_ms=batch.sentBoottimeMs, boots=batch.boots or {}, echo=batch.echo
    )
    unit = Unit(dk=principal.dk, user_id=principal.user_id, facts=facts, batch_id=batch.batchId, clocks=clocks)
    taken = await services.ingest.take(unit)
    brief = "return=minimal" in request.headers.get("Prefer", "").replace(" ", "").lower()
    wanted = await commands.next_of(services, principal)
    answer = wire.BatchAnswer(success=True, data=_outcome(taken, brief=brief), next=wanted)
    return answers.beside(request, answer, headers={"Preference-Applied": "return=minimal"} if brief else None)


async def _read(items: Sequence[msgspec.Raw], sender: intake.Sender) -> AsyncIterator[Fact]:
    """Each item as a fact. A long batch lets others have their turn: reading it whole takes milliseconds."""
    for index, raw in enumerate(items):
        if index % READ_AT_ONCE == READ_AT_ONCE - 1:
            await asyncio.sleep(0)
        yield intake.item_fact(bytes(raw), sender, index)


async def post_track(request: web.Request) -> web.Response:
    """200 with the event's id; a repeat is answered as the first time. Raises Refusal 400, 401, 409, 413, 422, 429."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, user=True)
    body = await payload.read(request)
    event = track.decode(body)
    request[keys.RATES] = await services.rates.items(principal, 1)
    fact = learning.track_fact(event, event.id or secrets.token_hex(16), "", learner(request, principal))
    batch_id = f"track-{secrets.token_hex(8)}"
    unit = Unit(dk=principal.dk, user_id=principal.user_id, facts=(fact,), batch_id=batch_id)
    outcome = (await services.ingest.take(unit)).outcomes[0]
    if outcome.first is None:
        raise problems.id_conflict(fact.item_id)
    data = track.Tracked(
        eventId=fact.item_id,
        serverTimestamp=wire.rfc3339(outcome.first.received_at_ms),
        batchId=outcome.first.batch_id,
    )
    return answers.ok(request, data)


def learner(request: web.Request, principal: Principal) -> str | None:
    """The user that a request speaks of: a user of their own, a device of the one that it names. Raises Refusal 400."""
    if principal.kind == "user":
        return principal.user_id
    return session.named_user(request.headers.get(session.USER_HEADER))


async def post_events(request: web.Request) -> web.Response:
    """200 with how many events were taken; the others are counted, with at most 5 reasons.

    Raises Refusal 400, 401, 413, 422, 429 for the request as a whole.
    """
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, user=True)
    asked = envelope.decode_events(await payload.read(request))
    request[keys.RATES] = await services.rates.items(principal, len(asked.events))
    services.figures.batch(len(asked.events))
    user_id = learner(request, principal)
    judged = [envelope.judge(bytes(raw), source=asked.source, user_id=user_id) for raw in asked.events]
    facts = [AttemptFact(item_id=each.id, event=each, body="") for each in judged if isinstance(each, Envelope)]
    outcomes: Iterator[Outcome] = iter(())
    if facts:
        batch_id = f"events-{secrets.token_hex(8)}"
        unit = Unit(dk=principal.dk, user_id=principal.user_id, facts=facts, batch_id=batch_id)
        outcomes = iter((await services.ingest.take(unit)).outcomes)
    reasons: list[envelope.Reason] = []
    for index, each in enumerate(judged):
        found = each if isinstance(each, Rejection) else next(outcomes)
        if found.code is not None:
            reasons.append(envelope.Reason(index=index, code=found.code, detail=found.detail))
    # The others were counted with their group.
    services.figures.rejected(each.code for each in judged if isinstance(each, Rejection))
    answer = envelope.EventsAnswer(
        accepted=len(judged) - len(reasons),
        rejected=len(reasons),
        rejected_reasons_sample=reasons[: envelope.REASONS_MAX],
    )
    return answers.json(answer)


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
            wire.ItemResult(
                itemId=outcome.item_id,
                status=outcome.status,
                timestamp=at,
                code=outcome.code,
                resolution=outcome.resolution,
            )
            for outcome in taken.outcomes
            if not brief or outcome.status not in _SETTLED
        ],
        syncTime=at,
        receivedThrough=taken.marks,
    )


async def _asked(request: web.Request, services: Services) -> tuple[int, str]:
    """(dk, user_id) of who sends: the device or user itself, or the device that a viewer names by ?device_id=."""
    device_id = request.query.get("device_id", "")
    principal = await access.require(request, device=device_id or True, role="viewer", user=not device_id)
    if principal.kind != "key":
        return principal.dk, principal.user_id
    if not device_id:
        raise problems.invalid("query:device_id", "required", "device_id says which device is asked about")
    async with services.db.reading() as tx:
        return await identity.device_key(tx, device_id), ""


async def get_status(request: web.Request) -> web.Response:
    """200 with how the messages of a device or user fare. Raises Refusal 401, 403, 404, 422."""
    services = request.app[SERVICES]
    dk, user_id = await _asked(request, services)
    async with services.db.reading() as tx:
        state = await tx.one("device_state_by_dk", dk=dk) if dk else None
        totals = await tx.one("batch_totals", dk=dk, user_id=user_id)
        rejected = await tx.one("last_rejected", dk=dk) if dk else None
        marks = await tx.all("stream_marks_of", dk=dk) if dk else []
    assert totals is not None
    through = {mark["stream"]: mark["received_through"] for mark in marks}
    return answers.beside(request, wire.TelemetryStatus(syncStatus=_status(state, totals, rejected, through)))


def _status(state: Row | None, totals: Row, rejected: Row | None, through: dict[str, int]) -> wire.SyncHealth:
    items = int(totals["items"])
    rate = int(totals["accepted"]) / items if items else 1.0
    failing = rate < 0.95 or (state is not None and state["consecutive_failures"] > 0)
    poor = rate < 0.8 or (state is not None and state["alert_opened_at_ms"] is not None)
    seen = state["last_seen_at_ms"] if state else None
    last = max(filter(None, (totals["last_at_ms"], seen)), default=None)
    error = rejected["code"] if rejected else state["last_error_code"] if state else None
    return wire.SyncHealth(
        lastSyncTime=answers.time_or_none(last),
        pendingItems=(state["last_queue_depth"] if state else None) or 0,
        totalItems=items,
        syncHealth="unknown" if last is None else "poor" if poor else "degraded" if failing else "good",
        successRate=round(rate, 4),
        avgSyncDuration=round(float(totals["duration_ms"]), 1),
        lastError=error,
        receivedThrough=through,
    )


async def get_batches(request: web.Request) -> web.Response:
    """200 with a page of the batch log, newest first. Raises Refusal 401, 403, 404, 422."""
    services = request.app[SERVICES]
    dk, user_id = await _asked(request, services)
    page = params.page(request, limit=50)
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with services.db.reading() as tx:
        rows = await tx.all(
            "batches_page",
            dk=dk,
            user_id=user_id,
            before_id=before_id,
            row_limit=page.limit + 1,
            row_offset=page.offset,
        )
        total = await tx.value("batches_count", dk=dk, user_id=user_id)
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
        last_updated_at=wire.rfc3339(row["received_at_ms"]),
        duration=row["duration_ms"],
        errors=_troubles(row["errors"]),
        conflictDetails=_troubles(row["conflict_details"]),
        status="success" if not bad else "error" if bad == row["items"] else "partial",
    )


def _troubles(kept: str) -> list[ItemTrouble]:
    return [] if kept == "[]" else msgspec.json.decode(kept, type=list[ItemTrouble])


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/api/telemetry/batch", post_batch)
    app.router.add_post("/api/telemetry/track", post_track)
    app.router.add_post("/v1/telemetry/events", post_events)
    app.router.add_get("/api/telemetry/status", get_status)
    app.router.add_get("/api/telemetry/batches", get_batches)
