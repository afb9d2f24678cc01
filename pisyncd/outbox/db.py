"""The outbox: one SQLite database that holds whatever this device owes the cloud.

Outbox time is the number of milliseconds this device has been on, counted on across restarts: `due_at_ms` and ages
compare in it, so no clock step moves them. It stands still while the power is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosql
import aiosqlite
import structlog
from aiosql.adapters.aiosqlite import AioSQLiteAdapter
from aiosql.adapters.sqlite3 import SQLite3Adapter

from pisyncd.core.errors import SchemaTooNew
from pisyncd.outbox.grouping import Group, Work, storage_trouble
from pisyncd.outbox.salvage import means_damage
from pisyncd.runtime.clock import Clock

log = structlog.get_logger()
T = TypeVar("T")

HERE = Path(__file__).parent
APPLICATION_ID = 0x50695379  # "PiSy"
BUSY_S = 5.0
JOURNAL_BYTES_MAX = 8 * 1024 * 1024

PRAGMAS = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -512;
PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX};
"""

# The sightings of one batch, beside the rows they are compared with.
STAGE = """
CREATE TEMP TABLE sightings (
    root TEXT NOT NULL, path BLOB NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, priority INTEGER NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
"""


class OneHop(AioSQLiteAdapter):
    """aiosql's driver for aiosqlite, with every read in one hop to the connection's thread.

    A cursor that stays open between two hops would pin the snapshot that others on the same connection read from: they
    would not see what was committed a moment ago.
    """

    async def select(
        self, conn: aiosqlite.Connection, _name: str, sql: str, parameters: Any, _record_class: Any = None
    ) -> AsyncIterator[sqlite3.Row]:
        for row in await conn.execute_fetchall(sql, parameters):
            yield row

    async def select_one(
        self, conn: aiosqlite.Connection, _name: str, sql: str, parameters: Any, _record_class: Any = None
    ) -> sqlite3.Row | None:
        return next(iter(await conn.execute_fetchall(sql, parameters)), None)

    async def select_value(self, conn: aiosqlite.Connection, _name: str, sql: str, parameters: Any) -> Any:
        row = next(iter(await conn.execute_fetchall(sql, parameters)), None)
        return None if row is None else row[0]


class InThread(SQLite3Adapter):
    """aiosql's driver for sqlite3, with every read done when it is called, and its rows by name."""

    def select(self, conn: Any, query_name: str, sql: str, parameters: Any, record_class: Any = None) -> Any:
        return conn.execute(sql, parameters).fetchall()

    def select_one(self, conn: Any, query_name: str, sql: str, parameters: Any, record_class: Any = None) -> Any:
        return conn.execute(sql, parameters).fetchone()

    def select_value(self, conn: Any, query_name: str, sql: str, parameters: Any) -> Any:
        row = conn.execute(sql, parameters).fetchone()
        return None if row is None else row[0]


@cache
def queries(name: str, *, in_thread: bool = False) -> Any:
    """The named queries of `<name>.sql` beside this file; `in_thread`: those for use inside of `Database.write`."""
    driver = cast(Any, InThread if in_thread else OneHop)
    return aiosql.from_path(HERE / f"{name}.sql", driver, mandatory_parameters=False)


_books = queries("books")
_books_in_thread = queries("books", in_thread=True)


class Database:
    """The connections of the outbox: one writer behind `transaction()` and `write()`, one reader."""

    def __init__(self, path: Path, clock: Clock, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self.path = path
        self.clock = clock
        self._writer = writer
        self.reader = reader
        self._lock = asyncio.Lock()
        self._group = Group(writer, self._lock, self._note_time)
        self._base_ms = 0
        self.damage: sqlite3.DatabaseError | None = None
        self.damaged: Callable[[], None] = lambda: None

    def now_ms(self) -> int:
        """Outbox time."""
        return self._base_ms + self.clock.boottime_ms()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """One write transaction at a time; commits on leaving, rolls back on any error.

        Raises StorageBusy when the disk is full or somebody else holds the database.
        """
        async with self._lock:
            try:
                try:
                    # Inside: who is cancelled just here leaves a transaction that has begun nevertheless.
                    await self._writer.execute("BEGIN IMMEDIATE")
                    yield self._writer
                    await _books.set_cursor(self._writer, name="last_at_ms", value=str(self.now_ms()))
                    await self._writer.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.OperationalError):
                        await asyncio.shield(self._writer.rollback())
                    raise
            except sqlite3.OperationalError as error:
                raise storage_trouble(error) from error.__cause__

    async def write(self, work: Work[T]) -> T:
        """What `work` gives, run in the writer's thread inside a transaction that it shares with what else waits.

        Durable when it returns. Raises what `work` raises, and StorageBusy as `transaction` does.
        """
        try:
            return await self._group.write(work)
        except sqlite3.DatabaseError as error:
            if means_damage(error):
                self.damage = error
                self.damaged()
            raise

    def _note_time(self, db: sqlite3.Connection) -> None:
        _books_in_thread.set_cursor(db, name="last_at_ms", value=str(self.now_ms()))

    async def resume_time(self) -> None:
        """Goes on counting outbox time where the last run left off."""
        boot = await _books.get_cursor(self._writer, name="boot_id")
        base = int(await _books.get_cursor(self._writer, name="base_ms") or 0)
        last = int(await _books.get_cursor(self._writer, name="last_at_ms") or 0)
        self._base_ms = base if boot == self.clock.boot_id else last
        async with self.transaction() as tx:
            await _books.set_cursor(tx, name="boot_id", value=self.clock.boot_id)
            await _books.set_cursor(tx, name="base_ms", value=str(self._base_ms))

    async def shrink(self) -> None:
        """Gives free pages back to the file system, a bounded number at a time."""
        async with self._lock:
            await self._writer.execute_fetchall("PRAGMA incremental_vacuum(2000)")

    async def close(self) -> None:
        """Folds the write-ahead log into the database and closes."""
        with contextlib.suppress(sqlite3.Error):
            await self._writer.execute_fetchall("PRAGMA incremental_vacuum(2000)")
            await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await self.reader.close()
        await self._writer.close()


async def connect(path: Path, clock: Clock) -> Database:
    """Opens or creates the database and migrates it.

    Raises SchemaTooNew when a newer PiSync wrote it, StorageBusy when there is no room, sqlite3.DatabaseError when it
    is damaged.
    """
    try:
        return await _connect(path, clock)
    except sqlite3.OperationalError as error:
        raise storage_trouble(error) from error.__cause__


async def _connect(path: Path, clock: Clock) -> Database:
    fresh = not path.exists()
    writer = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_S)
    try:
        if fresh:
            await writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
            await writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        await _refuse_newer(writer)
        writer.row_factory = sqlite3.Row
        await writer.executescript(PRAGMAS)
        await _migrate(writer)
        await writer.executescript(STAGE)
        reader = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_S)
        await reader.execute("PRAGMA query_only = ON")
        await reader.execute("PRAGMA cache_size = -256")
        reader.row_factory = sqlite3.Row
    except BaseException:
        await writer.close()
        raise
    database = Database(path, clock, writer, reader)
    await database.resume_time()
    return database


def _migrations() -> list[tuple[int, Path]]:
    return sorted((int(path.name.split("_")[0]), path) for path in (HERE / "schema").glob("*.sql"))


async def _version(db: aiosqlite.Connection) -> int:
    async with db.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def _refuse_newer(db: aiosqlite.Connection) -> None:
    known, found = _migrations()[-1][0], await _version(db)
    if found > known:
        raise SchemaTooNew(f"the outbox has schema {found}, this pisyncd knows {known}")


async def _migrate(db: aiosqlite.Connection) -> None:
    found = await _version(db)
    for number, path in _migrations():
        if number <= found:
            continue
        script = f"BEGIN IMMEDIATE;\n{path.read_text(encoding='utf-8')}\nPRAGMA user_version = {number};\nCOMMIT;"
        try:
            await db.executescript(script)
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                await db.execute("ROLLBACK")
            raise
        log.info("outbox.migrated", schema=number)
