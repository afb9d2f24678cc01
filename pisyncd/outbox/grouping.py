"""Group commit: small pieces of work that wait at the same time share one transaction, so that a durable answer costs
little. A group is what has gathered while the one before was committed; nobody is answered before the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import aiosqlite

from pisyncd.core.errors import StorageBusy

T = TypeVar("T")

GROUP_MAX = 256
WAITING_MAX = 4096

Work = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    work: Work[Any]
    answer: asyncio.Future[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    """One piece of work failed by itself; nothing of it stays, the others of its group do."""

    error: Exception


class Group:
    """`lock` is the writer's own; `last` is done before each commit."""

    def __init__(self, writer: aiosqlite.Connection, lock: asyncio.Lock, last: Work[None]) -> None:
        self._writer = writer
        self._lock = lock
        self._last = last
        self._queue: deque[_Waiting] = deque()

    async def write(self, work: Work[T]) -> T:
        """What `work` gives, durable. It runs in the writer's thread, inside a transaction, in one hop.

        Raises what `work` raises, StorageBusy, sqlite3.DatabaseError when the database is damaged.
        """
        if len(self._queue) >= WAITING_MAX:
            raise StorageBusy("too much is waiting to be written", retry_after_s=1.0, hint="send it again")
        waiting = _Waiting(work=work, answer=asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        try:
            while not waiting.answer.done():
                await self._lead(waiting.answer)
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)
            raise
        return cast(T, await waiting.answer)

    async def _lead(self, answer: asyncio.Future[Any]) -> None:
        async with self._lock:
            # Once round the loop: every request that is already readable joins this group.
            await asyncio.sleep(0)
            if answer.done():
                return
            group = [self._queue.popleft() for _ in range(min(GROUP_MAX, len(self._queue)))]
            # A leader that is cancelled must not take the others along; the writer's thread works first in, first out.
            await asyncio.shield(self._settle(group))

    async def _settle(self, group: Sequence[_Waiting]) -> None:
        work = [waiting.work for waiting in group]
        try:
            # aiosqlite has no public way to run more than one statement in one hop of its thread.
            results = await cast(Any, self._writer)._execute(self._commit, work)
        except Exception as error:
            results = [_Failed(error=storage_trouble(error))] * len(group)
        for waiting, result in zip(group, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, _Failed):
                waiting.answer.set_exception(result.error)
            else:
                waiting.answer.set_result(result)

    def _commit(self, work: Sequence[Work[Any]]) -> list[Any]:
        db = cast(Any, self._writer)._conn
        db.execute("BEGIN IMMEDIATE")
        try:
            results = [_attempt(db, each) for each in work]
            self._last(db)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()
            raise
        return results


def _attempt(db: sqlite3.Connection, work: Work[Any]) -> Any:
    db.execute("SAVEPOINT piece")
    try:
        result = work(db)
    except (sqlite3.OperationalError, sqlite3.InternalError):
        # No room, or no database any more: that concerns the whole group.
        raise
    except Exception as error:
        if type(error) is sqlite3.DatabaseError:
            raise
        db.execute("ROLLBACK TO piece")
        result = _Failed(error=error)
    db.execute("RELEASE piece")
    return result


def storage_trouble(error: Exception) -> Exception:
    """The trouble that passes behind an error of SQLite, or the error itself."""
    if not isinstance(error, sqlite3.OperationalError):
        return error
    text = str(error)
    if "unable to open" in text or "readonly" in text:
        return StorageBusy("the outbox cannot be written", code="storage-unusable")
    if "full" in text:
        return StorageBusy("the disk with the outbox is full", code="storage-full")
    if "locked" in text or "busy" in text:
        return StorageBusy("the outbox is locked by another program", code="storage-locked")
    if "disk I/O" in text:
        return StorageBusy("the disk with the outbox reports an error", code="storage-error")
    return error
