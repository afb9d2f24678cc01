"""What the handlers work with, opened together and closed in reverse."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from cloud.config import Settings
from cloud.flows.identity import Identity
from cloud.store import drivers as store
from cloud.store.db import Database


def wall_ms() -> int:
    """Wall time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Services:
    """The service's parts."""

    settings: Settings
    db: Database
    identity: Identity
    schema_version: int
    started_monotonic: float = field(default_factory=time.monotonic)


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Opens the database and brings its schema up to date. Raises StorageBusy, SchemaTooNew, ConfigError."""
    db = await store.connect(settings.database_url)
    try:
        version = await db.migrate()
        yield Services(settings=settings, db=db, identity=Identity(db, wall_ms), schema_version=version)
    finally:
        await db.close()
