"""Devices, repeated failures and notifications."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.api.shapes import DeviceDetail, DeviceFaultOut, DeviceOut, FailureOut, NotificationOut
from cloud.config import Settings
from cloud.flows import fleet, groups, identity, incidents, lists
from cloud.flows.fleet import Ages, Wanted
from cloud.flows.groups import Described
from cloud.rules import access as roles
from cloud.rules import faults
from cloud.rules import fleet as rules
from cloud.rules.standing import FOREVER_MS, STATES
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row, Tx
from pisyncd.core import problems, wire
from pisyncd.core.problems import Refusal
from pisyncd.core.vitals import Vitals

WINDOW_S_MIN, WINDOW_S_MAX = 60, 10 * 366 * 86_400
_MODES = ("total", "consecutive")


class DevicePatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people say of a device; what is left out stays. `site` '': none."""

    label: Annotated[str, Meta(max_length=100)] | None = None
    note: Annotated[str, Meta(max_length=groups.TEXT_MAX)] | None = None
    site: Annotated[str, Meta(max_length=64)] | None = None
    groups: Annotated[list[str], Meta(max_length=100)] | None = None
    tags: Annotated[list[str], Meta(max_length=groups.TAGS_MAX)] | None = None


def ages(settings: Settings) -> Ages:
    """The settings fresh_minutes and stale_minutes."""
    return Ages(fresh_ms=settings.fresh_minutes * 60_000, stale_ms=settings.stale_minutes * 60_000)


def device_fields(row: Row, settings: Settings, now_ms: int) -> dict[str, Any]:
    """The fields of a device resource."""
    at = answers.time_or_none
    until_ms = row["muted_until_ms"]
    success_ms = row["last_success_at_ms"]
    age_s = None if success_ms is None else (now_ms - success_ms) / 1000
    plain = (
        "device_id", "last_status", "last_error_code", "events_total", "success_total", "partial_total",
        "failed_total", "consecutive_failures", "label", "site", "state",
    )  # fmt: skip
    return {
        **{name: row[name] for name in plain},
        "enrolled_at": wire.rfc3339(row["enrolled_at_ms"]),
        "revoked_at": at(row["revoked_at_ms"]),
        "last_seen_at": at(row["last_seen_at_ms"]),
        "last_event_at": at(row["last_event_at_ms"]),
        "last_success_at": at(success_ms),
        "last_failed_at": at(row["last_failed_at_ms"]),
        "failing_since": at(row["alert_opened_at_ms"]),
        "files_synced_total": row["files_synced_total"],
        "internet_speed": row["last_speed_mbps"],
        "queue_depth": row["last_queue_depth"],
        "state_since": wire.rfc3339(row["since_ms"]),
        "state_reason": row["reason"],
        "freshness": rules.freshness(age_s, fresh_s=settings.fresh_minutes * 60, stale_s=settings.stale_minutes * 60),
        "muted_until": None if until_ms is None or until_ms >= FOREVER_MS else wire.rfc3339(until_ms),
        "clears_at": at(row["clear_at_ms"]),
        "last_updated_at": wire.rfc3339(max(row["updated_at_ms"], row["last_seen_at_ms"] or 0, row["since_ms"])),
    }


def wanted(request: web.Request, *, sort: str = "device_id") -> Wanted:
    """The filters of a list of devices. Raises Refusal 422."""
    text = {name: (request.query.get(name) or None) for name in ("group", "tag", "fault")}
    for name, value in text.items():
        if value is not None and (len(value) > 128 or not value.isprintable()):
            raise problems.invalid(f"query:{name}", "text", f"{name} is at most 128 printable characters")
    return Wanted(
        state=params.choice(request, "state", STATES),
        fresh=params.choice(request, "freshness", rules.FRESHNESS),
        sort=params.choice(request, "sort", rules.SORTS, sort) or sort,
        search=request.query.get("search", "").replace("\0", "")[: lists.SEARCH_MAX],
        **text,
    )


async def get_devices(request: web.Request) -> web.Response:
    """200 with a page of devices. Raises Refusal 401, 403, 422."""
    principal = await access.require(request, role="viewer", grouped=True)
    page = params.page(request, limit=50, by_number=True)
    chosen, services, now_ms = wanted(request), request.app[SERVICES], wall_ms()
    async with services.db.reading() as tx:
        rows, total = await fleet.devices(
            tx,
            chosen,
            roles.reach(principal, "viewer"),
            ages=ages(services.settings),
            now_ms=now_ms,
            limit=page.limit,
            offset=page.offset,
        )
    return answers.ok(
        request,
        [DeviceOut(**device_fields(row, services.settings, now_ms)) for row in rows[: page.limit]],
        pagination=answers.pagination(page.number, page.limit, total, None),
    )


async def get_device(request: web.Request) -> web.Response:
    """200 with one device. Raises Refusal 401, 403, 404."""
    device_id = request.match_info["device_id"]
    principal = await access.require(request, device=device_id, role="viewer", grouped=True)
    services = request.app[SERVICES]
    async with services.db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        return answers.ok(request, await _detail(tx, dk, services.settings))


async def patch_device(request: web.Request) -> web.Response:
    """200 with the device. Raises Refusal 400, 401, 403, 404, 408, 413, 415, 422."""
    principal = await access.require(request, role="operator", grouped=True)
    device_id = request.match_info["device_id"]
    said = await payload.read_as(request, DevicePatch)
    services = request.app[SERVICES]
    async with services.db.transaction() as tx:
        dk = await access.device_key(tx, principal, device_id, "operator")
        if (said.site is not None or said.groups is not None) and roles.reach(principal, "operator") is not None:
            raise Refusal(403, "role-missing", "groups are changed by operators of everything", hint="ask one of them")
        described = Described(**msgspec.structs.asdict(said))
        await groups.describe(tx, dk, device_id, described, actor=principal.actor, now_ms=wall_ms())
        out = await _detail(tx, dk, services.settings)
    return answers.ok(request, out)


async def _detail(tx: Tx, dk: int, settings: Settings) -> DeviceDetail:
    row = await fleet.device(tx, dk)
    marks = await tx.all("stream_marks_of", dk=dk)
    told = await tx.one("vitals_shown", dk=dk)
    _, named, tagged = await groups.of_device(tx, dk)
    return DeviceDetail(
        **device_fields(row, settings, wall_ms()),
        received_through={mark["stream"]: mark["received_through"] for mark in marks},
        note=row["note"],
        groups=named,
        tags=tagged,
        faults=[_fault(each) for each in await tx.all("faults_of_device", dk=dk)],
        vitals=msgspec.json.decode(told["body"], type=Vitals) if told else None,
        vitals_at=wire.rfc3339(told["at_ms"]) if told else None,
    )


def _fault(row: Row) -> DeviceFaultOut:
    known = faults.about(row["code"])
    return DeviceFaultOut(
        code=row["code"],
        title=known.title,
        hint=known.hint,
        since=answers.time_or_none(row["since_ms"]),
        first_seen_at=wire.rfc3339(row["first_seen_ms"]),
        last_seen_at=wire.rfc3339(row["last_seen_ms"]),
        count=row["count"],
    )


async def get_repeated_failures(request: web.Request) -> web.Response:
    """200 with the devices that failed more than `threshold` times, worst first. Raises Refusal 401, 403, 422."""
    await access.require(request, role="viewer")
    services = request.app[SERVICES]
    page = params.page(request, limit=100, by_number=True)
    threshold = params.whole(request, "threshold", services.settings.failures_listed_above)
    window_s = params.whole(request, "window", 0, most=WINDOW_S_MAX)
    if 0 < window_s < WINDOW_S_MIN:
        raise problems.invalid("query:window", "range", f"window is at least {WINDOW_S_MIN} seconds")
    taken = params.choice(request, "acknowledged", ("true", "false"))
    failing = lists.Failing(
        threshold=threshold,
        consecutive=params.choice(request, "mode", _MODES, "total") == "consecutive",
        from_ms=wall_ms() - window_s * 1000 if window_s else None,
        group=wanted(request).group,
        acknowledged=None if taken is None else taken == "true",
    )
    async with services.db.reading() as tx:
        rows, total = await lists.failures(tx, failing, limit=page.limit, offset=page.offset)
        taken_on = await incidents.acknowledged_devices(tx)
    return answers.ok(
        request,
        [failure(row, acknowledged=row["dk"] in taken_on) for row in rows[: page.limit]],
        pagination=answers.pagination(page.number, page.limit, total, None),
    )


def failure(row: Row, *, acknowledged: bool = False) -> FailureOut:
    """A row of the repeated failures; `acknowledged`: somebody has taken it on."""
    at = answers.time_or_none
    return FailureOut(
        device_id=row["device_id"],
        failed_count=row["failed_total"],
        consecutive_failures=row["consecutive_failures"],
        last_status=row["last_status"],
        last_success_at=at(row["last_success_at_ms"]),
        last_failed_at=at(row["last_failed_at_ms"]),
        last_error_code=row["last_error_code"],
        failing_since=at(row["alert_opened_at_ms"]),
        acknowledged=acknowledged,
        last_updated_at=wire.rfc3339(row["updated_at_ms"]),
    )


async def get_notifications(request: web.Request) -> web.Response:
    """200 with a page of notifications, newest first. Raises Refusal 401, 403, 404, 422."""
    await access.require(request, role="viewer")
    page = params.page(request, limit=50)
    wanted = params.choice(request, "open", ("true", "false"))
    device_id = request.query.get("device_id", "")
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        dk = await identity.device_key(tx, device_id) if device_id else None
        rows, total = await lists.notifications(
            tx,
            dk=dk,
            is_open=None if wanted is None else wanted == "true",
            before_id=before_id,
            limit=page.limit,
            offset=page.offset,
        )
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    return answers.ok(
        request,
        [_notification(row) for row in rows],
        pagination=answers.pagination(page.number, page.limit, total, cursor),
    )


def _notification(row: Row) -> NotificationOut:
    return NotificationOut(
        id=row["id"],
        device_id=row["device_id"],
        kind=row["kind"],
        opened_at=wire.rfc3339(row["opened_at_ms"]),
        closed_at=answers.time_or_none(row["closed_at_ms"]),
        consecutive_failures=row["consecutive_failures"],
        last_error_code=row["last_error_code"],
        last_updated_at=wire.rfc3339(row["closed_at_ms"] or row["opened_at_ms"]),
    )


def setup(app: web.Application) -> None:
    """Adds the routes; the fixed one before the one with a name in it."""
    app.router.add_get("/api/devices", get_devices)
    app.router.add_get("/api/devices/repeated-failures", get_repeated_failures)
    app.router.add_get("/api/devices/{device_id}", get_device)
    app.router.add_patch("/api/devices/{device_id}", patch_device)
    app.router.add_get("/api/notifications", get_notifications)
