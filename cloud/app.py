"""The application: routes and the edge around them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloud.api import (
    alerts,
    audit,
    boundary,
    browser,
    changes,
    commands,
    conflicts,
    devices,
    docs,
    enrolment,
    exports,
    files,
    fleet,
    health,
    inbound,
    incidents,
    metrics,
    notifying,
    people,
    probe,
    records,
    sessions,
    shutout,
    standing,
    subscriptions,
    sync,
    sync_events,
    telemetry,
    uploads,
    webhooks,
)
from cloud.dashboard import (
    conflict_pages,
    enrolment_pages,
    group_pages,
    incident_pages,
    live,
    notification_pages,
    pages,
    people_pages,
    record_pages,
    signin,
    webhook_pages,
)
from cloud.services import SERVICES, Services

_PARTS: tuple[Any, ...] = (
    sync_events,
    devices,
    commands,
    enrolment,
    fleet,
    standing,
    subscriptions,
    changes,
    records,
    conflicts,
    telemetry,
    sessions,
    browser,
    uploads,
    files,
    exports,
    probe,
    health,
    metrics,
    alerts,
    audit,
    webhooks,
    inbound,
    incidents,
    notifying,
    people,
    sync,
    docs,
    pages,
    live,
    signin,
    incident_pages,
    notification_pages,
    group_pages,
    enrolment_pages,
    conflict_pages,
    webhook_pages,
    record_pages,
    people_pages,
)


def build_app(services: Services) -> web.Application:
    """An aiohttp application over opened services."""
    app = web.Application(middlewares=[boundary.boundary], client_max_size=services.settings.body_bytes_max)
    app[SERVICES] = services
    app[boundary.IN_FLIGHT] = boundary.InFlight()
    app[shutout.UNDER_WAY] = shutout.UnderWay()
    app.cleanup_ctx.append(shutout.looking)
    app.on_response_prepare.append(boundary.stamp)
    for part in _PARTS:
        part.setup(app)
    return app
