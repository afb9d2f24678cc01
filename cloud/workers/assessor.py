"""Judges how devices stand, again and again: what was heard of, and what has become due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cloud.flows.standing import Assessing
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 5.0
#: What is heard of within so much time is judged together; judging a large fleet takes at most a tenth of the time.
GATHER_S = 0.5
SHARE = 10.0


class Assessor:
    """The interval is the truth; `wake` only shortens it."""

    def __init__(self, assessing: Assessing) -> None:
        self._assessing = assessing
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something was heard of."""
        self._woken.set()

    async def step(self) -> float:
        """Goes through all devices that are due; the seconds until it wants to be called again."""
        judged = changed = 0
        after: int | None = 0
        while after is not None:
            some, changes, after = await self._assessing.some(after)
            judged, changed = judged + some, changed + changes
            # A whole fleet takes seconds: requests have their turn in between.
            await asyncio.sleep(0)
        if changed:
            log.info("devices.judged", devices=judged, changed=changed)
        return INTERVAL_S

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        await self._assessing.adopt()
        task = asyncio.create_task(self._work(), name="assessor")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            pause_s, begun_s = INTERVAL_S, time.monotonic()
            try:
                pause_s = await self.step()
            except TransientError as error:
                log.warning("assessor.postponed", code=error.code, detail=error.detail)
            except Exception:
                # One row that cannot be judged must not end the judging of all others for good.
                log.exception("assessor.failed")
            took_s = time.monotonic() - begun_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            await asyncio.sleep(max(GATHER_S, SHARE * took_s))
            self._woken.clear()
