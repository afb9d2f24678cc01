"""The one interface to the database: named queries inside transactions, the same over SQLite and PostgreSQL.

Queries are named in the `.sql` files beside this module: `events.sql` holds what both dialects share,
`events.sqlite.sql` and `events.postgres.sql` what differs, with the reason. Names are unique over all files.
Parameters are named (`:device_id`). Two verbs take many rows at once and are written per dialect:

* `bulk(name, rows)`: SQLite runs the statement once per row with `?`; PostgreSQL runs it once with one array per
  column (`unnest($1::bigint[], $2::text[])`).
* `lookup(name, rows)`: reads what belongs to many keys; SQLite gets the rows as one JSON text in `:rows`
  (`json_each(:rows)`, `value ->> 0`), PostgreSQL one array per column as above.

Wall time is integer milliseconds, flags are 0 or 1, JSON is text, digests and raw paths are bytes, on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from aiosql.adapters.asyncpg import AsyncPGAdapter
from aiosql.query_loader import QueryLoader

from pisyncd.core.errors import StorageBusy

Dialect = Literal["sqlite", "postgres"]
Values = Sequence[tuple[Any, ...]]

_HERE = Path(__file__).parent


class DuplicateRow(Exception):
    """A row with this key is already there."""


class TransactionLost(StorageBusy):
    """The transaction cannot go on: nothing of it will be kept."""


class Row(Protocol):
    """One result row: `row["name"]`, `row[0]`, `row.keys()`, `dict(row)`."""

    def __getitem__(self, key: str | int, /) -> Any: ...
    def __len__(self) -> int: ...
    def keys(self) -> Any: ...


class Tx(Protocol):
    """What can be done inside a transaction (or, reading only, outside of one)."""

    async def one(self, name: str, /, **params: Any) -> Row | None:
        """The first row, or None."""

    async def all(self, name: str, /, **params: Any) -> list[Row]:
        """All rows."""

    async def value(self, name: str, /, **params: Any) -> Any:
        """The first column of the first row, or None."""

    async def run(self, name: str, /, **params: Any) -> int:
        """Executes; gives the number of rows changed."""

    async def bulk(self, name: str, rows: Values) -> None:
        """Executes for all rows; nothing when there are none."""

    async def lookup(self, name: str, rows: Values) -> list[Row]:
        """All rows that belong to the given keys; nothing when there are none."""

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """What fails inside is undone and raised, and the transaction goes on. Raises TransactionLost if it cannot."""


class Database(Protocol):
    """A database of either dialect. Raises StorageBusy when it is full, locked or out of reach."""

    @property
    def dialect(self) -> Dialect:
        """Which kind of SQL it speaks."""

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """Everything inside is committed durably at the end, or not at all."""

    def reading(self) -> AbstractAsyncContextManager[Tx]:
        """For reads outside of a transaction; never waits for the writer."""

    async def migrate(self) -> int:
        """Brings the schema up to date; gives its version. Raises SchemaTooNew."""

    async def close(self) -> None:
        """Ends all connections."""


class Query:
    """A named statement in the form its driver wants."""

    __slots__ = ("names", "sql")

    def __init__(self, sql: str, names: tuple[str, ...]) -> None:
        self.sql = sql
        self.names = names


class _PlainAdapter:
    """SQLite understands `:name` itself."""

    is_aio_driver = True

    def process_sql(self, _name: str, _operation: Any, sql: str) -> str:
        return sql


@cache
def load_queries(dialect: Dialect) -> dict[str, Query]:
    """Reads every `.sql` file of the dialect. Raises ValueError when a name is used twice."""
    make: Any = AsyncPGAdapter if dialect == "postgres" else _PlainAdapter
    adapter = make()
    loader = QueryLoader(adapter, None, mandatory_parameters=False)
    other = "postgres" if dialect == "sqlite" else "sqlite"
    found: dict[str, Query] = {}
    for path in sorted(_HERE.glob("*.sql")):
        if path.name.endswith(f".{other}.sql"):
            continue
        for datum in loader.load_query_data_from_file(path, encoding="utf-8"):
            name = datum[0]
            if name in found:
                raise ValueError(f"{path.name}: the query name {name} is used twice")
            order = tuple(adapter.var_sorted[name]) if dialect == "postgres" else ()
            found[name] = Query(datum[3], order)
    return found
