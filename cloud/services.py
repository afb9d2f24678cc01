"""What the handlers work with, opened together and closed in reverse."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from aiohttp import web
from prometheus_client import Counter

from cloud.config import Settings
from cloud.flows import (
    commands,
    deliveries,
    enrolment,
    identity,
    inbound,
    incidents,
    queue,
    record_types,
    standing,
    users,
)
from cloud.flows.commands import Commands
from cloud.flows.conflicts import Review
from cloud.flows.feed import Feed
from cloud.flows.figures import Figures
from cloud.flows.fleet import Overview
from cloud.flows.housekeeping import Housekeeping
from cloud.flows.identity import Identity
from cloud.flows.inbound import Inbound
from cloud.flows.incidents import Alerting
from cloud.flows.ingest import Ingest, drop_old_batches
from cloud.flows.live import Live
from cloud.flows.rates import Limits, Rates
from cloud.flows.records import Records
from cloud.flows.retention import Retention
from cloud.flows.rotation import Rotation
from cloud.flows.sessions import Sessions
from cloud.flows.standing import Assessing
from cloud.flows.terms import Policy
from cloud.flows.uploads import Uploads
from cloud.flows.users import Users
from cloud.flows.waiting import Waiting
from cloud.rules import proxies, targets
from cloud.rules.alerts import Thresholds
from cloud.rules.proxies import Network
from cloud.rules.standing import Terms
from cloud.store import drivers, events
from cloud.store.blobs import BlobStore
from cloud.store.db import Database
from cloud.workers import exporter as exporting
from cloud.workers.alerter import Alerter
from cloud.workers.assessor import Assessor
from cloud.workers.dispatcher import Dispatcher
from cloud.workers.exporter import Exporter
from cloud.workers.janitor import Janitor
from cloud.workers.notifier import Notifier
from cloud.workers.poster import Poster
from cloud.workers.watch import Watch
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError

BATCH_LOG_KEEP_S = 90 * 24 * 3600
HOURS_KEEP_MS = 400 * 86_400_000


def wall_ms() -> int:
    """Wall time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Services:
    """The service's parts."""

    settings: Settings
    db: Database
    identity: Identity
    rotation: Rotation
    users: Users
    ingest: Ingest
    rates: Rates
    proxies: tuple[Network, ...]
    records: Records
    sessions: Sessions
    uploads: Uploads
    exporter: Exporter
    poster: Poster
    dispatcher: Dispatcher
    cron_secret: str
    inbound: Inbound
    feed: Feed
    review: Review
    figures: Figures
    watch: Watch
    assessor: Assessor
    overview: Overview
    commands: Commands
    live: Live
    alerter: Alerter
    notifier: Notifier
    janitor: Janitor
    pacing: wire.Pacing
    schema_version: int
    started_monotonic: float = field(default_factory=time.monotonic)


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Opens the database and brings its schema up to date. Raises StorageBusy, SchemaTooNew, ConfigError."""
    trusted = users.trust(
        secret=settings.jwt_secret,
        secret_file=settings.jwt_secret_file,
        jwks=settings.jwt_jwks,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )
    cron_secret = queue.read_cron_secret(settings.cron_secret, settings.cron_secret_file)
    poster = open_poster(settings)
    async with AsyncExitStack() as stack:
        db = await drivers.connect(settings.database_url)
        stack.push_async_callback(db.close)
        version = await db.migrate()
        stack.push_async_callback(poster.close)
        figures = Figures(db.dialect)
        records = Records(db, wall_ms, record_types.load(settings.record_types_file))
        await records.prepare()
        ingest = Ingest(db, wall_ms, figures, records, notify_after=settings.failures_notify)
        await stack.enter_async_context(ingest.running())
        sessions = Sessions(db, wall_ms, figures)
        clock = Janitor(wall_ms, interval_s=settings.session_expiry_s)
        clock.add("learner-sessions", sessions.expire_due)
        uploads = _open_uploads(settings, db)
        stack.push_async_callback(uploads.close)
        feed = Feed(db, Waiting(db), records.rules)
        await stack.enter_async_context(feed.running())
        janitor = _janitor(settings, db, uploads)
        told = _inbound(settings, db, records)
        janitor.add("webhooks-in", told.drop_old)
        exporter = _exporter(settings, db)
        await stack.enter_async_context(exporter.running())
        await stack.enter_async_context(janitor.running())
        await stack.enter_async_context(clock.running())
        dispatcher = _dispatcher(settings, db, poster, figures)
        await stack.enter_async_context(dispatcher.running())
        live = Live(db)
        await stack.enter_async_context(live.running())
        assessor = _assessor(settings, db)
        await stack.enter_async_context(assessor.running())
        ingest.heard = assessor.wake
        alerter, notifier = _alerter(settings, db), _notifier(settings, db, figures)
        await stack.enter_async_context(notifier.running())
        await stack.enter_async_context(alerter.running())
        records.changed = lambda: _moved(feed, dispatcher)
        rates = open_rates(settings)
        figures.watch_queue(ingest.waiting)
        figures.lend_rates(lambda: rates.refused)
        figures.lend_held(lambda: feed.held)
        figures.lend_exports(lambda: exporter.failures + (exporter.state == "unavailable"))
        watch = Watch(db, figures, thresholds(settings), wall_ms)
        await stack.enter_async_context(watch.running())
        yield Services(
            settings=settings,
            db=db,
            identity=_identity(settings, db),
            rotation=Rotation(db, wall_ms),
            users=Users(trusted, wall_ms),
            ingest=ingest,
            rates=rates,
            proxies=trusted_proxies(settings),
            records=records,
            sessions=sessions,
            uploads=uploads,
            exporter=exporter,
            poster=poster,
            dispatcher=dispatcher,
            cron_secret=cron_secret,
            inbound=told,
            feed=feed,
            review=Review(db, records, wall_ms),
            figures=figures,
            watch=watch,
            assessor=assessor,
            overview=Overview(db=db, now_ms=wall_ms),
            commands=Commands(db, wall_ms),
            live=live,
            alerter=alerter,
            notifier=notifier,
            janitor=janitor,
            pacing=_pacing(settings),
            schema_version=version,
        )


def _identity(settings: Settings, db: Database) -> Identity:
    days = settings.token_rotate_days
    return Identity(db, wall_ms, token_keep_ms=days * 86_400_000 if days else None)


def _assessor(settings: Settings, db: Database) -> Assessor:
    terms = Terms(
        quiet_after_ms=settings.quiet_after_s * 1000,
        improbable=settings.overdue_percent / 100,
        recovering_above=settings.recovering_above,
    )
    known = standing.load_calendars(settings.calendar_file, settings.timezone)
    return Assessor(Assessing(db, wall_ms, terms, known))


def _alerter(settings: Settings, db: Database) -> Alerter:
    terms = incidents.Terms(
        gather_ms=settings.notify_gather_s * 1000,
        together_min=settings.notify_together_min,
        together_percent=settings.notify_together_percent,
        timezone=settings.timezone,
    )
    return Alerter(Alerting(db, wall_ms, terms), wall_ms)


def _notifier(settings: Settings, db: Database, figures: Figures) -> Notifier:
    sent = Counter("pisync_notices", "Messages to people by what came of them", ["outcome"], registry=figures.registry)
    return Notifier(
        db,
        wall_ms,
        timeout_s=settings.notify_timeout_s,
        timezone=settings.timezone,
        public_url=settings.public_url,
        count=lambda outcome: sent.labels(outcome).inc(),
    )


def _inbound(settings: Settings, db: Database, records: Records) -> Inbound:
    secrets = inbound.read_secrets(
        secret=settings.webhook_secret,
        file=settings.webhook_secret_file,
        previous=settings.webhook_secret_previous,
    )
    return Inbound(db, records, wall_ms, secrets=secrets, tolerance_s=settings.webhook_tolerance_s)


def _pacing(settings: Settings) -> wire.Pacing:
    return wire.Pacing(
        sync_in_s=settings.sync_interval_s,
        batch_max_events=wire.BATCH_ITEMS_MAX,
        batch_max_bytes=settings.body_bytes_max,
    )


def _janitor(settings: Settings, db: Database, uploads: Uploads) -> Janitor:
    janitor = Janitor(wall_ms)
    janitor.add("sessions", lambda: identity.drop_expired_sessions(db, wall_ms()))
    keep_ms = settings.transition_keep_days * 86_400_000
    janitor.add("transitions", lambda: standing.drop_old_transitions(db, wall_ms() - keep_ms))
    janitor.add("hours", lambda: events.drop_old_hours(db, wall_ms() - HOURS_KEEP_MS))
    janitor.add("enrolments", lambda: enrolment.forget(db, wall_ms()))
    janitor.add("commands", lambda: commands.forget(db, wall_ms()))
    janitor.add("incidents", lambda: incidents.forget(db, wall_ms() - keep_ms))
    janitor.add("batch-log", lambda: drop_old_batches(db, wall_ms() - BATCH_LOG_KEEP_S * 1000))
    keeper = Housekeeping(db, uploads, wall_ms)
    for name, job in (("recover", keeper.recover), ("expire", keeper.expire), ("sweep", keeper.sweep)):
        janitor.add(f"uploads-{name}", job)
    forget = Retention(db, wall_ms, keep_days=settings.telemetry_keep_days, export_on=bool(settings.export_dir))
    janitor.add("telemetry", forget.telemetry)
    janitor.add("rejected-items", forget.rejected)
    janitor.add("tombstones", lambda: forget.tombstones(settings.tombstone_keep_days))
    janitor.add("conflicts", forget.conflicts)
    janitor.add("webhooks", lambda: deliveries.forget(db, wall_ms(), settings.webhook_keep_days))
    return janitor


def open_rates(settings: Settings) -> Rates:
    """The settings `rate_*`. Raises ConfigError."""
    limits = Limits(
        device_items=settings.rate_device_items,
        user_items=settings.rate_user_items,
        device_requests=settings.rate_device_requests,
        address_requests=settings.rate_address_requests,
        login=settings.rate_login,
    )
    return Rates(limits, settings.rate_storage)


def trusted_proxies(settings: Settings) -> tuple[Network, ...]:
    """The setting `trusted_proxies`. Raises ConfigError."""
    try:
        return proxies.networks(settings.trusted_proxies)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}", hint="networks with commas: 127.0.0.1,10.1.0.0/16") from error


def _moved(feed: Feed, dispatcher: Dispatcher) -> None:
    feed.moved()
    dispatcher.wake()


def open_poster(settings: Settings) -> Poster:
    """What sends webhooks. Raises ConfigError for a webhook_allow that names no networks."""
    try:
        allow = targets.networks(settings.webhook_allow)
    except ValueError as error:
        raise ConfigError(f"webhook_allow: {error}", hint="networks with commas: 127.0.0.0/8,10.1.0.0/16") from error
    return Poster(allow, wall_ms, timeout_s=settings.webhook_timeout_s)


def _dispatcher(settings: Settings, db: Database, poster: Poster, figures: Figures) -> Dispatcher:
    attempts = Counter(
        "pisync_webhook_attempts", "Attempts at webhooks by what they end in", ["outcome"], registry=figures.registry
    )
    return Dispatcher(
        db,
        poster.post,
        wall_ms,
        timeout_s=settings.webhook_timeout_s,
        drain_s=settings.drain_s,
        count=lambda outcome: attempts.labels(outcome).inc(),
    )


def thresholds(settings: Settings) -> Thresholds:
    """The settings `alert_*`."""
    return Thresholds(**{one.name: getattr(settings, f"alert_{one.name}") for one in fields(Thresholds)})


def _exporter(settings: Settings, db: Database) -> Exporter:
    plan = exporting.Plan(
        directory=Path(settings.export_dir) if settings.export_dir else None,
        interval_s=settings.export_interval_s,
        rows_max=settings.export_rows_max,
        free_floor_bytes=settings.free_floor_bytes,
    )
    return Exporter(db, plan, wall_ms)


def _open_uploads(settings: Settings, db: Database) -> Uploads:
    blobs = BlobStore(settings.blobs, free_floor_bytes=settings.free_floor_bytes)
    policy = Policy(upload_bytes_max=settings.upload_bytes_max, keep_ms=settings.upload_keep_s * 1000)
    return Uploads(db, blobs, policy, wall_ms)
