"""The PostgreSQL driver: an asyncpg pool; a statement per round trip, batches as one array per column."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import asyncpg

from cloud.store import migrations
from cloud.store.db import DuplicateRow, Query, Row, TransactionLost, Tx, Values, load_queries
from pisyncd.core.errors import ConfigError, StorageBusy

POOL_MAX = 12
CONNECT_TIMEOUT_S = 10.0
ACQUIRE_TIMEOUT_S = 30.0
_MIGRATION_LOCK = 7_243_001
_VERSIONS = """CREATE TABLE IF NOT EXISTS schema_migration (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_ms BIGINT NOT NULL)"""
_BUSY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InterfaceError,
    # asyncpg says so when a connection is ended by the server in the middle of an operation.
    asyncpg.InternalClientError,
    asyncio.TimeoutError,
    OSError,
)


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise DuplicateRow(str(error)) from error
    except _BUSY as error:
        raise StorageBusy(f"the database does not take it now: {error}", retry_after_s=5.0) from error


class _PostgresTx:
    def __init__(self, connection: Any, queries: dict[str, Query]) -> None:
        self._connection = connection
        self._queries = queries

    def _args(self, name: str, params: dict[str, Any]) -> tuple[str, list[Any]]:
        query = self._queries[name]
        return query.sql, [params[key] for key in query.names]

    async def all(self, name: str, /, **params: Any) -> list[Row]:
        sql, args = self._args(name, params)
        with _mapped():
            rows: list[Row] = await self._connection.fetch(sql, *args)
            return rows

    async def one(self, name: str, /, **params: Any) -> Row | None:
        sql, args = self._args(name, params)
        with _mapped():
            row: Row | None = await self._connection.fetchrow(sql, *args)
            return row

    async def value(self, name: str, /, **params: Any) -> Any:
        sql, args = self._args(name, params)
        with _mapped():
            return await self._connection.fetchval(sql, *args)

    async def run(self, name: str, /, **params: Any) -> int:
        sql, args = self._args(name, params)
        with _mapped():
            status: str = await self._connection.execute(sql, *args)
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    async def bulk(self, name: str, rows: Values) -> None:
        if rows:
            with _mapped():
                await self._connection.execute(self._queries[name].sql, *zip(*rows, strict=True))

    async def lookup(self, name: str, rows: Values) -> list[Row]:
        if not rows:
            return []
        with _mapped():
            found: list[Row] = await self._connection.fetch(self._queries[name].sql, *zip(*rows, strict=True))
            return found

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with _mapped():
            await self._connection.execute("SAVEPOINT inner_part")
        try:
            yield
        except Exception as error:
            try:
                await self._connection.execute("ROLLBACK TO SAVEPOINT inner_part; RELEASE SAVEPOINT inner_part")
            except (asyncpg.PostgresError, *_BUSY):
                # Going on would end in a COMMIT that PostgreSQL answers with ROLLBACK and no error.
                raise TransactionLost("the connection to the database was lost", retry_after_s=5.0) from error
            raise
        with _mapped():
            await self._connection.execute("RELEASE SAVEPOINT inner_part")


class PostgresDatabase:
    """See `db.Database`."""

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._queries = load_queries("postgres")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        async with self.reading() as tx:
            block = tx._connection.transaction()  # type: ignore[attr-defined]
            with _mapped():
                await block.start()
            try:
                yield tx
            except BaseException:
                # On a connection that is gone the server has rolled back by itself.
                with contextlib.suppress(*_BUSY):
                    await block.rollback()
                raise
            with _mapped():
                await block.commit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        # Only the database's own failures are mapped here: an OSError of the caller is the caller's.
        with _mapped():
            connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        try:
            yield _PostgresTx(connection, self._queries)
        finally:
            # The pool ends a connection that cannot be reset; what was committed on it stays committed.
            with contextlib.suppress(*_BUSY):
                await self._pool.release(connection)

    async def migrate(self) -> int:
        with _mapped():
            async with self._pool.acquire() as connection, connection.transaction():
                # Two processes that start together (serve and enroll) must not both apply a step.
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
                await connection.execute(_VERSIONS)
                current = await connection.fetchval("SELECT max(version) FROM schema_migration") or 0
                for step in migrations.pending("postgres", current):
                    await connection.execute(step.script)
                    await connection.execute(
                        "INSERT INTO schema_migration VALUES ($1, $2, $3)",
                        step.version,
                        step.name,
                        int(time.time() * 1000),
                    )
                    current = step.version
                return int(current)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(10):
                await self._pool.close()
        except (TimeoutError, asyncpg.PostgresError, OSError):
            self._pool.terminate()


async def open_postgres(url: str) -> PostgresDatabase:
    """Opens a pool. Raises ConfigError for an unusable URL, StorageBusy when the server cannot be reached."""
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=POOL_MAX,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "pisync-cloud", "synchronous_commit": "on", "lock_timeout": "30s"},
        )
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise ConfigError(
            f"the database URL is not usable: {error}", hint="postgresql://USER:PASSWORD@HOST:PORT/NAME"
        ) from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise ConfigError(f"PostgreSQL refuses: {error}", hint="check user, password and database name") from error
    except _BUSY as error:
        raise StorageBusy(f"cannot reach PostgreSQL: {error}", hint="is it running, and is the URL right?") from error
    return PostgresDatabase(pool)
