"""Fleets: what judging every device costs, and how soon the pages of a large fleet are there."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from rig import postgres
from rig.cloud import Cloud

from benchmarks import preload
from benchmarks.result import Options, Result, Skipped
from cloud.flows import operators
from cloud.flows.standing import Assessing
from cloud.rules.access import Grant
from cloud.rules.calendar import Calendar
from cloud.rules.standing import Terms
from cloud.services import wall_ms
from cloud.store import drivers
from cloud.store.db import Database

Line = Result | Skipped

CYCLE_CPU_S_MAX = 5.0
OVERVIEW_MS_MAX = 150.0
LIST_MS_MAX = 100.0
DEVICES = 100_000
CHANGED = 1_000
ROUNDS = 60
PAGES = {
    "overview": "/",
    "devices": "/devices",
    "devices_failing": "/devices?state=failing",
    "devices_search": "/devices?search=device-09",
    "devices_stale": "/devices?freshness=stale&sort=device_id",
    "devices_deep": "/devices?sort=last_seen&page=300",
    "failures": "/failures",
    "incidents": "/incidents",
    "webhooks": "/webhooks",
    "audit": "/audit",
    "device": f"/devices/{preload.HISTORY_DEVICE}",
}


@contextlib.contextmanager
def _database(dialect: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        if dialect == "postgres":
            yield stack.enter_context(postgres.database())
        else:
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-"))
            yield str(Path(work) / "pisync.db")


async def _cycle(db: Database) -> tuple[float, float, int]:
    """(CPU seconds of this process, seconds, devices) until nothing is due."""
    assessing = Assessing(db, wall_ms, Terms(), {"default": Calendar(timezone="Africa/Kampala")})
    await assessing.adopt()
    cpu, began, judged = time.process_time(), time.perf_counter(), 0
    after: int | None = 0
    while after is not None:
        some, _, after = await assessing.some(after)
        judged += some
    return time.process_time() - cpu, time.perf_counter() - began, judged


async def _cycles(url: str) -> list[tuple[str, tuple[float, float, int]]]:
    async with drivers.opened(url) as db:
        found = [("first", await _cycle(db))]
        for name, count in (("full", DEVICES), ("one_percent", CHANGED)):
            # Every one of them is heard of again, an hour later by the cloud's clock.
            async with db.reading() as tx:
                keys = [row["dk"] for row in await tx.all("heard_longest_ago", row_limit=count)]
            async with db.transaction() as tx:
                await tx.bulk("touch_devices", [(wall_ms() + 3_600_000, dk) for dk in keys])
            found.append((name, await _cycle(db)))
        return found


def standing(options: Options) -> Iterator[Line]:
    """How 100,000 devices stand: the first look, one at which all were heard of again, and one of 1 %."""
    for dialect in ("sqlite", "postgres"):
        try:
            with _database(dialect) as url:
                asyncio.run(preload.fill(url, devices=DEVICES, total=2 * DEVICES, with_token=0))
                for name, (cpu_s, took_s, judged) in asyncio.run(_cycles(url)):
                    yield Result(
                        benchmark=f"standing-{dialect}", metric=f"{name}_cycle_cpu", value=cpu_s, unit="s",
                        bound="at_most", limit=CYCLE_CPU_S_MAX,
                        details={"took_s": round(took_s, 2), "devices": DEVICES, "judged": judged},
                    )  # fmt: skip
        except (ImportError, OSError) as error:
            yield Skipped(benchmark=f"standing-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")


def _signed_in(cloud: Cloud, url: str) -> str:
    """The cookie of an administrator."""

    async def add() -> None:
        async with drivers.opened(url) as db:
            await operators.add(db, "bench", "a long bench password", [Grant(role="admin")], now_ms=wall_ms())

    asyncio.run(add())
    connection = http.client.HTTPConnection(cloud.host, cloud.port, timeout=60)
    form = urllib.parse.urlencode({"name": "bench", "password": "a long bench password"})
    connection.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
    answer = connection.getresponse()
    answer.read()
    return (answer.getheader("Set-Cookie") or "").partition(";")[0]


def _times(cloud: Cloud, cookie: str, path: str) -> list[float]:
    """Milliseconds of each of ROUNDS requests, sorted."""
    connection = http.client.HTTPConnection(cloud.host, cloud.port, timeout=60)
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        found.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        # The overview is kept for two seconds: spread out, so that some requests look anew.
        time.sleep(0.1)
    return sorted(found)


def pages(options: Options) -> Iterator[Line]:
    """Pages of a large fleet: 100,000 devices on PostgreSQL, 20,000 on SQLite; --thorough with all of their events."""
    for dialect, devices, events in (("postgres", 100_000, 10_000_000), ("sqlite", 20_000, 2_000_000)):
        total = events if options.thorough else events // 10
        try:
            with _database(dialect) as url, tempfile.TemporaryDirectory(prefix="pisync-bench-") as work:
                asyncio.run(preload.fill(url, devices=devices, total=total, with_token=0))
                cloud = Cloud(Path(work), database=url)
                cloud.start(env={"PISYNC_CLOUD_ACCESS_LOG": "off"}, within_s=600)
                try:
                    cookie = _signed_in(cloud, url)
                    for name, path in PAGES.items():
                        found = _times(cloud, cookie, path)
                        yield Result(
                            benchmark=f"pages-{dialect}", metric=f"{name}_p95", value=found[int(len(found) * 0.95)],
                            unit="ms", bound="at_most", limit=OVERVIEW_MS_MAX if name == "overview" else LIST_MS_MAX,
                            details={"p50_ms": round(found[len(found) // 2], 1), "devices": devices, "events": total},
                        )  # fmt: skip
                finally:
                    cloud.stop()
        except (ImportError, OSError) as error:
            yield Skipped(benchmark=f"pages-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")
