"""How devices are let in: those that ask, codes, fleet keys. A code or key that is made is shown once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from cloud.api import params
from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import enrolment, groups
from cloud.flows.enrolment import Place
from cloud.rules import access
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import problems

STATES = ("pending", "accepted", "rejected")
DAY_MS = 86_400_000
HOURS_MAX = 24 * 90
DAYS_MAX = 3650
DEVICES_MAX = 10_000_000
#: How much of a code's hash names it: enough to be its own, and no way back to the code.
HASH_CHARS = 16


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """Those that ask and codes; for admins fleet keys too. Raises Refusal 422."""
    state = params.choice(request, "state", STATES, "pending") or "pending"
    is_admin = access.covers(forms.who(request).role, "admin")
    async with request.app[SERVICES].db.reading() as tx:
        context = {
            "requests": [{**dict(row), "hardware": _pairs(row)} for row in await enrolment.requests(tx, state)],
            "codes": [{**_placed(row), "id": row["code_hash"][:HASH_CHARS]} for row in await enrolment.codes(tx)],
            "fleet_keys": list(map(_placed, await enrolment.fleet_keys(tx))) if is_admin else [],
            **_suggestions(await groups.groups(tx)),
            "state": state,
            "states": STATES,
            "tried": tried,
        }
    return frame.render(request, "enrolment.html", context, status=tried.status)


def _pairs(row: Row) -> list[tuple[str, str]]:
    """What a device says of its board."""
    return [(name, str(value)) for name, value in msgspec.json.decode(row["hardware"], type=dict[str, Any]).items()]


def _placed(row: Row) -> dict[str, Any]:
    return {**dict(row), **{name: msgspec.json.decode(row[name], type=list[str]) for name in ("groups", "tags")}}


def _suggestions(found: Sequence[Row]) -> dict[str, list[str]]:
    return {
        "sites": [row["name"] for row in found if row["kind"] == "site"],
        "group_names": [row["name"] for row in found if row["kind"] == "group"],
    }


@page(role="operator")
async def get_enrolment(request: web.Request) -> web.StreamResponse:
    """200: devices that ask, codes, fleet keys. Raises Refusal 422 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="operator")
@beside(show, "request")
async def post_accept(request: web.Request, fields: Fields) -> str:
    """A device that waits is let in. Raises Refusal 404, 409."""
    async with request.app[SERVICES].db.transaction() as tx:
        await enrolment.accept(
            tx,
            first(fields, "device_id"),
            request_id=first(fields, "id"),
            replace=forms.ticked(fields, "replace"),
            actor=forms.who(request).actor,
            now_ms=wall_ms(),
        )
    return "/enrolment?done=device-accepted"


@form(role="operator")
@beside(show, "request")
async def post_reject(request: web.Request, fields: Fields) -> str:
    """A device that waits is kept out. Raises Refusal 404, 409."""
    async with request.app[SERVICES].db.transaction() as tx:
        await enrolment.reject(
            tx,
            first(fields, "device_id"),
            request_id=first(fields, "id"),
            actor=forms.who(request).actor,
            now_ms=wall_ms(),
        )
    return "/enrolment?done=device-rejected"


def _place(fields: Fields) -> Place:
    return Place(
        site=first(fields, "site") or None,
        groups=tuple(forms.names(fields, "groups")),
        tags=tuple(forms.names(fields, "tags")),
    )


@form(role="operator")
@beside(show, "code")
async def post_code(request: web.Request, fields: Fields) -> web.StreamResponse:
    """200: the code, shown only here. Raises Refusal 422."""
    hours = forms.whole(fields, "hours", least=1, most=HOURS_MAX)
    if hours is None:
        raise problems.invalid("/hours", "required", "for how many hours?")
    device_id = first(fields, "device_id") or None
    code = await enrolment.make_code(
        request.app[SERVICES].db,
        device_id=device_id,
        place=_place(fields),
        lasts_s=hours * 3600,
        actor=forms.who(request).actor,
        now_ms=wall_ms(),
    )
    note = f"On the device: pisyncctl enroll --code CODE. It works once, for {hours} hours."
    return _secret(request, f"A code for {device_id or 'a device'}", "Code", code, note)


@form(role="operator")
@beside(show, "code")
async def post_remove_code(request: web.Request, fields: Fields) -> str:
    """A code ends. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await enrolment.remove_code(db, first(fields, "id"), actor=actor, now_ms=wall_ms())
    return "/enrolment?done=code-removed"


@form(role="admin")
@beside(show, "fleet-key")
async def post_fleet_key(request: web.Request, fields: Fields) -> web.StreamResponse:
    """200: the key, shown only here. Raises Refusal 409, 422."""
    name, now_ms = first(fields, "name"), wall_ms()
    days = forms.whole(fields, "days", least=1, most=DAYS_MAX)
    secret = await enrolment.make_fleet_key(
        request.app[SERVICES].db,
        name,
        place=_place(fields),
        auto_accept=forms.ticked(fields, "auto_accept"),
        devices_max=forms.whole(fields, "devices_max", least=1, most=DEVICES_MAX),
        expires_at_ms=None if days is None else now_ms + days * DAY_MS,
        actor=forms.who(request).actor,
        now_ms=now_ms,
    )
    note = "It goes onto prepared cards; whoever reads a card has it."
    return _secret(request, f"The fleet key {name} is made", "Fleet key", secret, note)


@form(role="admin")
@beside(show, "fleet-key")
async def post_revoke_fleet_key(request: web.Request, fields: Fields) -> str:
    """No device comes in by it any more. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await enrolment.revoke_fleet_key(db, first(fields, "name"), actor=actor, now_ms=wall_ms())
    return "/enrolment?done=fleet-key-revoked"


def _secret(request: web.Request, title: str, label: str, secret: str, note: str) -> web.Response:
    context = {
        "title": title,
        "label": label,
        "secret": secret,
        "note": note,
        "back": "/enrolment",
        "back_label": "Enrolment",
    }
    return frame.render(request, "secret.html", context)


def setup(app: web.Application) -> None:
    """Adds the pages."""
    router, base = app.router, "/enrolment"
    router.add_get(base, get_enrolment)
    router.add_post(f"{base}/requests/accept", post_accept)
    router.add_post(f"{base}/requests/reject", post_reject)
    router.add_post(f"{base}/codes", post_code)
    router.add_post(f"{base}/codes/remove", post_remove_code)
    router.add_post(f"{base}/fleet-keys", post_fleet_key)
    router.add_post(f"{base}/fleet-keys/revoke", post_revoke_fleet_key)
