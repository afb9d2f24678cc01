"""A real receiver of webhooks that does what a test tells it, a clock by hand, and a dispatcher to step by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from cloud.flows import announcing, endpoints
from cloud.flows.announcing import Happening
from cloud.flows.endpoints import Actor
from cloud.rules import targets
from cloud.store.db import Database, Row
from cloud.store.webhooks import Endpoint
from cloud.workers.dispatcher import Dispatcher
from cloud.workers.poster import Lookup, Poster

LOOPBACK = targets.networks("127.0.0.0/8")
START_MS = 1_795_000_000_000

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Clock:
    """Wall time that moves when a test says so."""

    ms: int = START_MS

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


@dataclass(frozen=True, kw_only=True)
class Got:
    """A webhook as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Receiver:
    """`behave['/x']` is a status, or a coroutine function; without one it answers 200."""

    base: str = ""
    got: list[Got] = field(default_factory=list)
    behave: dict[str, int | Behaviour] = field(default_factory=dict)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str) -> str:
        return self.base + path

    def at(self, path: str) -> list[Got]:
        return [each for each in self.got if each.path == path]

    def numbers(self, path: str) -> list[int]:
        """`data.n` of what arrived, in its order."""
        return [each.json["data"]["n"] for each in self.at(path)]

    async def until(self, path: str, count: int) -> None:
        """Waits until so many have arrived there."""
        async with asyncio.timeout(30), self.arrived:
            await self.arrived.wait_for(lambda: len(self.at(path)) >= count)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        got = Got(path=request.path, headers=headers, body=await request.read())
        async with self.arrived:
            self.got.append(got)
            self.arrived.notify_all()
        behaviour = self.behave.get(request.path, 200)
        if isinstance(behaviour, int):
            return web.Response(status=behaviour, text="ok" if behaviour == 200 else "no")
        return await behaviour(request)


async def busy(_request: web.Request) -> web.StreamResponse:
    """Fails, and is not tried again while a test lasts."""
    return web.Response(status=429, headers={"Retry-After": "3600"}, text="busy")


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port of this machine."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


def update(resource: str, number: int, **more: Any) -> Happening:
    """profile.updated of one resource."""
    return Happening(type="profile.updated", resource_type="profile", resource_id=resource, data={"n": number}, **more)


@dataclass
class Sending:
    """A dispatcher over a database."""

    db: Database
    clock: Clock
    poster: Poster
    dispatcher: Dispatcher

    async def endpoint(self, url: str, *event_types: str) -> Endpoint:
        actor = Actor(name="key:test", now_ms=self.clock())
        filters = event_types or ("*",)
        return await endpoints.create(self.db, self.poster, actor, url=url, description="", event_types=filters)

    async def announce(self, *happenings: Happening) -> int:
        async with self.db.transaction() as tx:
            return await announcing.announce(tx, happenings, self.clock())

    async def turn(self) -> None:
        """One step, to the end of what it started."""
        await self.dispatcher.step()
        await self.dispatcher.settled()

    async def log(self, endpoint: Endpoint) -> list[Row]:
        """The deliveries of an endpoint, oldest first."""
        async with self.db.reading() as tx:
            rows, _ = await endpoints.log(tx, endpoint.id, state=None, kind=None, before_id=2**62, limit=1000, offset=0)
        return rows[::-1]

    async def states(self, endpoint: Endpoint) -> list[str]:
        return [row["state"] for row in await self.log(endpoint)]

    async def read(self, endpoint: Endpoint) -> Endpoint:
        async with self.db.reading() as tx:
            return await endpoints.find(tx, endpoint.id)


@asynccontextmanager
async def sending(
    db: Database,
    *,
    clock: Clock | None = None,
    timeout_s: float = 10.0,
    drain_s: float = 5.0,
    allow: Sequence[targets.Network] = LOOPBACK,
    lookup: Lookup | None = None,
) -> AsyncIterator[Sending]:
    """Chance stands still in the middle: jitter adds nothing."""
    clock = clock or Clock()
    poster = Poster(allow, clock, timeout_s=timeout_s, lookup=lookup)
    dispatcher = Dispatcher(db, poster.post, clock, timeout_s=timeout_s, drain_s=drain_s, chance=lambda: 0.5)
    try:
        yield Sending(db, clock, poster, dispatcher)
    finally:
        await poster.close()
