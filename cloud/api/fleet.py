"""A fleet at a glance, its failures by what they have in common, and its groups and tags."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import fleet, groups
from cloud.flows.fleet import FaultRow, Snapshot
from cloud.flows.groups import Group, Kind
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import wire


class BucketOut(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices last succeeded so many seconds ago; both null: never."""

    label: str
    from_s: int | None
    to_s: int | None
    devices: int


class HourOut(msgspec.Struct, frozen=True, kw_only=True):
    """Sync events of one hour of receipt."""

    hour: str
    success: int
    partial: int
    failed: int
    files: int
    bytes: int


class FaultOut(msgspec.Struct, frozen=True, kw_only=True):
    """A failure by its code, over the fleet: how many devices have it now, and since when the first of them."""

    code: str
    title: str
    hint: str
    devices: int
    since: str | None
    first_seen_at: str
    last_seen_at: str
    count: int
    last_updated_at: str


class OverviewOut(msgspec.Struct, frozen=True, kw_only=True):
    """Devices per state, the age of their last success, the last 48 hours, what fails. At most 2 s old."""

    devices: int
    states: dict[str, int]
    freshness: list[BucketOut]
    hours: list[HourOut]
    faults: list[FaultOut]
    incidents_open: int
    last_updated_at: str


class GroupIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site may lie in a region (`parent`) and have a calendar; `learners`: how many it serves."""

    kind: Kind = "group"
    parent: Annotated[str, Meta(max_length=64)] | None = None
    calendar: Annotated[str, Meta(max_length=64)] | None = None
    learners: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    note: Annotated[str, Meta(max_length=groups.TEXT_MAX)] = ""


class GroupOut(msgspec.Struct, frozen=True, kw_only=True):
    """A group and how many devices it has."""

    name: str
    kind: Kind
    parent: str | None
    calendar: str | None
    learners: int | None
    note: str
    devices: int
    last_updated_at: str


class TagOut(msgspec.Struct, frozen=True, kw_only=True):
    """A tag and how many devices have it."""

    tag: str
    devices: int
    last_updated_at: str


class GroupRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """The group that is no more."""

    removed: str
    last_updated_at: str


def _fault(row: FaultRow) -> FaultOut:
    return FaultOut(
        code=row.code,
        title=row.title,
        hint=row.hint,
        devices=row.devices,
        since=answers.time_or_none(row.since_ms),
        first_seen_at=wire.rfc3339(row.first_seen_ms),
        last_seen_at=wire.rfc3339(row.last_seen_ms),
        count=row.count,
        last_updated_at=wire.rfc3339(row.last_seen_ms),
    )


def overview_out(found: Snapshot) -> OverviewOut:
    """A snapshot as it is shown."""
    return OverviewOut(
        devices=found.total,
        states=found.states,
        freshness=[
            BucketOut(label=each.label, from_s=each.from_s, to_s=each.to_s, devices=each.devices)
            for each in found.freshness
        ],
        hours=[
            HourOut(
                hour=wire.rfc3339(each.hour_ms),
                success=each.success,
                partial=each.partial,
                failed=each.failed,
                files=each.files,
                bytes=each.bytes,
            )
            for each in found.hours
        ],
        faults=[_fault(each) for each in found.faults],
        incidents_open=found.incidents_open,
        last_updated_at=wire.rfc3339(found.at_ms),
    )


async def get_overview(request: web.Request) -> web.Response:
    """200 with the fleet at a glance. Raises Refusal 401, 403."""
    principal = await access.require(request, role="viewer", grouped=True)
    found = await request.app[SERVICES].overview.of(rules.reach(principal, "viewer"))
    return answers.ok(request, overview_out(found))


async def get_faults(request: web.Request) -> web.Response:
    """200 with a page of faults, the one that most devices have first. Raises Refusal 401, 403, 422."""
    principal = await access.require(request, role="viewer", grouped=True)
    page = params.page(request, limit=50, by_number=True)
    reach = rules.reach(principal, "viewer")
    async with request.app[SERVICES].db.reading() as tx:
        found = await fleet.faults(tx, reach, limit=page.limit, offset=page.offset)
        total = await fleet.faults_total(tx, reach)
    shown = [_fault(each) for each in found[: page.limit]]
    return answers.ok(request, shown, pagination=answers.pagination(page.number, page.limit, total, None))


async def get_groups(request: web.Request) -> web.Response:
    """200 with all groups within reach. Raises Refusal 401, 403."""
    principal = await access.require(request, role="viewer", grouped=True)
    reach = rules.reach(principal, "viewer")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await groups.groups(tx)
    shown = [_group(row) for row in rows if reach is None or row["name"] in reach]
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


def _group(row: Row) -> GroupOut:
    plain = ("name", "kind", "parent", "calendar", "learners", "note", "devices")
    return GroupOut(**{name: row[name] for name in plain}, last_updated_at=wire.rfc3339(row["updated_at_ms"]))


async def put_group(request: web.Request) -> web.Response:
    """200 with the group. Raises Refusal 400, 401, 403, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    asked = await payload.read_as(request, GroupIn)
    name, db = request.match_info["name"], request.app[SERVICES].db
    group = Group(name=name, **msgspec.structs.asdict(asked))
    await groups.put_group(db, group, actor=principal.actor, now_ms=wall_ms())
    async with db.reading() as tx:
        rows = await groups.groups(tx)
    return answers.ok(request, next(_group(row) for row in rows if row["name"] == name))


async def delete_group(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404, 409, 422."""
    principal = await access.require(request, role="admin")
    force = params.choice(request, "force", ("true", "false")) == "true"
    name, now_ms = request.match_info["name"], wall_ms()
    await groups.remove_group(request.app[SERVICES].db, name, force=force, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, GroupRemoved(removed=name, last_updated_at=wire.rfc3339(now_ms)))


async def get_tags(request: web.Request) -> web.Response:
    """200 with all tags. Raises Refusal 401, 403."""
    await access.require(request, role="viewer")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await groups.tags(tx)
    now = wire.rfc3339(wall_ms())
    shown = [TagOut(tag=row["tag"], devices=row["devices"], last_updated_at=now) for row in rows]
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


class TagIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The new name of a tag."""

    tag: Annotated[str, Meta(max_length=64)]


async def put_tag(request: web.Request) -> web.Response:
    """200: all its devices have the other tag now. Raises Refusal 400, 401, 403, 404, 408, 413, 415, 422."""
    principal = await access.require(request, role="operator")
    said, now_ms = await payload.read_as(request, TagIn), wall_ms()
    db, old = request.app[SERVICES].db, request.match_info["tag"]
    count = await groups.rename_tag(db, old, said.tag, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, TagOut(tag=said.tag, devices=count, last_updated_at=wire.rfc3339(now_ms)))


async def delete_tag(request: web.Request) -> web.Response:
    """200: no device has it any more. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="operator")
    db, old, now_ms = request.app[SERVICES].db, request.match_info["tag"], wall_ms()
    await groups.rename_tag(db, old, None, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, TagOut(tag=old, devices=0, last_updated_at=wire.rfc3339(now_ms)))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/overview", get_overview)
    app.router.add_get("/api/faults", get_faults)
    app.router.add_get("/api/groups", get_groups)
    app.router.add_put("/api/groups/{name}", put_group)
    app.router.add_delete("/api/groups/{name}", delete_group)
    app.router.add_get("/api/tags", get_tags)
    app.router.add_put("/api/tags/{tag}", put_tag)
    app.router.add_delete("/api/tags/{tag}", delete_tag)
