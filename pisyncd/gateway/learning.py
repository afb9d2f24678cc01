"""Learning events of applications beside this device: the same bodies, answers and errors as the cloud's.

Nobody is answered before the event is in the outbox, durably.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web
from msgspec import Struct

from pisyncd.core import envelope, problems, session, track, wire
from pisyncd.core.envelope import EventsAnswer, Reason, Rejection
from pisyncd.core.problems import Refusal
from pisyncd.gateway import framing, judging
from pisyncd.gateway.bodies import Bodies
from pisyncd.gateway.boundary import answer
from pisyncd.gateway.judging import Judged
from pisyncd.gateway.ports import Device
from pisyncd.gateway.syncstatus import sync_status
from pisyncd.outbox import Outbox, arrivals
from pisyncd.outbox.intake import Outcome

CLIENT = Path(__file__).parent.parent / "telemetry.js"
_SETTLED = ("synced", "duplicate")


class TrackAnswer(Struct, frozen=True, kw_only=True):
    """The answer to POST /api/telemetry/track."""

    success: bool
    data: track.Tracked


class Learning:
    """One handler per route."""

    def __init__(self, device: Device, outbox: Outbox, bodies: Bodies) -> None:
        self._device = device
        self._outbox = outbox
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """What applications and browsers may use."""
        return [
            web.post("/api/telemetry/track", self.track),
            web.post("/api/telemetry/batch", self.batch),
            web.get("/api/telemetry/status", self.status, allow_head=False),
            web.post("/v1/telemetry/events", self.events),
            web.get("/telemetry.js", self.client),
        ]

    async def track(self, request: web.Request) -> web.Response:
        """200 with the event's id; a repeat is answered as the first time. Raises Refusal 400, 409, 413, 422, 507."""
        user_id = session.named_user(request.headers.get(session.USER_HEADER))
        async with self._bodies.of(request) as body:
            event = track.decode(body)
            arrival = arrivals.tracked(event, event.id or str(uuid.uuid4()), user_id or "")
            (outcome,) = await self._outbox.intake.take([arrival])
        if outcome.status == "conflict":
            raise problems.id_conflict(arrival.event_id)
        if outcome.code is not None:
            hint = "tell only what matters until there is room again"
            raise Refusal(507, outcome.code, outcome.detail, hint=hint)
        data = track.Tracked(
            eventId=arrival.event_id, serverTimestamp=wire.rfc3339(outcome.wall_ms), batchId=arrival.batch_id
        )
        return framing.beside(self._now(), TrackAnswer(success=True, data=data))

    async def events(self, request: web.Request) -> web.Response:
        """200 with how many events were taken; the others are counted, with at most 5 reasons.

        Raises Refusal 400, 413, 422 for the request as a whole.
        """
        user_id = session.named_user(request.headers.get(session.USER_HEADER))
        async with self._bodies.of(request) as body:
            asked = envelope.decode_events(body)
            judged = [arrivals.judge_event(bytes(raw), asked.source, user_id) for raw in asked.events]
            pieces = [each for each in judged if not isinstance(each, Rejection)]
            outcomes = iter(await self._outbox.intake.take(pieces) if pieces else ())
        reasons: list[Reason] = []
        for index, each in enumerate(judged):
            found = each if isinstance(each, Rejection) else next(outcomes)
            if found.code is not None:
                reasons.append(Reason(index=index, code=found.code, detail=found.detail))
        return answer(
            EventsAnswer(
                accepted=len(judged) - len(reasons),
                rejected=len(reasons),
                rejected_reasons_sample=reasons[: envelope.REASONS_MAX],
            )
        )

    async def batch(self, request: web.Request) -> web.Response:
        """200 with what became of every item. Raises Refusal 400, 413, 422 for the batch as a whole."""
        user_id = session.named_user(request.headers.get(session.USER_HEADER))
        async with self._bodies.of(request) as body:
            asked = judging.batch(body)
            judged = [
                judging.item(bytes(raw), f"{asked.batchId}.{index}", user_id) for index, raw in enumerate(asked.items)
            ]
            pieces = [each.found for each in judged if not isinstance(each.found, Rejection)]
            outcomes = await self._outbox.intake.take(pieces) if pieces else []
        brief = "return=minimal" in request.headers.get("Prefer", "").replace(" ", "").lower()
        now = self._now()
        data = _outcome(judged, outcomes, wire.rfc3339(now), brief=brief)
        headers = {"Preference-Applied": "return=minimal"} if brief else {}
        return framing.beside(now, wire.BatchAnswer(success=True, data=data), headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        """200 with how the messages of this device fare."""
        return framing.beside(self._now(), await sync_status(self._device, self._outbox))

    async def client(self, request: web.Request) -> web.StreamResponse:
        """The browser's client; 304 for who has it."""
        code, tag = _client()
        headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: "no-cache", "X-Content-Type-Options": "nosniff"}
        if tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=code, content_type="text/javascript", charset="utf-8", headers=headers)

    def _now(self) -> int:
        return self._outbox.db.clock.wall_ms()


@cache
def _client() -> tuple[bytes, str]:
    code = CLIENT.read_bytes()
    return code, f'"{hashlib.sha256(code).hexdigest()[:32]}"'


def _outcome(judged: list[Judged], outcomes: list[Outcome], at: str, *, brief: bool) -> wire.BatchOutcome:
    counts = dict.fromkeys(("synced", "duplicate", "failed", "conflict"), 0)
    results: list[wire.ItemResult] = []
    following = iter(outcomes)
    for each in judged:
        result = _result(each, following, at)
        counts[result.status] += 1
        if not brief or result.status not in _SETTLED:
            results.append(result)
    return wire.BatchOutcome(
        processed=len(judged),
        successful=counts["synced"] + counts["duplicate"],
        failed=counts["failed"],
        conflicts=counts["conflict"],
        duplicates=counts["duplicate"],
        results=results,
        syncTime=at,
        receivedThrough={},
    )


def _result(judged: Judged, outcomes: Iterator[Outcome], at: str) -> wire.ItemResult:
    if isinstance(judged.found, Rejection):
        return wire.ItemResult(itemId=judged.item_id, status="failed", timestamp=at, code=judged.found.code)
    outcome = next(outcomes)
    item_id = judged.item_id or outcome.event_id
    return wire.ItemResult(itemId=item_id, status=outcome.status, timestamp=at, code=outcome.code)
