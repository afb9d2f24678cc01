"""Looks for troubles that become incidents, when a device has changed its state or time alone asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from cloud.flows.incidents import Alerting
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 2.0
#: Whatever else is missed is found by then: a rule that was changed by another process, a silence.
ANYWAY_S = 60.0


class Alerter:
    """One step looks once, if there is any reason to."""

    def __init__(self, alerting: Alerting, now_ms: Callable[[], int]) -> None:
        self._alerting = alerting
        self._now_ms = now_ms
        self._seen = -1
        self._due_ms: int | None = None
        self._looked_s = float("-inf")

    async def step(self) -> float:
        """The seconds until it wants to be called again."""
        newest = await self._alerting.last_transition()
        due = self._due_ms is not None and self._due_ms <= self._now_ms()
        if newest == self._seen and not due and time.monotonic() - self._looked_s < ANYWAY_S:
            return INTERVAL_S
        done, self._due_ms = await self._alerting.look()
        self._seen, self._looked_s = newest, time.monotonic()
        if done:
            log.info("incidents.changed", actions=done)
        return INTERVAL_S

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        task = asyncio.create_task(self._work(), name="alerter")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            pause_s = INTERVAL_S
            try:
                pause_s = await self.step()
            except TransientError as error:
                log.warning("alerter.postponed", code=error.code, detail=error.detail)
            except Exception:
                log.exception("alerter.failed")
            await asyncio.sleep(pause_s)
