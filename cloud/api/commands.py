"""What a device is asked to do in the answer to its next batch, and what the cloud wants of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import commands, identity, rotation
from cloud.rules.access import Principal
from cloud.services import SERVICES, Services, wall_ms
from cloud.store.db import Row
from pisyncd.core import wire
from pisyncd.core.vitals import Command, CommandKind

CommandState = Literal["pending", "sent", "done", "failed", "expired"]


class CommandIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device shall do: a sync cycle at once, or a bundle for support as an upload."""

    kind: CommandKind


class CommandOut(msgspec.Struct, frozen=True, kw_only=True):
    """A command. `pending`: not told yet, `sent`: told, not answered. `detail` of a bundle that is done: its path."""

    id: str
    kind: CommandKind
    state: CommandState
    detail: str
    created_by: str
    created_at: str
    sent_at: str | None
    ended_at: str | None
    last_updated_at: str


class TokenIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the new token is made: for the answer to the next batch, by itself, or `now`, to be carried to the device;
    then the old one holds for `keep_old_s` more seconds, at most a week."""

    when: Literal["next-batch", "now"] = "next-batch"
    keep_old_s: Annotated[int, Meta(ge=0, le=7 * 86_400)] = 0


class TokenOut(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is told this once, and only for `now`."""

    device_id: str
    when: str
    token: str | None
    last_updated_at: str


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud wants this device to do; it obeys within its own bounds."""

    pacing: wire.Pacing
    commands: list[Command]
    record_types: list[str]


async def next_of(services: Services, principal: Principal) -> wire.Pacing:
    """What the answer to a batch asks for."""
    if not principal.dk:
        return services.pacing
    asked = await services.commands.open_for(principal.dk)
    token = await services.rotation.next_token(principal)
    if not asked and token is None:
        return services.pacing
    return msgspec.structs.replace(services.pacing, commands=asked, token=token)


async def post_command(request: web.Request) -> web.Response:
    """202 with the command; the open one when the same is asked for already. Raises Refusal 400, 404, 413, 415, 422."""
    principal = await access.require(request, role="operator", grouped=True)
    device_id = request.match_info["device_id"]
    db = request.app[SERVICES].db
    async with db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "operator")
    asked = await payload.read_as(request, CommandIn)
    async with db.transaction() as tx:
        made = await commands.ask(tx, {dk: device_id}, asked.kind, actor=principal.actor, now_ms=wall_ms())
        row = await tx.one("command_one", id=made[0])
    assert row is not None
    return answers.ok(request, _command(row), status=202)


async def post_token(request: web.Request) -> web.Response:
    """202: the next batch is answered with a new token; 200 with the token itself for `when: now`.

    Raises Refusal 400, 401, 403, 404, 408, 413, 415, 422.
    """
    principal = await access.require(request, role="admin", grouped=True)
    device_id, db = request.match_info["device_id"], request.app[SERVICES].db
    async with db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "admin")
    asked = await payload.read_as(request, TokenIn)
    now_ms = wall_ms()
    token: str | None = None
    if asked.when == "now":
        token = await identity.rotate(db, device_id, now_ms, keep_old_s=asked.keep_old_s, actor=principal.actor)
    else:
        async with db.transaction() as tx:
            await rotation.ask(tx, dk, device_id, actor=principal.actor, now_ms=now_ms)
    out = TokenOut(device_id=device_id, when=asked.when, token=token, last_updated_at=wire.rfc3339(now_ms))
    return answers.ok(request, out, status=200 if token else 202)


async def get_commands(request: web.Request) -> web.Response:
    """200 with a page of what a device was asked, newest first. Raises Refusal 401, 403, 404, 422."""
    device_id = request.match_info["device_id"]
    principal = await access.require(request, device=device_id, role="viewer", grouped=True)
    page = params.page(request, limit=50)
    async with request.app[SERVICES].db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        rows = await tx.all("commands_page", dk=dk, row_limit=page.limit, row_offset=page.offset)
        total = await tx.value("commands_count", dk=dk)
    pagination = answers.pagination(page.number, page.limit, total, None)
    return answers.ok(request, [_command(row) for row in rows], pagination=pagination)


def _command(row: Row) -> CommandOut:
    moments = [row["created_at_ms"], row["sent_at_ms"], row["ended_at_ms"]]
    created, sent, ended = (None if each is None else wire.rfc3339(each) for each in moments)
    assert created is not None
    return CommandOut(
        id=row["id"],
        kind=row["kind"],
        state=row["state"],
        detail=row["detail"],
        created_by=row["created_by"],
        created_at=created,
        sent_at=sent,
        ended_at=ended,
        last_updated_at=ended or sent or created,
    )


async def get_config(request: web.Request) -> web.Response:
    """200 with what the cloud wants of the device; 304 when If-None-Match names that. Raises Refusal 401, 403."""
    principal = await access.require(request, device=True)
    services = request.app[SERVICES]
    config = DeviceConfig(
        pacing=services.pacing,
        commands=await services.commands.open_for(principal.dk),
        record_types=sorted(services.records.rules),
    )
    etag = hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()[:32]
    headers: dict[str, str] = {hdrs.ETAG: f'W/"{etag}"', hdrs.CACHE_CONTROL: "no-cache"}
    if any(known.value in (etag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return answers.ok(request, config, headers=headers)


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_post("/api/devices/{device_id}/commands", post_command)
    app.router.add_get("/api/devices/{device_id}/commands", get_commands)
    app.router.add_post("/api/devices/{device_id}/token", post_token)
    app.router.add_get("/api/device/config", get_config)
