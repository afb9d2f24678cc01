"""The page of one device, and what people do to a device there."""

from __future__ import annotations

from typing import cast, get_args
from urllib.parse import quote

from aiohttp import web

from cloud.api import access, params
from cloud.dashboard import device_reading, forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import commands, groups, identity, rotation, standing
from cloud.flows.groups import Described
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from pisyncd.core import problems
from pisyncd.core.vitals import CommandKind

DAY_MS = 86_400_000
MUTES = ("1", "7", "30", "until", "")


def _id(request: web.Request) -> str:
    return request.match_info["device_id"]


def _done(request: web.Request, done: str) -> str:
    return f"/devices/{quote(_id(request), safe='')}?done={done}"


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One device. Raises Refusal 404, 422."""
    files_page = params.whole(request, "files", 1, least=1, most=params.PAGE_MAX)
    events_page = params.whole(request, "events", 1, least=1, most=params.PAGE_MAX)
    context = await device_reading.device(
        request.app[SERVICES], forms.who(request), _id(request), files_page=files_page, events_page=events_page
    )
    return frame.render(request, "device.html", {**context, "tried": tried}, status=tried.status)


@page(grouped=True)
async def get_device(request: web.Request) -> web.StreamResponse:
    """200: one device. Raises Refusal 404, 422 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="operator", grouped=True)
@beside(show, "mute")
async def post_mute(request: web.Request, fields: Fields) -> str:
    """Nobody is told of it for a while. Raises Refusal 404, 422."""
    principal, now_ms = forms.who(request), wall_ms()
    lasting = forms.choice(fields, "for", MUTES)
    until_ms = forms.moment(fields, "until") if lasting == "until" else None
    if lasting.isdecimal():
        until_ms = now_ms + int(lasting) * DAY_MS
    if lasting == "until" and (until_ms is None or until_ms <= now_ms):
        raise problems.invalid("/until", "range", "until: a moment that is still to come")
    note = first(fields, "note")[:500]
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, _id(request), "operator")
        await standing.mute(tx, [dk], until_ms=until_ms, note=note, actor=principal.actor, now_ms=now_ms)
    return _done(request, "muted")


@form(role="operator", grouped=True)
async def post_unmute(request: web.Request, _fields: Fields) -> str:
    """People are told of it again. Raises Refusal 404."""
    principal = forms.who(request)
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, _id(request), "operator")
        await standing.unmute(tx, [dk], actor=principal.actor, now_ms=wall_ms())
    return _done(request, "unmuted")


@form(role="operator", grouped=True)
@beside(show, "ask")
async def post_ask(request: web.Request, fields: Fields) -> str:
    """The device is asked for something in the answer to its next batch. Raises Refusal 404, 422."""
    kind = forms.choice(fields, "kind", get_args(CommandKind))
    principal = forms.who(request)
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, _id(request), "operator")
        asked = {dk: _id(request)}
        await commands.ask(tx, asked, cast(CommandKind, kind), actor=principal.actor, now_ms=wall_ms())
    return _done(request, f"{kind}-asked")


@form(role="operator", grouped=True)
@beside(show, "describe")
async def post_describe(request: web.Request, fields: Fields) -> str:
    """Label, note, site, groups and tags. Raises Refusal 404, 422."""
    principal = forms.who(request)
    may_move = rules.reach(principal, "operator") is None
    said = Described(
        label=first(fields, "label"),
        note=first(fields, "note").replace("\r\n", "\n"),
        site=first(fields, "site") if may_move else None,
        groups=forms.names(fields, "groups") if may_move else None,
        tags=forms.names(fields, "tags"),
    )
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, _id(request), "operator")
        await groups.describe(tx, dk, _id(request), said, actor=principal.actor, now_ms=wall_ms())
    return _done(request, "described")


@form(role="admin", grouped=True)
async def post_rotate(request: web.Request, _fields: Fields) -> str:
    """The next batch is answered with a new token. Raises Refusal 404."""
    principal = forms.who(request)
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, _id(request), "admin")
        await rotation.ask(tx, dk, _id(request), actor=principal.actor, now_ms=wall_ms())
    return _done(request, "token-rotates")


async def show_retire(request: web.Request, tried: Tried) -> web.StreamResponse:
    """Asks whether it is meant. Raises Refusal 404."""
    async with request.app[SERVICES].db.reading() as tx:
        await access.device_key(tx, forms.who(request), _id(request), "admin")
    return frame.render(request, "retire.html", {"device_id": _id(request), "tried": tried}, status=tried.status)


@page(role="admin")
async def get_retire(request: web.Request) -> web.StreamResponse:
    """200: the question whether it is meant. Raises Refusal 404 (shown as a page)."""
    return await show_retire(request, NOTHING)


@form(role="admin")
@beside(show_retire, "retire")
async def post_retire(request: web.Request, fields: Fields) -> str:
    """Shut out for good. Raises Refusal 404, 422."""
    if first(fields, "confirm") != _id(request):
        raise problems.invalid("/confirm", "confirm", "That is not the id of the device.")
    services = request.app[SERVICES]
    async with services.db.reading() as tx:
        await access.device_key(tx, forms.who(request), _id(request), "admin")
    await identity.revoke(services.db, _id(request), wall_ms(), actor=forms.who(request).actor)
    return _done(request, "device-retired")


def setup(app: web.Application) -> None:
    """Adds the pages."""
    app.router.add_get("/devices/{device_id}", get_device)
    app.router.add_post("/devices/{device_id}/mute", post_mute)
    app.router.add_post("/devices/{device_id}/unmute", post_unmute)
    app.router.add_post("/devices/{device_id}/ask", post_ask)
    app.router.add_post("/devices/{device_id}/describe", post_describe)
    app.router.add_post("/devices/{device_id}/rotate", post_rotate)
    app.router.add_get("/devices/{device_id}/retire", get_retire)
    app.router.add_post("/devices/{device_id}/retire", post_retire)
