"""Webhooks: how many a second arrive at a receiver on this machine, and how long one takes."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rig import postgres
from rig.cloud import Cloud
from rig.process import cpu_seconds

from benchmarks.result import Options, Result, Skipped
from cloud.flows import announcing, endpoints
from cloud.flows.announcing import Happening
from cloud.flows.endpoints import Actor
from cloud.rules import targets
from cloud.services import wall_ms
from cloud.store import drivers
from cloud.store.db import Database
from cloud.workers.poster import Poster

Line = Result | Skipped

PER_S_MIN = 500.0
RESOURCES = 2000
IN_FLIGHT = 32
SINGLE = 20
DATA = {"siteId": "site-1", "name": "x" * 40, "grade": 5, "courses": ["math", "reading", "science"], "note": "y" * 120}


def _receive(port: Any, counted: Any) -> None:
    """A process of its own, so that receiving costs the sender nothing but the processor."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        counted.value += 1
        return web.Response()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/hook", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
        port.value = runner.addresses[0][1]
        await asyncio.Event().wait()

    asyncio.run(serve())


class _Receiver:
    def __init__(self, port: int, counted: Any) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self._counted = counted

    @property
    def count(self) -> int:
        found: int = self._counted.value
        return found

    async def until(self, count: int, within_s: float = 300.0) -> None:
        async with asyncio.timeout(within_s):
            while self.count < count:
                await asyncio.sleep(0.002)


@contextlib.contextmanager
def _receiver() -> Iterator[_Receiver]:
    context = multiprocessing.get_context("fork")
    port, counted = context.Value("i", 0, lock=False), context.Value("q", 0, lock=False)
    process = context.Process(target=_receive, args=(port, counted), daemon=True)
    process.start()
    try:
        while not port.value:
            time.sleep(0.01)
        yield _Receiver(port.value, counted)
    finally:
        process.terminate()
        process.join()


@contextlib.asynccontextmanager
async def _endpoint(database: str, url: str) -> AsyncIterator[Database]:
    async with drivers.opened(database) as db:
        poster = Poster(targets.networks("127.0.0.0/8"), wall_ms)
        actor = Actor(name="cli:bench", now_ms=wall_ms())
        await endpoints.create(db, poster, actor, url=url, description="", event_types=["*"])
        await poster.close()
        yield db


def _happening(number: int) -> Happening:
    name = f"user-{number % RESOURCES}"
    return Happening(
        type="profile.updated", resource_type="profile", resource_id=name, data={**DATA, "n": number}, user_id=name
    )


async def _announce(db: Database, count: int) -> None:
    async with db.transaction() as tx:
        await announcing.announce(tx, [_happening(number) for number in range(count)], wall_ms())


async def _measure(database: str, receiver: _Receiver, count: int) -> tuple[float, list[float]]:
    """(seconds for `count` at once, milliseconds for each single one) from the commit of the fact to the arrival."""
    async with _endpoint(database, receiver.url) as db:
        before = receiver.count
        await _announce(db, 200)
        await receiver.until(before + 200)
        before = receiver.count
        await _announce(db, count)
        begun = time.perf_counter()
        await receiver.until(before + count)
        seconds = time.perf_counter() - begun
        singles = []
        for number in range(SINGLE):
            before = receiver.count
            await _announce(db, 1)
            begun = time.perf_counter()
            await receiver.until(before + 1)
            singles.append((time.perf_counter() - begun) * 1000)
            # Not in step with the service's own looks at its queue.
            await asyncio.sleep(0.037 * (number % 7))
        return seconds, singles


async def _plain(receiver: _Receiver, count: int) -> float:
    """Seconds for the same bodies from memory: no queue, no signature, no database."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send() -> None:
            for number in numbers:
                body = announcing.prepare(_happening(number), 1).body.encode()
                async with session.post(receiver.url, data=body) as answer:
                    await answer.read()

        begun = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - begun


def webhooks(options: Options) -> Iterator[Line]:
    """Webhooks that wait in the queue of a running service, to a receiver beside it; then one at a time."""
    count = 20_000 if options.thorough else 6_000
    with _receiver() as receiver:
        plain = count / asyncio.run(_plain(receiver, count))
        if not options.alone:
            details = {"webhooks": count, "in_flight": IN_FLIGHT, "note": "no queue, no signature, no database"}
            yield Result(
                benchmark="webhooks", metric="delivered", tool="aiohttp", value=plain, unit="1/s", details=details
            )
        for dialect in ("sqlite", "postgres"):
            try:
                yield from _one(dialect, receiver, count, plain)
            except (ImportError, OSError) as error:
                yield Skipped(benchmark=f"webhooks-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")


def _one(dialect: str, receiver: _Receiver, count: int, plain: float) -> Iterator[Line]:
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-")))
        url = stack.enter_context(postgres.database()) if dialect == "postgres" else None
        cloud = Cloud(work, database=url)
        cloud.start(env={"PISYNC_CLOUD_WEBHOOK_ALLOW": "127.0.0.0/8"})
        stack.callback(cloud.stop)
        before = cpu_seconds(cloud.process.pid)
        seconds, singles = asyncio.run(_measure(url or str(cloud.data / "pisync.db"), receiver, count))
        cpu_s = cpu_seconds(cloud.process.pid) - before
        yield Result(
            benchmark=f"webhooks-{dialect}",
            metric="delivered",
            value=count / seconds,
            unit="1/s",
            bound="at_least",
            limit=PER_S_MIN,
            details={
                "webhooks": count,
                "resources": RESOURCES,
                "of_plain_posts": round(count / seconds / plain, 3),
                "server_cpu_us_each": round(cpu_s / (count + 200 + SINGLE) * 1e6, 1),
            },
        )
        yield Result(
            benchmark=f"webhooks-{dialect}",
            metric="commit_to_arrival_median",
            value=statistics.median(singles),
            unit="ms",
            details={"max_ms": round(max(singles), 1), "from": "another process, so nobody wakes the service"},
        )
