"""Reads the counters at intervals, asks the database how things stand, and says which alerts stand."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from cloud.flows.figures import Figures, Standing
from cloud.rules import alerts
from cloud.rules.alerts import Alert, Reading, Thresholds
from cloud.store.db import Database

log = structlog.get_logger()

INTERVAL_S = 15.0
ASK_TIMEOUT_S = 5.0
ACTIVE_MS = 3_600_000


class Watch:
    """Keeps readings of one window, and how every alert is. Nothing is kept over a restart: then there is no data."""

    def __init__(
        self,
        db: Database,
        figures: Figures,
        thresholds: Thresholds,
        now_ms: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.thresholds = thresholds
        self._db = db
        self._figures = figures
        self._rules = alerts.rules(thresholds)
        self._now_ms = now_ms
        self._now_s = now_s
        self._readings: deque[Reading] = deque()
        self._alerts = {rule.name: Alert(rule=rule) for rule in self._rules}
        self.looked_at_ms = now_ms()

    @property
    def alerts(self) -> list[Alert]:
        """Every alert as it was at the last look."""
        return list(self._alerts.values())

    def wall_ms(self, at_s: float) -> int:
        """A moment of the monotonic clock as wall time."""
        return self._now_ms() - round((self._now_s() - at_s) * 1000)

    async def step(self) -> float:
        """Looks once; gives the seconds until it wants to be called again."""
        self._figures.stand(await self._ask())
        now = self._figures.reading(self._now_s())
        past = alerts.earlier(self._readings, now, self.thresholds.window_s)
        self._readings.append(now)
        while past is not None and self._readings[0] is not past:
            self._readings.popleft()
        if past is not None:
            self._figures.grown(now.queue_items - past.queue_items, _difference(now, past))
        before = self._alerts
        self._alerts = alerts.evaluate(self._rules, before, past, now, self.thresholds.for_s)
        self.looked_at_ms = self._now_ms()
        self._figures.alerts(self._alerts.values())
        for name, alert in self._alerts.items():
            _tell(before[name], alert)
        return INTERVAL_S

    async def _ask(self) -> Standing | None:
        now_ms = self._now_ms()
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), self._db.reading() as tx:
                devices = await tx.one("standing_of_devices", active_ms=now_ms - ACTIVE_MS)
                exports = await tx.one("standing_of_exports")
        except Exception as error:
            # The other alerts matter most just now: whatever is wrong with the database must not keep them away.
            log.warning("watch.no_database", error=repr(error)[:300])
            return None
        assert devices is not None
        assert exports is not None
        since_ms = devices["silent_since_ms"]
        average_ms = devices["silent_average_ms"]
        return Standing(
            devices=devices["devices"],
            devices_active=devices["active"],
            devices_failing=devices["failing"],
            queue_items=int(devices["queue_items"]),
            queue_items_max=devices["queue_max"],
            queue_active_max=devices["queue_active_max"],
            silent_max_s=0.0 if since_ms is None else max(0.0, (now_ms - since_ms) / 1000),
            silent_average_s=0.0 if average_ms is None else max(0.0, (now_ms - float(average_ms)) / 1000),
            exports_planned=exports["planned"],
            exports_failing=exports["failing"],
            export_published_at_s=exports["published_at_ms"] / 1000,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        task = asyncio.create_task(self._work(), name="watch")
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
            except Exception:
                # A look that fails must not end all looking.
                log.exception("watch.failed")
            await asyncio.sleep(pause_s)


def _difference(now: Reading, past: Reading) -> float | None:
    if now.devices_items is None or past.devices_items is None:
        return None
    return now.devices_items - past.devices_items


def _tell(before: Alert, after: Alert) -> None:
    if after.state == "firing" and before.state != "firing":
        log.warning("alert.fired", alert=after.rule.name, value=after.value, threshold=after.rule.threshold)
    elif before.state == "firing" and after.state != "firing":
        log.info("alert.ended", alert=after.rule.name, value=after.value)
