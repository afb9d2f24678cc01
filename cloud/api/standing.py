"""How a device came to stand as it does, and muting."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import standing, timeline
from cloud.flows.timeline import Place
from cloud.rules.standing import FOREVER_MS, StateName
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Tx
from pisyncd.core import problems, wire

MUTE_MAX_S = 5 * 365 * 86_400


class MuteIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long: `for_s` seconds, or until a moment; with neither until it is unmuted."""

    for_s: Annotated[int, Meta(ge=1, le=MUTE_MAX_S)] | None = None
    until: str | None = None
    note: Annotated[str, Meta(max_length=500)] = ""


class StandingOut(msgspec.Struct, frozen=True, kw_only=True):
    """How a device stands. `under`: what it would be if it were not muted; no `muted_until` while muted: no end."""

    device_id: str
    state: StateName
    under: StateName
    since: str
    reason: str
    detail: str
    muted_until: str | None
    last_updated_at: str


class TransitionOut(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a device's state; `at` is when it came about."""

    id: int
    old: StateName
    new: StateName
    reason: str
    detail: str
    at: str
    last_updated_at: str


def mute_until(asked: MuteIn, now_ms: int) -> int | None:
    """The end in wall milliseconds, None: until it is unmuted. Raises Refusal 422."""
    if asked.for_s is not None and asked.until is not None:
        raise problems.invalid("/until", "both", "give for_s or until, not both", hint="leave one of them out")
    if asked.for_s is not None:
        return now_ms + asked.for_s * 1000
    if asked.until is None:
        return None
    until_ms = problems.moment(asked.until, "until")
    if not now_ms < until_ms <= now_ms + MUTE_MAX_S * 1000:
        raise problems.invalid("/until", "range", "until is in the future, within 5 years", hint="or give for_s")
    return until_ms


async def post_mute(request: web.Request) -> web.Response:
    """200 with how the device stands. Raises Refusal 400, 401, 403, 404, 408, 413, 415, 422."""
    principal = await access.require(request, role="operator", grouped=True)
    asked = await payload.read_as(request, MuteIn)
    now_ms = wall_ms()
    until_ms = mute_until(asked, now_ms)
    device_id = request.match_info["device_id"]
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, device_id, "operator")
        await standing.mute(tx, [dk], until_ms=until_ms, note=asked.note, actor=principal.actor, now_ms=now_ms)
        out = await _standing(tx, device_id, dk)
    return answers.ok(request, out)


async def post_unmute(request: web.Request) -> web.Response:
    """200 with how the device stands. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="operator", grouped=True)
    device_id = request.match_info["device_id"]
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, device_id, "operator")
        await standing.unmute(tx, [dk], actor=principal.actor, now_ms=wall_ms())
        out = await _standing(tx, device_id, dk)
    return answers.ok(request, out)


async def _standing(tx: Tx, device_id: str, dk: int) -> StandingOut:
    row = await tx.one("standing_of", dk=dk)
    assert row is not None
    until_ms = row["muted_until_ms"]
    return StandingOut(
        device_id=device_id,
        state=row["state"],
        under=row["under"],
        since=wire.rfc3339(row["since_ms"]),
        reason=row["reason"],
        detail=row["detail"],
        muted_until=None if until_ms is None or until_ms >= FOREVER_MS else wire.rfc3339(until_ms),
        last_updated_at=wire.rfc3339(row["since_ms"]),
    )


async def get_transitions(request: web.Request) -> web.Response:
    """200 with a page of the changes of a device's state, newest first. Raises Refusal 401, 403, 404, 422."""
    device_id = request.match_info["device_id"]
    principal = await access.require(request, device=device_id, role="viewer", grouped=True)
    page = params.page(request, limit=50)
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        rows = await tx.all(
            "transitions_of", dk=dk, before_id=before_id, row_limit=page.limit + 1, row_offset=page.offset
        )
        total = await tx.value("transitions_count", dk=dk)
    more, rows = len(rows) > page.limit, rows[: page.limit]
    shown = [
        TransitionOut(
            id=row["id"],
            old=row["old_state"],
            new=row["new_state"],
            reason=row["reason"],
            detail=row["detail"],
            at=wire.rfc3339(row["at_ms"]),
            last_updated_at=wire.rfc3339(row["at_ms"]),
        )
        for row in rows
    ]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    return answers.ok(request, shown, pagination=answers.pagination(page.number, page.limit, total, cursor))


class HappenedOut(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a device. See cloud/flows/timeline.py for what `detail` holds of each kind."""

    kind: timeline.Kind
    at: str
    id: str
    detail: dict[str, Any]
    last_updated_at: str


async def get_timeline(request: web.Request) -> web.Response:
    """200 with what happened to a device, newest first; `cursor` goes on. Raises Refusal 401, 403, 404, 422."""
    device_id = request.match_info["device_id"]
    principal = await access.require(request, device=device_id, role="viewer", grouped=True)
    page = params.page(request, limit=50)
    place = Place() if page.before is None else Place(at_ms=page.before[0], skip=min(page.before[1], timeline.SKIP_MAX))
    async with request.app[SERVICES].db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        entries, following, total = await timeline.page(tx, dk, device_id, place, page.limit)
    shown = [
        HappenedOut(
            kind=each.kind,
            at=wire.rfc3339(each.at_ms),
            id=each.id,
            detail=each.detail,
            last_updated_at=wire.rfc3339(each.at_ms),
        )
        for each in entries
    ]
    cursor = None if following is None else params.cursor_after(following.at_ms, following.skip)
    return answers.ok(request, shown, pagination=answers.pagination(page.number, page.limit, total, cursor))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/api/devices/{device_id}/mute", post_mute)
    app.router.add_post("/api/devices/{device_id}/unmute", post_unmute)
    app.router.add_get("/api/devices/{device_id}/transitions", get_transitions)
    app.router.add_get("/api/devices/{device_id}/timeline", get_timeline)
