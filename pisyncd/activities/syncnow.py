"""Delivers one record and fetches what the cloud has, while somebody waits for it."""

from __future__ import annotations

import asyncio

from pisyncd.activities.receiver import Receiver
from pisyncd.activities.sender import Sender
from pisyncd.activities.way import Way
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Bell, Stop

SYNC_S = 20.0


class SyncNow:
    """Any number of calls at once; all that wait are woken by whatever may have settled their case."""

    def __init__(self, outbox: Outbox, way: Way, sender: Sender, receiver: Receiver, stop: Stop) -> None:
        self._outbox = outbox
        self._way = way
        self._sender = sender
        self._receiver = receiver
        self._stop = stop
        self._bell = Bell()
        sender.ended = self._bell.set
        way.listen(self._bell)
        stop.rouses(self._bell)

    async def record(self, record_type: str, record_id: str, timeout_s: float = SYNC_S) -> str:
        """'' when the cloud has the record's writes and this device what the cloud has; else why not: 'offline',
        'paused', 'stopping', 'timeout', or the code of the cloud's trouble. What is queued stays queued."""
        if obstacle := self._obstacle():
            return obstacle
        try:
            async with asyncio.timeout(timeout_s):
                return await self._push(record_type, record_id) or await self._fetch()
        except TimeoutError:
            return self._obstacle() or "timeout"

    async def _push(self, record_type: str, record_id: str) -> str:
        while True:
            ring = self._bell.next()
            kept = await self._outbox.records.read(record_type, record_id)
            if kept is None or not kept.waiting:
                return ""
            if obstacle := self._obstacle():
                return obstacle
            self._sender.wake.set()
            await ring.wait()

    async def _fetch(self) -> str:
        fetching = asyncio.create_task(self._receiver.fetch_all())
        try:
            while True:
                ringing = asyncio.create_task(self._bell.next().wait())
                await asyncio.wait((fetching, ringing), return_when=asyncio.FIRST_COMPLETED)
                ringing.cancel()
                if fetching.done():
                    return fetching.result()
                if obstacle := self._obstacle():
                    return obstacle
        finally:
            fetching.cancel()

    def _obstacle(self) -> str:
        return "stopping" if self._stop else self._way.obstacle()
