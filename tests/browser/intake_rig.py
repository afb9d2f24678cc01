"""A small intake over a real socket: the endpoints of docs/learning-events.md on top of a store that records.

What a test needs of an intake is `Intake`; a real cloud or daemon can stand in for `RecordingIntake` by the same three.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from aiohttp.test_utils import TestServer

MODULE = Path(__file__).resolve().parents[2] / "pisyncd" / "telemetry.js"
PAGE = "<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>lesson</title>"
PATIENCE_S = 60
Event = dict[str, Any]
SESSION_PATH, BATCH_PATH = "/v1/telemetry/events", "/api/telemetry/batch"
ALLOWED_HEADERS = "Authorization, Content-Type, PiSync-User"


class Intake(Protocol):
    """Who takes the events of a test."""

    @property
    def url(self) -> str:
        """Base URL; `/telemetry.js` is below it."""

    async def stored(self) -> list[Event]:
        """Every stored event, in the order of arrival: `id`, `event_type`, and `payload` at least."""

    async def holding(self, count: int) -> list[Event]:
        """Waits until `count` events are stored; fails when more are or when it takes too long."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to answer instead of storing."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str | dict[str, Any] = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request that arrived, whether it was answered well or not."""

    path: str
    headers: dict[str, str]
    ids: list[str]


Judge = Callable[[str, list[Event]], Answer | None]


class RecordingIntake:
    """Stores events by id and counts how often each came; a test scripts other answers.

    `answers` are given first, one a request; then `judge` decides on a request, `bad` on an event (a reason, or None);
    a cleared `gate` leaves requests without an answer.
    """

    def __init__(self, *, allow_origin: str | None = None) -> None:
        self.events: dict[str, Event] = {}
        self.arrivals: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.preflights = 0
        self.answers: list[Answer] = []
        self.judge: Judge = lambda _path, _events: None
        self.bad: Callable[[Event], str | None] = lambda _event: None
        self.gate = asyncio.Event()
        self.gate.set()
        self._allow_origin = allow_origin
        self._changed = asyncio.Condition()
        self._url = ""

    @property
    def url(self) -> str:
        return self._url

    async def stored(self) -> list[Event]:
        return list(self.events.values())

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(true)

    async def holding(self, count: int) -> list[Event]:
        await self.until(lambda: len(self.events) >= count)
        assert len(self.events) == count
        return await self.stored()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RecordingIntake]:
        app = web.Application(middlewares=[self._cors], client_max_size=2**24)
        app.router.add_get("/", self._page)
        app.router.add_get("/telemetry.js", self._module)
        app.router.add_post(SESSION_PATH, self._session_events)
        app.router.add_post(BATCH_PATH, self._batch)
        async with TestServer(app) as server:
            self._url = str(server.make_url("")).rstrip("/")
            yield self
            self.gate.set()

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def _module(self, _request: web.Request) -> web.Response:
        return web.Response(body=MODULE.read_bytes(), content_type="text/javascript")

    @web.middleware
    async def _cors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            self.preflights += 1
            response: web.StreamResponse = web.Response(status=204)
        else:
            response = await handler(request)
        if self._allow_origin is not None and request.headers.get("Origin") == self._allow_origin:
            response.headers["Access-Control-Allow-Origin"] = self._allow_origin
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        return response

    async def _take(self, request: web.Request, events: list[Event]) -> web.Response | None:
        """Notes the request; a scripted answer, or None when the events are to be judged each."""
        ids = [str(event["id"]) for event in events]
        self.requests.append(Request(path=request.path, headers=dict(request.headers), ids=ids))
        async with self._changed:
            self._changed.notify_all()
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else self.judge(request.path, events)
        if answer is None:
            return None
        body = json.dumps(answer.body) if isinstance(answer.body, dict) else answer.body
        kind = "application/problem+json" if isinstance(answer.body, dict) else "text/html"
        return web.Response(status=answer.status, text=body, content_type=kind, headers=answer.headers)

    async def _store(self, event: Event) -> bool:
        """True if it is new."""
        new = event["id"] not in self.events
        self.events.setdefault(event["id"], event)
        self.arrivals[event["id"]] += 1
        async with self._changed:
            self._changed.notify_all()
        return new

    async def _session_events(self, request: web.Request) -> web.Response:
        sent = await request.json()
        if (answer := await self._take(request, sent["events"])) is not None:
            return answer
        reasons = []
        for index, event in enumerate(sent["events"]):
            if code := self.bad(event):
                reasons.append({"index": index, "code": code, "detail": "as the test has it"})
            else:
                await self._store(event)
        accepted = len(sent["events"]) - len(reasons)
        return web.json_response(
            {"accepted": accepted, "rejected": len(reasons), "rejected_reasons_sample": reasons[:5]}
        )

    async def _batch(self, request: web.Request) -> web.Response:
        sent = await request.json()
        events = [self._flat(item) for item in sent["items"]]
        if (answer := await self._take(request, events)) is not None:
            return answer
        results = []
        for event in events:
            result = {"itemId": event["id"], "timestamp": "2026-03-02T08:00:00Z"}
            if code := self.bad(event):
                results.append({**result, "status": "failed", "code": code})
            else:
                results.append({**result, "status": "synced" if await self._store(event) else "duplicate"})
        return web.json_response({"success": True, "data": {"processed": len(results), "results": results}})

    @staticmethod
    def _flat(item: Event) -> Event:
        data = item["itemData"]
        assert item["itemType"] == "event" and item["id"] == data["eventId"]
        return {"id": item["id"], "event_type": data["eventType"], "payload": data["eventData"], **data["metadata"]}
