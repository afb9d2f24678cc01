"""The cloud's side of records on a real socket: a feed that holds requests, and a batch endpoint that takes writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pisyncd.activities.way import Way, WayRules
from pisyncd.core import backoff, link, merge, record, recordwire, wire
from pisyncd.core.merge import Pen
from pisyncd.core.record import State
from pisyncd.core.transfer import ChunkRule
from pisyncd.meters import Goodput
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Bell
from pisyncd.uplink import Uplink

TOKEN = "a-token"
RULES = WayRules(link=link.Rule(), backoff=backoff.Policy(), chunk=ChunkRule())
WRITER = "c-91aa"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RecordCloud:
    """`asked` are the queries of GET /api/changes, `batches` what came by POST; `odd` answers the next GETs instead,
    `instead` all POSTs."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], State] = {}
        self.order: dict[tuple[str, str], int] = {}
        self.gone: set[tuple[str, str]] = set()
        self.epoch, self.head, self.page_max = "a", 0, 500
        self.asked: list[dict[str, str]] = []
        self.batches: list[wire.Batch] = []
        self.marks: dict[str, int] = {}
        self.odd: list[Handler] = []
        self.instead: Callable[[wire.Batch, web.Request], Awaitable[web.Response]] | None = None
        self.holds = self.takes = True
        self.moved, self.held = Bell(), Bell()
        self.held_now = 0

    def write(self, record_type: str, record_id: str, fields: dict[str, Any], *, at_ms: int = 1) -> None:
        """An operator's."""
        before = self.states.get((record_type, record_id), record.EMPTY)
        state = merge.put(before, record.BUILT_IN[record_type], fields, Pen.of_cloud(WRITER, at_ms))
        self.keep(record_type, record_id, state)

    def keep(self, record_type: str, record_id: str, state: State) -> None:
        key = record_type, record_id
        self.states[key] = state
        self.head += 1
        self.order[key] = self.head
        self.moved.set()

    def take_away(self, record_type: str, record_id: str) -> None:
        """The device is not entitled to it any more."""
        self.gone.add((record_type, record_id))
        self.keep(record_type, record_id, self.states[record_type, record_id])

    def shows(self, record_type: str, record_id: str) -> dict[str, Any]:
        return dict(merge.view(self.states[record_type, record_id], record.BUILT_IN[record_type]).fields)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if self.odd:
            return await self.odd.pop(0)(request)
        # as the cloud's, a cursor holds for the types that it was got with
        now = f"{self.epoch}{request.query.get('types', '')}"
        since = request.query.get("since", f"{now}.0")
        epoch, _, number = since.partition(".")
        if epoch != now:
            return problem(request, 410, "cursor-expired")
        wait_s = float(request.query.get("wait", 0))
        ring = self.moved.next()
        if not self._after(int(number)) and wait_s and self.holds:
            self.held_now += 1
            self.held.set()
            try:
                async with asyncio.timeout(wait_s):
                    await ring.wait()
            finally:
                self.held_now -= 1
        return self._page(request, int(number), min(int(request.query["limit"]), self.page_max))

    def _after(self, number: int) -> list[tuple[str, str]]:
        return sorted((key for key in self.order if self.order[key] > number), key=self.order.__getitem__)

    def _page(self, request: web.Request, number: int, limit: int) -> web.Response:
        keys = self._after(number)
        changes = [
            {"type": kind, "id": name, "gone": True}
            if (kind, name) in self.gone
            else {"type": kind, "id": name, "state": msgspec.to_builtins(self.states[kind, name])}
            for kind, name in keys[:limit]
        ]
        reached = self.order[keys[limit - 1]] if len(keys) > limit else self.head
        data = {
            "changes": changes,
            "cursor": f"{self.epoch}{request.query.get('types', '')}.{reached}",
            "more": len(keys) > limit,
            "rules_etag": record.rules_etag(record.BUILT_IN),
        }
        return web.json_response({"success": True, "data": data, "metadata": {}}, headers=proof(request))

    async def batch(self, request: web.Request) -> web.Response:
        batch = msgspec.json.decode(await request.read(), type=wire.Batch)
        self.batches.append(batch)
        if self.instead is not None:
            return await self.instead(batch, request)
        for item in batch.items if self.takes else ():
            self.marks[item.stream] = item.seq
            pushed = recordwire.decode_pushed(msgspec.json.encode(item.itemData))
            known = self.states.get((pushed.type, pushed.id), record.EMPTY)
            self.keep(pushed.type, pushed.id, merge.join(known, record.checked_state(pushed.state)))
        outcome = {
            **dict.fromkeys(("processed", "successful", "failed", "conflicts", "duplicates"), 0),
            "results": [],
            "syncTime": "2026-01-01T00:00:00Z",
            "receivedThrough": {item.stream: self.marks.get(item.stream, 0) for item in batch.items},
        }
        return web.json_response({"success": True, "data": outcome}, headers=proof(request))

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/changes", self.changes)
        app.router.add_post("/api/telemetry/batch", self.batch)
        return app


def proof(request: web.Request) -> dict[str, str]:
    return {wire.PROOF_HEADER: wire.proof(TOKEN, request.headers[wire.CHALLENGE_HEADER])}


def problem(request: web.Request, status: int, code: str, **headers: str) -> web.Response:
    body = {"type": "urn:pisync:problem:x", "title": "x", "status": status, "detail": "x", "code": code}
    return web.json_response(body, status=status, headers={**proof(request), **headers})


def online(outbox: Outbox) -> Way:
    """A way whose link is full."""
    way = Way(outbox, RULES, lambda: 0.5)
    way.observe("proven", "test")
    return way


def uplink_to(url: str, way: Way) -> Uplink:
    return Uplink(
        url=url,
        token=TOKEN,
        connect_timeout_s=5,
        stall_s=5,
        ca_file=None,
        seen=way.observe,
        told_time=lambda wall_ms: None,
        goodput=Goodput(),
    )
