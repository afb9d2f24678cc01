"""GET /api/alerts."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from cloud.api import access, answers
from cloud.rules.alerts import Alert
from cloud.services import SERVICES
from cloud.workers.watch import Watch
from pisyncd.core import wire


class AlertOut(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. `pending`: beyond the threshold, but not for long enough; `no_data`: too little to say."""

    name: str
    state: Literal["ok", "pending", "firing", "no_data"]
    value: float | None
    unit: str
    fires: Literal["above", "below"]
    threshold: float
    since: str | None
    summary: str
    hint: str
    last_updated_at: str


class AlertsOut(msgspec.Struct, frozen=True, kw_only=True):
    """Every alert, and how many of them fire. Rates are taken over `window_s`, pending lasts `for_s`."""

    firing: int
    window_s: float
    for_s: float
    alerts: list[AlertOut]


async def get_alerts(request: web.Request) -> web.Response:
    """200 with every alert. Raises Refusal 401, 403."""
    services = request.app[SERVICES]
    await access.require(request, role="viewer")
    watch = services.watch
    shown = [_out(alert, watch) for alert in watch.alerts]
    data = AlertsOut(
        firing=sum(alert.state == "firing" for alert in shown),
        window_s=watch.thresholds.window_s,
        for_s=watch.thresholds.for_s,
        alerts=shown,
    )
    return answers.ok(request, data)


def _out(alert: Alert, watch: Watch) -> AlertOut:
    rule = alert.rule
    # Two clocks are read, and rounded: what was seen at the last look must not have begun after it.
    since_ms = None if alert.since_s is None else min(watch.wall_ms(alert.since_s), watch.looked_at_ms)
    return AlertOut(
        name=rule.name,
        state=alert.state,
        value=None if alert.value is None else round(alert.value, 3),
        unit=rule.unit,
        fires=rule.fires,
        threshold=rule.threshold,
        since=answers.time_or_none(since_ms),
        summary=rule.summary,
        hint=rule.hint,
        last_updated_at=wire.rfc3339(watch.looked_at_ms),
    )


def setup(app: web.Application) -> None:
    """Adds the route."""
    app.router.add_get("/api/alerts", get_alerts)
