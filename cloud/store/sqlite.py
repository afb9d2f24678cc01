"""The SQLite driver: WAL, synchronous=FULL, one writer connection behind a lock, a few readers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import aiosqlite
import msgspec

from cloud.store import migrations
from cloud.store.db import DuplicateRow, Query, Row, TransactionLost, Tx, Values, load_queries
from pisyncd.core.errors import StorageBusy

T = TypeVar("T")
READERS = 3
#: Rows of one statement; 19 columns of them are far below SQLite's 32,766 parameters.
MANY_ROWS = 50
_ONE_ROW = re.compile(r"VALUES\s*(\((?:\?,\s*)*\?\))")
_OPEN_ATTEMPTS = 30

_SHARED_PRAGMAS = ("PRAGMA busy_timeout=30000", "PRAGMA foreign_keys=ON", "PRAGMA temp_store=MEMORY")
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA wal_autocheckpoint=4000",
    "PRAGMA cache_size=-65536",
    # Without it INSERT OR REPLACE would delete rows behind the triggers of the append-only tables.
    "PRAGMA recursive_triggers=ON",
)
_READER_PRAGMAS = ("PRAGMA query_only=ON", "PRAGMA cache_size=-16384")
_VERSIONS = """CREATE TABLE IF NOT EXISTS schema_migration (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_ms INTEGER NOT NULL)"""


def _mapped(error: sqlite3.Error) -> Exception:
    if isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error):
        return DuplicateRow(str(error))
    if isinstance(error, sqlite3.OperationalError):
        text = str(error)
        if any(word in text for word in ("full", "locked", "busy", "disk I/O", "readonly", "unable to open")):
            return StorageBusy(f"the database does not take it now: {text}", retry_after_s=5.0)
    return error


async def _call(work: Awaitable[T]) -> T:
    try:
        return await work
    except sqlite3.Error as error:
        raise _mapped(error) from error


@cache
def _many(sql: str, rows: int) -> str | None:
    """An INSERT of one row as one of many; None for any other statement.

    Between two rows of executemany the thread gives the interpreter's lock away and, while another computes, waits 5 ms
    to have it back; one statement keeps the whole work out of the interpreter.
    """
    found = _ONE_ROW.search(sql)
    return None if found is None else f"{sql[: found.start(1)]}{', '.join([found[1]] * rows)}{sql[found.end(1) :]}"


class _SqliteTx:
    def __init__(self, connection: aiosqlite.Connection, queries: dict[str, Query]) -> None:
        self._connection = connection
        self._queries = queries

    async def all(self, name: str, /, **params: Any) -> list[Row]:
        rows = await _call(self._connection.execute_fetchall(self._queries[name].sql, params))
        return cast("list[Row]", rows)

    async def one(self, name: str, /, **params: Any) -> Row | None:
        rows = await self.all(name, **params)
        return rows[0] if rows else None

    async def value(self, name: str, /, **params: Any) -> Any:
        rows = await self.all(name, **params)
        return rows[0][0] if rows else None

    async def run(self, name: str, /, **params: Any) -> int:
        return (await _call(self._connection.execute(self._queries[name].sql, params))).rowcount

    async def bulk(self, name: str, rows: Values) -> None:
        if not rows:
            return
        sql = self._queries[name].sql
        many = _many(sql, MANY_ROWS) if len(rows) >= MANY_ROWS else None
        begun = 0
        while many and len(rows) - begun >= MANY_ROWS:
            part = tuple(chain.from_iterable(rows[begun : begun + MANY_ROWS]))
            await _call(self._connection.execute(many, part))
            begun += MANY_ROWS
        if begun < len(rows):
            await _call(self._connection.executemany(sql, rows[begun:]))

    async def lookup(self, name: str, rows: Values) -> list[Row]:
        if not rows:
            return []
        return await self.all(name, rows=msgspec.json.encode(rows).decode())

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        await _call(self._connection.execute("SAVEPOINT inner_part"))
        try:
            yield
        except Exception as error:
            try:
                await self._connection.execute("ROLLBACK TO inner_part")
                await self._connection.execute("RELEASE inner_part")
            except sqlite3.Error:
                # A full disk makes SQLite end the whole transaction by itself.
                raise TransactionLost("the database ended the transaction", retry_after_s=5.0) from error
            raise
        await _call(self._connection.execute("RELEASE inner_part"))


class SqliteDatabase:
    """See `db.Database`."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(self, writer: aiosqlite.Connection, readers: list[aiosqlite.Connection]) -> None:
        queries = load_queries("sqlite")
        self._writer = writer
        self._lock = asyncio.Lock()
        self._tx = _SqliteTx(writer, queries)
        self._readers = readers
        self._idle: asyncio.Queue[_SqliteTx] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(_SqliteTx(reader, queries))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        async with self._lock:
            try:
                await _call(self._writer.execute("BEGIN IMMEDIATE"))
                yield self._tx
                await _call(self._writer.execute("COMMIT"))
            except BaseException:
                # A caller cancelled in the middle would leave its transaction open for the next one. The writer's
                # thread works first in, first out, so this comes after whatever the caller had begun.
                await _to_the_end(self._writer.rollback())
                raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        tx = await self._idle.get()
        try:
            yield tx
        finally:
            self._idle.put_nowait(tx)

    async def migrate(self) -> int:
        async with self._lock:
            try:
                return await self._migrate()
            except BaseException as error:
                await _to_the_end(self._writer.rollback())
                if isinstance(error, sqlite3.Error):
                    raise _mapped(error) from error
                raise

    async def _migrate(self) -> int:
        # IMMEDIATE: two processes that start together (serve and enroll) must not both apply a step.
        await self._writer.execute("BEGIN IMMEDIATE")
        await self._writer.execute(_VERSIONS)
        rows = await self._writer.execute_fetchall("SELECT max(version) FROM schema_migration")
        current = next(iter(rows))[0] or 0
        for step in migrations.pending("sqlite", current):
            for statement in migrations.statements(step.script):
                await self._writer.execute(statement)
            await self._writer.execute(
                "INSERT INTO schema_migration VALUES (?, ?, ?)", (step.version, step.name, int(time.time() * 1000))
            )
            current = step.version
        await self._writer.execute("COMMIT")
        return current

    async def close(self) -> None:
        for connection in (*self._readers, self._writer):
            await connection.close()


async def _to_the_end(work: Awaitable[Any]) -> None:
    """Waits for `work` even while being cancelled again and again; its own failure changes nothing."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError, sqlite3.Error, ValueError):
            await asyncio.shield(task)
    if not task.cancelled():
        task.exception()


async def _set(connection: aiosqlite.Connection, pragma: str) -> None:
    # Changing to WAL fails at once, whatever the busy timeout says, while another process opens the same new file.
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            await connection.execute_fetchall(pragma)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == _OPEN_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.02 * (attempt + 1))


async def _open(path: Path, pragmas: tuple[str, ...]) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in (*_SHARED_PRAGMAS, *pragmas):
            await _set(connection, pragma)
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_sqlite(path: Path) -> SqliteDatabase:
    """Opens or creates the database file. Raises StorageBusy when that is not possible now."""
    opened: list[aiosqlite.Connection] = []
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        is_new = not path.exists()
        opened.append(await _open(path, _WRITER_PRAGMAS))
        if is_new and os.geteuid() == 0:
            # Enrolling as root before the first start would leave the service's user a database it cannot write.
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)
        for _ in range(READERS):
            opened.append(await _open(path, _READER_PRAGMAS))
    except (sqlite3.Error, OSError) as error:
        for connection in opened:
            await connection.close()
        raise StorageBusy(f"cannot open the database {path}: {error}") from error
    return SqliteDatabase(opened[0], opened[1:])
