"""Housekeeping: what has had its time is removed, at intervals with jitter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 600.0

Job = Callable[[], Awaitable[int]]


class Janitor:
    """Runs every job once per interval. A job gives the number of things it removed."""

    def __init__(self, now_ms: Callable[[], int], *, interval_s: float = INTERVAL_S) -> None:
        self._now_ms = now_ms
        self._interval_s = interval_s
        self._jobs: dict[str, Job] = {}
        self.next_run_ms: int | None = None

    def add(self, name: str, job: Job) -> None:
        """Adds a job before or while running."""
        self._jobs[name] = job

    async def step(self) -> float:
        """Runs all jobs; gives the seconds until it wants to be called again. A job that fails does not stop others."""
        for name, job in list(self._jobs.items()):
            try:
                removed = await job()
            except TransientError as error:
                log.warning("janitor.postponed", job=name, code=error.code, detail=error.detail)
            except Exception:
                log.exception("janitor.failed", job=name)
            else:
                if removed:
                    log.info("janitor.removed", job=name, count=removed)
        return self._interval_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, guards nothing

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        self.next_run_ms = self._now_ms()
        task = asyncio.create_task(self._work(), name="janitor")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.next_run_ms = None

    async def _work(self) -> None:
        while True:
            pause_s = await self.step()
            self.next_run_ms = self._now_ms() + round(pause_s * 1000)
            await asyncio.sleep(pause_s)
