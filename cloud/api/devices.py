"""Devices, repeated failures and notifications."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloud.api import access, answers, params
from cloud.api.shapes import DeviceDetail, DeviceOut, FailureOut, NotificationOut
from cloud.flows import identity, lists
from cloud.services import SERVICES
from cloud.store.db import Row
from pisyncd.core import wire

_SORTS = ("device_id", "last_seen")
_MODES = ("total", "consecutive")


def device_fields(row: Row) -> dict[str, Any]:
    """The fields of a device resource."""
    at = answers.time_or_none
    return {
        "device_id": row["device_id"],
        "enrolled_at": wire.rfc3339(row["enrolled_at_ms"]),
        "revoked_at": at(row["revoked_at_ms"]),
        "last_seen_at": at(row["last_seen_at_ms"]),
        "last_status": row["last_status"],
        "last_event_at": at(row["last_event_at_ms"]),
        "last_success_at": at(row["last_success_at_ms"]),
        "last_failed_at": at(row["last_failed_at_ms"]),
        "last_error_code": row["last_error_code"],
        "events_total": row["events_total"],
        "success_total": row["success_total"],
        "partial_total": row["partial_total"],
        "failed_total": row["failed_total"],
        "consecutive_failures": row["consecutive_failures"],
        "failing_since": at(row["alert_opened_at_ms"]),
        "files_synced_total": row["files_synced_total"],
        "internet_speed": row["last_speed_mbps"],
        "queue_depth": row["last_queue_depth"],
        "last_updated_at": wire.rfc3339(max(row["updated_at_ms"], row["last_seen_at_ms"] or 0)),
    }


async def get_devices(request: web.Request) -> web.Response:
    """200 with a page of devices. Raises Refusal 401, 403, 422."""
    await access.require(request, role="viewer")
    page = params.page(request, limit=50, by_number=True)
    by_seen = params.choice(request, "sort", _SORTS, "device_id") == "last_seen"
    search = request.query.get("search", "").replace("\0", "")
    async with request.app[SERVICES].db.reading() as tx:
        rows, total = await lists.devices(tx, search=search, by_seen=by_seen, limit=page.limit, offset=page.offset)
    return answers.ok(
        request,
        [DeviceOut(**device_fields(row)) for row in rows[: page.limit]],
        pagination=answers.pagination(page.number, page.limit, total, None),
    )


async def get_device(request: web.Request) -> web.Response:
    """200 with one device. Raises Refusal 401, 403, 404."""
    device_id = request.match_info["device_id"]
    await access.require(request, device=device_id, role="viewer")
    async with request.app[SERVICES].db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
        row = await tx.one("device_state_by_dk", dk=dk)
        marks = await tx.all("stream_marks_of", dk=dk)
    assert row is not None
    through = {mark["stream"]: mark["received_through"] for mark in marks}
    return answers.ok(request, DeviceDetail(**device_fields(row), received_through=through))


async def get_repeated_failures(request: web.Request) -> web.Response:
    """200 with the devices that failed more than `threshold` times, worst first. Raises Refusal 401, 403, 422."""
    await access.require(request, role="viewer")
    services = request.app[SERVICES]
    page = params.page(request, limit=100, by_number=True)
    threshold = params.whole(request, "threshold", services.settings.failures_listed_above)
    consecutive = params.choice(request, "mode", _MODES, "total") == "consecutive"
    async with services.db.reading() as tx:
        rows, total = await lists.failures(
            tx, consecutive=consecutive, threshold=threshold, limit=page.limit, offset=page.offset
        )
    return answers.ok(
        request,
        [failure(row) for row in rows[: page.limit]],
        pagination=answers.pagination(page.number, page.limit, total, None),
    )


def failure(row: Row) -> FailureOut:
    """A row of the repeated failures."""
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
        acknowledged=False,
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
    app.router.add_get("/api/notifications", get_notifications)
