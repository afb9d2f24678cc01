"""Chooses the driver by the database's URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cloud.store.db import Database
from cloud.store.postgres import open_postgres
from cloud.store.sqlite import open_sqlite


def is_postgres_url(url: str) -> bool:
    """Whether `--database` names a PostgreSQL server rather than a SQLite file."""
    return url.startswith(("postgres://", "postgresql://"))


def sqlite_path(url: str) -> Path:
    """'sqlite:///var/lib/x.db' or a plain path -> the path."""
    return Path(url.removeprefix("sqlite://"))


async def connect(url: str) -> Database:
    """Opens `postgresql://...`, `sqlite:///path` or a path. The schema is not touched."""
    if is_postgres_url(url):
        return await open_postgres(url)
    return await open_sqlite(sqlite_path(url))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A migrated database, closed at the end."""
    database = await connect(url)
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()
