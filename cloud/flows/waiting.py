"""Who waits for changes: thousands of requests behind one look at the database.

One task per process reads the head of the feed, at once after a commit of this process, every second for those of
others, and only while somebody waits. It reads whom the new changes concern, once for all, and wakes those alone. A
waiter is a future in an index by scope: it holds no connection to the database.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from cloud.store import feed as rows
from cloud.store.db import Database
from cloud.store.feed import Marks, Scope
from pisyncd.core.errors import TransientError
from pisyncd.core.problems import Refusal

log = structlog.get_logger()

POLL_S = 1.0
#: Between two looks, so that a stream of commits does not become a stream of looks.
SPACING_S = 0.02
HELD_MAX = 20_000
#: A device whose connection broke comes again before the old one is known to be dead; nobody needs more at once.
HELD_PER_DEVICE_MAX = 4


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that is held. The future's result: whether to look at the feed again."""

    dk: int
    scopes: frozenset[Scope]
    is_gone: Callable[[], bool]
    woken: asyncio.Future[bool]

    def end(self, *, again: bool) -> None:
        if not self.woken.done():
            self.woken.set_result(again)


class Waiting:
    """Holds requests until there may be something for them."""

    def __init__(self, db: Database, *, poll_s: float = POLL_S) -> None:
        self._db = db
        self._poll_s = poll_s
        self._waiters: dict[int, list[_Waiter]] = {}
        self._by_scope: defaultdict[Scope, set[_Waiter]] = defaultdict(set)
        self._head = 0
        self._subscriptions = 0
        self._nudge = asyncio.Event()
        self._wanted = asyncio.Event()
        self._looking = False
        self._released = False
        self.held = 0

    def moved(self) -> None:
        """Something was committed here: look now."""
        self._nudge.set()

    def release(self) -> None:
        """The service stops: nobody is held any longer."""
        self._released = True
        for waiter in self._all():
            waiter.end(again=False)

    async def hold(
        self, dk: int, scopes: frozenset[Scope], seen: Marks, *, timeout_s: float, is_gone: Callable[[], bool]
    ) -> bool:
        """Waits for something that concerns one of `scopes` after `seen`; True when the feed has to be looked at again.

        False: the time is over, the client is gone, or the service stops. Raises Refusal 503 when too many wait.
        """
        if self._released or timeout_s <= 0:
            return False
        if not self.held and not self._looking:
            self._head = max(self._head, seen.head)
            self._subscriptions = max(self._subscriptions, seen.subscriptions)
        if self._head > seen.head or self._subscriptions > seen.subscriptions:
            # What came between reading the feed and now was told to others already.
            self._wanted.set()
            self._nudge.set()
            await asyncio.sleep(0)
            return True
        waiter = self._add(dk, scopes, is_gone)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.woken
        except TimeoutError:
            return False
        finally:
            self._remove(waiter)

    def _add(self, dk: int, scopes: frozenset[Scope], is_gone: Callable[[], bool]) -> _Waiter:
        if self.held >= HELD_MAX:
            raise Refusal(
                503,
                "too-many-waiting",
                "too many devices wait for changes",
                hint="ask with wait=0, or later",
                headers={"Retry-After": "60"},
            )
        waiter = _Waiter(dk, scopes, is_gone, asyncio.get_running_loop().create_future())
        mine = self._waiters.setdefault(dk, [])
        mine.append(waiter)
        for older in mine[:-HELD_PER_DEVICE_MAX]:
            older.end(again=False)
        for scope in scopes:
            self._by_scope[scope].add(waiter)
        self.held += 1
        self._wanted.set()
        return waiter

    def _remove(self, waiter: _Waiter) -> None:
        self.held -= 1
        self._waiters[waiter.dk].remove(waiter)
        if not self._waiters[waiter.dk]:
            del self._waiters[waiter.dk]
        for scope in waiter.scopes:
            self._by_scope[scope].discard(waiter)
            if not self._by_scope[scope]:
                del self._by_scope[scope]

    def _all(self) -> list[_Waiter]:
        return [waiter for mine in self._waiters.values() for waiter in mine]

    async def look(self) -> None:
        """Looks once and wakes whom it concerns. Raises StorageBusy."""
        self._looking = True
        try:
            async with self._db.reading() as tx:
                now = await rows.marks(tx)
                # Far behind, or set back by a restore: everyone looks again.
                everyone = not 0 <= now.head - self._head <= rows.RECENT_CHANGES
                everyone = everyone or now.subscriptions != self._subscriptions
                known = everyone or now.head == self._head
                scopes = frozenset() if known else await rows.touched(tx, self._head, now.head)
        finally:
            self._looking = False
        self._head, self._subscriptions = now.head, now.subscriptions
        for waiter in self._all() if everyone else self._concerned(scopes):
            waiter.end(again=True)

    def _concerned(self, scopes: frozenset[Scope]) -> list[_Waiter]:
        return [waiter for scope in scopes for waiter in self._by_scope.get(scope, ())]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        task = asyncio.create_task(self._work(), name="changes")
        try:
            yield
        finally:
            self.release()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._wanted.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._nudge.wait()
            self._nudge.clear()
            self._let_go()
            try:
                await self.look()
            except TransientError as error:
                log.warning("changes.no_database", code=error.code, detail=error.detail)
            except Exception:
                # One look that fails must not leave everybody waiting for ever.
                log.exception("changes.failed")
            if not self.held:
                self._wanted.clear()
            await asyncio.sleep(SPACING_S)

    def _let_go(self) -> None:
        for waiter in self._all():
            if waiter.is_gone():
                waiter.end(again=False)
