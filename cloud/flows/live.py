"""Tells open pages that there is something new: one look per second and process, only while somebody listens.

What is known is a text, 'FLEET.EVENTS': the generation of what pages show of the fleet, and the last sync event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cloud.store.db import Database
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 1.0
LISTENERS_MAX = 200
#: More open pages than a person looks at.
LISTENERS_PER_SESSION_MAX = 10


class Live:
    """Listeners wait until what is known is not what they have seen."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._changed = asyncio.Condition()
        self._somebody = asyncio.Event()
        self._listeners: Counter[str] = Counter()
        self._known = ""
        self.released = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._listeners.total()

    async def now(self) -> str:
        """What is known now. Raises StorageBusy."""
        async with self._db.reading() as tx:
            row = await tx.one("live_marks")
        assert row is not None
        return f"{row['fleet']}.{row['events']}"

    async def other_than(self, seen: str, timeout_s: float) -> str:
        """What is known, once it is not `seen` any more, after the time, or when the service stops."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._known != seen or self.released)
        except TimeoutError:
            pass
        return self._known

    def has_room(self, session: str) -> tuple[bool, bool]:
        """(whether the process takes another listener, whether it takes one more of this session)."""
        return (
            self.listeners < LISTENERS_MAX and not self.released,
            self._listeners[session] < LISTENERS_PER_SESSION_MAX,
        )

    @asynccontextmanager
    async def listening(self, session: str) -> AsyncIterator[None]:
        """Counts a listener while inside, and looks at once if it is the first. Raises StorageBusy."""
        if not self.listeners:
            self._known = await self.now()
        self._listeners[session] += 1
        self._somebody.set()
        try:
            yield
        finally:
            self._listeners[session] -= 1
            if not self._listeners[session]:
                del self._listeners[session]
            if not self._listeners:
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
            await self.release()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._somebody.wait()
            try:
                known = await self.now()
                if known != self._known:
                    async with self._changed:
                        self._known = known
                        self._changed.notify_all()
            except TransientError as error:
                log.warning("live.postponed", code=error.code, detail=error.detail)
            except Exception:
                # One look that fails must not end the news for good.
                log.exception("live.failed")
            await asyncio.sleep(INTERVAL_S)
