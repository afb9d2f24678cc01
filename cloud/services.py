"""What the handlers work with, opened together and closed in reverse."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from cloud.config import Settings
from cloud.flows import identity
from cloud.flows.housekeeping import Housekeeping
from cloud.flows.identity import Identity
from cloud.flows.ingest import Ingest, drop_old_batches
from cloud.flows.terms import Policy
from cloud.flows.uploads import Uploads
from cloud.store import drivers
from cloud.store.blobs import BlobStore
from cloud.store.db import Database
from cloud.workers.janitor import Janitor
from pisyncd.core import wire

BATCH_LOG_KEEP_S = 90 * 24 * 3600


def wall_ms() -> int:
    """Wall time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Services:
    """The service's parts."""

    settings: Settings
    db: Database
    identity: Identity
    ingest: Ingest
    uploads: Uploads
    janitor: Janitor
    pacing: wire.Pacing
    schema_version: int
    started_monotonic: float = field(default_factory=time.monotonic)


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Opens the database and brings its schema up to date. Raises StorageBusy, SchemaTooNew, ConfigError."""
    async with AsyncExitStack() as stack:
        db = await drivers.connect(settings.database_url)
        stack.push_async_callback(db.close)
        version = await db.migrate()
        ingest = Ingest(db, wall_ms, notify_after=settings.failures_notify)
        await stack.enter_async_context(ingest.running())
        janitor = Janitor(wall_ms)
        janitor.add("sessions", lambda: identity.drop_expired_sessions(db, wall_ms()))
        janitor.add("batch-log", lambda: drop_old_batches(db, wall_ms() - BATCH_LOG_KEEP_S * 1000))
        uploads = _open_uploads(settings, db)
        stack.push_async_callback(uploads.close)
        keeper = Housekeeping(db, uploads, wall_ms)
        for name, job in (("recover", keeper.recover), ("expire", keeper.expire), ("sweep", keeper.sweep)):
            janitor.add(f"uploads-{name}", job)
        await stack.enter_async_context(janitor.running())
        yield Services(
            settings=settings,
            db=db,
            identity=Identity(db, wall_ms),
            ingest=ingest,
            uploads=uploads,
            janitor=janitor,
            pacing=wire.Pacing(
                sync_in_s=settings.sync_interval_s,
                batch_max_events=wire.BATCH_ITEMS_MAX,
                batch_max_bytes=settings.body_bytes_max,
            ),
            schema_version=version,
        )


def _open_uploads(settings: Settings, db: Database) -> Uploads:
    blobs = BlobStore(settings.blobs, free_floor_bytes=settings.free_floor_bytes)
    policy = Policy(upload_bytes_max=settings.upload_bytes_max, keep_ms=settings.upload_keep_s * 1000)
    return Uploads(db, blobs, policy, wall_ms)
