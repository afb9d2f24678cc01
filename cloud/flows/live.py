"""Tells open pages that the fleet has changed: one look per second and process, while anybody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cloud.store.db import Database
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 1.0
LISTENERS_MAX = 200


class Live:
    """Listeners wait for a number that is other than theirs."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._changed = asyncio.Condition()
        self._somebody = asyncio.Event()
        self.number = -1
        self.listeners = 0
        self.released = False

    async def other_than(self, seen: int, timeout_s: float) -> int:
        """The number once it is not `seen` any more, or after the time. At once when the service stops."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.number != seen or self.released)
        except TimeoutError:
            pass
        return self.number

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[bool]:
        """Counts a listener; False when there are too many."""
        if self.listeners >= LISTENERS_MAX or self.released:
            yield False
            return
        self.listeners += 1
        self._somebody.set()
        try:
            yield True
        finally:
            self.listeners -= 1
            if not self.listeners:
                self._somebody.clear()

    async def release(self) -> None:
        """Ends all waiting: the service stops."""
        async with self._changed:
            self.released = True
            self._changed.notify_all()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks while inside."""
        task = asyncio.create_task(self._work(), name="live")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._somebody.wait()
            try:
                async with self._db.reading() as tx:
                    number = int(await tx.value("fleet_generation"))
            except TransientError as error:
                log.warning("live.postponed", code=error.code)
            else:
                if number != self.number:
                    async with self._changed:
                        self.number = number
                        self._changed.notify_all()
            await asyncio.sleep(INTERVAL_S)
