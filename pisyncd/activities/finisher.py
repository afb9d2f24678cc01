"""One full cycle: reads every root once, waits until all that can be delivered is delivered, then stops the daemon."""

from __future__ import annotations

import asyncio

import structlog

from pisyncd.activities.cycle import SyncCycle
from pisyncd.activities.lanes import Lanes
from pisyncd.activities.receiver import Receiver
from pisyncd.activities.sender import Sender
from pisyncd.activities.spool import Spool
from pisyncd.activities.watcher import Watcher
from pisyncd.activities.way import Way
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Stop, Wake

log = structlog.get_logger()

LOOK_S = 0.1
FETCH_S = 600.0


class Finisher:
    """`delivered` says, after the stop, whether everything owed has arrived."""

    name = "finisher"
    deadline_s = 3600.0

    def __init__(
        self,
        *,
        outbox: Outbox,
        watcher: Watcher,
        lanes: Lanes,
        way: Way,
        cycle: SyncCycle,
        sender: Sender,
        stop: Stop,
        tries_max: int,
        settle_s: float,
        spool: Spool,
        receiver: Receiver,
    ) -> None:
        self.wake = Wake()
        self.delivered = False
        self._outbox = outbox
        self._watcher = watcher
        self._lanes = lanes
        self._way = way
        self._cycle = cycle
        self._sender = sender
        self._stop = stop
        self._tries_max = tries_max
        self._settle_s = settle_s
        self._spool = spool
        self._receiver = receiver
        self._swept = False
        self._told = False
        self._fetched = False

    def look_again(self) -> None:
        """Reads every root once more before the end, and reports what comes of it."""
        self._swept = self._told = False
        self.wake.set()

    async def step(self) -> float:
        """Looks whether the end is reached."""
        if not self._swept:
            await self._spool.sweep()
            await self._watcher.sweep()
            self._swept = True
            self._way.rouse()
            return LOOK_S
        if self._hopeless() or (not self._moving() and await self._files_done()):
            return await self._finish()
        return LOOK_S

    def _moving(self) -> bool:
        return bool(self._lanes.moving or self._lanes.reserved)

    def _hopeless(self) -> bool:
        """The cloud cannot be reached, refuses, or a person has paused the sending."""
        down = self._way.link.state != "full" and self._way.link.probes_since_change >= self._tries_max
        return down or self._way.paused or self._way.breaker.failures > self._tries_max

    async def _files_done(self) -> bool:
        """Nothing is left that may be sent within the time that a file takes to settle."""
        any_s = await self._outbox.files.next_due_in_s()
        # a file that cannot be read comes up again and again: it is not waited for without end
        hopeful_s = await self._outbox.files.next_due_in_s(self._tries_max)
        waits = any_s == 0.0 or (hopeful_s is not None and hopeful_s <= self._settle_s)
        return not waits and not await self._outbox.files.transfers_begun()

    async def _finish(self) -> float:
        if not self._told:
            self._told = True
            await self._cycle.conclude()
            self._sender.wake.set()
            return LOOK_S
        messages, _, _ = await self._outbox.messages.owed()
        if messages and not self._hopeless():
            return LOOK_S
        if not self._fetched and not self._hopeless():
            # what it brings may have to be answered: records of which the cloud lacks what was written here
            self._fetched = True
            await self._fetch()
            return LOOK_S
        files, _, _ = await self._outbox.queue.owed()
        failed = await self._outbox.queue.count_failures()
        spooled = self._spool.status.paused != ""
        self.delivered = messages == 0 and files == 0 and failed == 0 and not spooled
        self._stop.set()
        return LOOK_S

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                code = await self._receiver.fetch_all()
        except TimeoutError:
            code = "timeout"
        if code:
            log.warning("records.not_fetched", code=code)
