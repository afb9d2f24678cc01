"""Takes reports in: requests that arrive together share one transaction, so that a durable answer costs little.

A group is what has gathered while the one before was committed, at most GROUP_FACTS_MAX facts. Nobody is answered
before the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from cloud import tracing
from cloud.flows import announcing, dating, pushes, reconcile
from cloud.flows.figures import Figures
from cloud.flows.records import Records
from cloud.rules import admit, rows, times
from cloud.rules.admit import Outcome, Unit
from cloud.rules.facts import MessageFact, SessionFact
from cloud.store import events, learning
from cloud.store.db import Database, DuplicateRow, Tx
from pisyncd.core.errors import StorageBusy, TransientError

log = structlog.get_logger()

GROUP_FACTS_MAX = 500
#: While single events come in, groups are kept short, so that these do not wait long for the group before.
SMALL_FACTS_MAX = 3
HURRIED_FACTS_MAX = 100
HURRIED_S = 1.0
WAITING_MAX = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What became of one unit. `marks` is the watermark of each stream that the unit touched."""

    outcomes: list[Outcome]
    marks: dict[str, int]
    received_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    unit: Unit
    since_s: float
    answer: asyncio.Future[Taken]


class Ingest:
    """The only writer of reports."""

    def __init__(
        self, db: Database, now_ms: Callable[[], int], figures: Figures, records: Records, *, notify_after: int
    ) -> None:
        self._db = db
        self._records = records
        self._now_ms = now_ms
        self._figures = figures
        self._notify_after = notify_after
        self._queue: deque[_Waiting] = deque()
        self._small: deque[_Waiting] = deque()
        self._small_turn = True
        self._small_seen_s = float("-inf")
        self._writing: dict[int, list[_Waiting]] = {}
        self._more = asyncio.Event()
        self._closed = False
        #: Called after a commit with reports of devices.
        self.heard: Callable[[], None] = lambda: None
        # PostgreSQL only: a second group runs its statements while the first one waits for the disk.
        self._writers = 2 if db.dialect == "postgres" else 1

    async def take(self, unit: Unit) -> Taken:
        """Durable when it returns; a unit with a batch id is also logged as a batch.

        Raises StorageBusy when the database does not take it now.
        """
        if self._closed or len(self._queue) + len(self._small) >= WAITING_MAX:
            self._figures.queue_full()
            raise StorageBusy("too much is waiting to be written", retry_after_s=5.0, hint="send it again later")
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        queue = self._small if len(unit.facts) <= SMALL_FACTS_MAX else self._queue
        queue.append(_Waiting(unit=unit, since_s=time.monotonic(), answer=answer))
        self._more.set()
        return await answer

    def waiting(self) -> Iterator[tuple[float, int]]:
        """What is taken and not yet durable: since when by the monotonic clock, and how many items."""
        for group in (*self._writing.values(), self._queue, self._small):
            for one in group:
                yield one.since_s, len(one.unit.facts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside; at the end what waits is still written."""
        slots = [secrets.randbits(62) + 1 for _ in range(self._writers)]
        workers = [asyncio.create_task(self._work(slot), name="ingest") for slot in slots]
        try:
            yield
        finally:
            self._closed = True
            self._more.set()
            await asyncio.gather(*workers)

    async def _work(self, slot: int) -> None:
        while True:
            await self._more.wait()
            # Once round the loop: every request that is already readable joins this group.
            await asyncio.sleep(0)
            group = self._next_group()
            if not group:
                if self._closed:
                    return
                self._more.clear()
                continue
            self._writing[id(group)] = group
            await self._settle(group, slot)
            del self._writing[id(group)]

    def _next_group(self) -> list[_Waiting]:
        """Single events go in groups of their own, every other time: they must not wait behind whole batches."""
        small = self._small and (self._small_turn or not self._queue)
        self._small_turn = not small
        queue = self._small if small else self._queue
        if small:
            self._small_seen_s = time.monotonic()
        hurried = time.monotonic() - self._small_seen_s < HURRIED_S
        most = HURRIED_FACTS_MAX if hurried else GROUP_FACTS_MAX
        group: list[_Waiting] = []
        facts = 0
        while queue and (not group or facts + len(queue[0].unit.facts) <= most):
            waiting = queue.popleft()
            facts += len(waiting.unit.facts)
            group.append(waiting)
        return group

    async def _settle(self, group: list[_Waiting], slot: int) -> None:
        begun_s = time.monotonic()
        try:
            with tracing.span("ingest.commit", requests=len(group)):
                taken = await self._commit(group, slot)
        except TransientError as error:
            self._figures.insert_failed(begun_s, time.monotonic())
            for waiting in group:
                _fail(waiting, error)
        except Exception as error:
            self._figures.insert_failed(begun_s, time.monotonic())
            if len(group) == 1:
                log.exception("ingest.failed")
                _fail(group[0], error)
                return
            # One report that the database chokes on must not take the others of its group with it.
            for waiting in group:
                await self._settle([waiting], slot)
        else:
            for waiting, result in zip(group, taken, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
            self.heard()
            outcomes = [result.outcomes for result in taken]
            self._figures.inserted([each.since_s for each in group], begun_s, time.monotonic(), outcomes)

    async def _commit(self, group: list[_Waiting], slot: int) -> list[Taken]:
        with contextlib.suppress(DuplicateRow):
            return await self._transact(group, slot)
        # Another service wrote the same id between our look and our write; now it can be seen.
        return await self._transact(group, slot)

    @staticmethod
    def _batch_rows(group: list[_Waiting], outcomes: list[list[Outcome]], now_ms: int) -> list[tuple[object, ...]]:
        now_s = time.monotonic()
        return [
            learning.batch_row(waiting.unit, results, now_ms, round((now_s - waiting.since_s) * 1000))
            for waiting, results in zip(group, outcomes, strict=True)
            if waiting.unit.batch_id
        ]

    async def _transact(self, group: list[_Waiting], slot: int) -> list[Taken]:
        units = [waiting.unit for waiting in group]
        now_ms = self._now_ms()
        async with self._db.transaction() as tx:
            known = await events.knowledge(tx, units)
            await learning.know(tx, units, known)
            known.sessions = await reconcile.sessions_of(tx, learning.sessions_in(units))
            outcomes, changes = admit.group(units, known, now_ms=now_ms, notify_after=self._notify_after)
            await dating.date(tx, units, now_ms)
            changed = await pushes.apply(tx, self._records.rules, units, outcomes, changes, now_ms)
            await events.write(tx, known, changes, {unit.dk for unit in units if unit.dk}, now_ms)
            await events.count_hour(tx, changes.tally, slot, now_ms)
            await announcing.announce_alerts(tx, changes.alerts, now_ms)
            await learning.write(tx, changes)
            await _reconcile(tx, changes.session_changes, now_ms)
            await tx.bulk("log_batches", self._batch_rows(group, outcomes, now_ms))
        if changed:
            self._records.changed()
        return [
            Taken(outcomes=results, marks=_marks(unit, known), received_at_ms=now_ms)
            for unit, results in zip(units, outcomes, strict=True)
        ]


async def _reconcile(tx: Tx, changes: list[tuple[int, MessageFact]], now_ms: int) -> None:
    """Merges what devices tell of sessions; a change of somebody else's session is kept as refused."""
    refused = await reconcile.reconcile(tx, [_session_fact(*each, now_ms) for each in changes], now_ms)
    if refused:
        log.warning("sessions.refused", count=len(refused), codes=sorted(set(refused.values())))
        detail = "the session belongs to another user"
        rejected = [rows.rejected(*changes[index], code, detail, now_ms) for index, code in refused.items()]
        await tx.bulk("add_rejected", rejected)


def _session_fact(dk: int, fact: MessageFact, now_ms: int) -> SessionFact:
    assert fact.change is not None
    at_ms, _ = times.judge(
        timestamp_ms=now_ms if fact.stamp.wall_ms is None else fact.stamp.wall_ms,
        received_ms=now_ms,
        sent_ms=fact.sent_ms,
        trusted=fact.stamp.trusted,
    )
    return SessionFact(dk=dk, change=fact.change, at_ms=at_ms)


def _marks(unit: Unit, known: admit.Knowledge) -> dict[str, int]:
    streams = {fact.place.stream for fact in unit.facts if fact.place is not None}
    return {stream: known.marks.get((unit.dk, stream), 0) for stream in sorted(streams)}


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


async def drop_old_batches(db: Database, before_ms: int) -> int:
    """Forgets the batch log before a time; gives how many entries that were. The messages themselves stay."""
    async with db.transaction() as tx:
        return await tx.run("drop_old_batches", before_ms=before_ms)
