"""Incidents: what people were told of, and who has taken it on."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import incidents
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import wire

STATES = ("open", "acknowledged", "closed")


class AcknowledgeIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of it, or who goes there."""

    note: Annotated[str, Meta(max_length=incidents.NOTE_MAX)] = ""


class MemberOut(msgspec.Struct, frozen=True, kw_only=True):
    """A device of an incident; `left_at` null: it is still in it."""

    device_id: str
    joined_at: str
    left_at: str | None


class IncidentOut(msgspec.Struct, frozen=True, kw_only=True):
    """One incident. `subject`: a device, a group or an error code, by `kind`; `devices`: how many in all."""

    id: int
    rule: str
    kind: Literal["device", "group", "fault"]
    subject: str
    cause: str
    fault: str
    state: Literal["open", "acknowledged", "closed"]
    devices: int
    opened_at: str
    closed_at: str | None
    acknowledged_at: str | None
    acknowledged_by: str | None
    note: str
    escalates_at: str | None
    last_updated_at: str


class IncidentDetail(IncidentOut, frozen=True, kw_only=True):
    """One incident with its devices, those that are still in it first, at most 500."""

    members: list[MemberOut]


def _fields(row: Row) -> dict[str, object]:
    at = answers.time_or_none
    plain = ("id", "rule", "kind", "subject", "cause", "fault", "state", "devices", "acknowledged_by", "note")
    return {
        **{name: row[name] for name in plain},
        "opened_at": wire.rfc3339(row["opened_at_ms"]),
        "closed_at": at(row["closed_at_ms"]),
        "acknowledged_at": at(row["acknowledged_at_ms"]),
        "escalates_at": at(row["escalate_at_ms"]),
        "last_updated_at": wire.rfc3339(row["updated_at_ms"]),
    }


async def get_incidents(request: web.Request) -> web.Response:
    """200 with a page of incidents, newest first. Raises Refusal 401, 403, 404, 422."""
    principal = await access.require(request, role="viewer", grouped=True)
    page = params.page(request, limit=50)
    state = params.choice(request, "state", STATES)
    before_id = page.before[1] if page.before else params.INT64_MAX
    device_id = request.query.get("device_id", "")
    async with request.app[SERVICES].db.reading() as tx:
        if device_id:
            dk = await access.device_key(tx, principal, device_id, "viewer")
            rows = await incidents.of_device(tx, dk)
            total = len(rows)
        else:
            reach = rules.reach(principal, "viewer")
            rows, total = await incidents.page(
                tx, state=state, reach=reach, before_id=before_id, limit=page.limit, offset=page.offset
            )
    more, rows = len(rows) > page.limit, rows[: page.limit]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    shown = [msgspec.convert(_fields(row), IncidentOut) for row in rows]
    return answers.ok(request, shown, pagination=answers.pagination(page.number, page.limit, total, cursor))


def _number(request: web.Request) -> int:
    text = request.match_info["incident_id"]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


async def get_incident(request: web.Request) -> web.Response:
    """200 with an incident and its devices. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="viewer", grouped=True)
    async with request.app[SERVICES].db.reading() as tx:
        row, members = await incidents.one(tx, _number(request), rules.reach(principal, "viewer"))
    shown = [
        {
            "device_id": each["device_id"],
            "joined_at": wire.rfc3339(each["joined_at_ms"]),
            "left_at": answers.time_or_none(each["left_at_ms"]),
        }
        for each in members
    ]
    return answers.ok(request, msgspec.convert({**_fields(row), "members": shown}, IncidentDetail))


async def post_acknowledge(request: web.Request) -> web.Response:
    """200 with the incident. Raises Refusal 400, 401, 403, 404, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="operator", grouped=True)
    asked = await payload.read_as(request, AcknowledgeIn)
    row = await incidents.acknowledge(
        request.app[SERVICES].db,
        _number(request),
        note=asked.note,
        actor=principal.actor,
        reach=rules.reach(principal, "operator"),
        now_ms=wall_ms(),
    )
    return answers.ok(request, msgspec.convert(_fields(row), IncidentOut))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/incidents", get_incidents)
    app.router.add_get("/api/incidents/{incident_id}", get_incident)
    app.router.add_post("/api/incidents/{incident_id}/ack", post_acknowledge)
