"""What becomes due with learning events by itself: sessions whose time is over, losses that are to be told."""

from __future__ import annotations

import structlog

from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

INTERVAL_S = 3600.0
#: One entry of the ledger says it for a minute, however much is shed.
TELL_S = 60.0


class Clerk:
    """One step ends what is over and tells what was shed."""

    name = "clerk"
    deadline_s = 60.0

    def __init__(self, outbox: Outbox) -> None:
        self.wake = Wake()
        self._outbox = outbox
        self._tell_at_ms = 0

    async def step(self) -> float:
        """Seconds until something may be due. Raises sqlite3.DatabaseError when the outbox is damaged, StorageBusy."""
        if self._outbox.db.damage is not None:
            # Whoever met it was a request, which must not end the daemon; this does, and the next start repairs it.
            raise self._outbox.db.damage
        ended = await self._outbox.sessions.expire_due()
        if ended:
            log.info("session.expired", sessions=ended)
        await self._outbox.intake.trim()
        await self._outbox.sessions.trim()
        due_s = await self._outbox.sessions.next_due_in_s()
        return min(INTERVAL_S if due_s is None else due_s, await self._tell())

    async def _tell(self) -> float:
        """Seconds until the next entry may be written, if there is something to tell."""
        if not await self._outbox.messages.any_shed():
            return INTERVAL_S
        wait_s = (self._tell_at_ms - self._outbox.db.now_ms()) / 1000
        if wait_s > 0:
            return wait_s
        await self._outbox.messages.tell_shed(self._outbox.ledger)
        self._tell_at_ms = self._outbox.db.now_ms() + int(TELL_S * 1000)
        return INTERVAL_S
