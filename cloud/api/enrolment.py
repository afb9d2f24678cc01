"""Letting devices in: by a code, by a fleet's key, and by a person who accepts or rejects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, keys, payload
from cloud.flows import enrolment, identity, rotation
from cloud.flows.enrolment import Asked, Place
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import problems, wire
from pisyncd.core.problems import Refusal

Text = Annotated[str, Meta(max_length=200)]
Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=50)]
Seconds = Annotated[int, Meta(ge=60, le=366 * 86_400)]
DeviceId = Annotated[str, Meta(pattern=rules.DEVICE_ID_PATTERN)]


class EnrollIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either `code` or `fleet_key`. `token_sha256`: of a token that the device made itself, so that an answer that was
    lost can be asked for again; without it a code's answer tells a token, once."""

    device_id: DeviceId
    code: Annotated[str, Meta(max_length=40)] | None = None
    fleet_key: Text | None = None
    token_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    hardware: Annotated[dict[Annotated[str, Meta(max_length=40)], Text], Meta(max_length=20)] = {}


class EnrolledOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`pending`: a person has to accept it; the same request again, after `retry_after_s`, tells."""

    device_id: str
    state: Literal["accepted", "pending"]
    last_updated_at: str
    token: str | None = None
    retry_after_s: int | None = None


class CodeIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For one device; with `device_id` for that one only, which may be in already and is then replaced."""

    device_id: DeviceId | None = None
    site: Text | None = None
    groups: Names = []
    tags: Names = []
    lasts_s: Seconds | None = None


class CodeMade(msgspec.Struct, frozen=True, kw_only=True):
    """A code as it is typed on the device; it is not shown again."""

    code: str
    expires_at: str
    last_updated_at: str


class CodeOut(msgspec.Struct, frozen=True, kw_only=True):
    """A code by the first signs of its hash."""

    id: str
    device_id: str | None
    site: str | None
    groups: list[str]
    tags: list[str]
    created_by: str
    expires_at: str
    used_by: str | None
    last_updated_at: str


class FleetKeyIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key for prepared cards. `auto_accept`: nobody has to accept its devices, at most `devices_max` of them."""

    name: Text
    site: Text | None = None
    groups: Names = []
    tags: Names = []
    auto_accept: bool = False
    devices_max: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    lasts_s: Seconds | None = None


class FleetKeyOut(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet's key; `devices`: how many came in by it."""

    name: str
    site: str | None
    groups: list[str]
    tags: list[str]
    auto_accept: bool
    devices: int
    devices_max: int | None
    expires_at: str | None
    revoked_at: str | None
    last_updated_at: str


class FleetKeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """The key itself; it is not shown again."""

    name: str
    fleet_key: str
    last_updated_at: str


class EnrolmentOut(msgspec.Struct, frozen=True, kw_only=True):
    """A device that waits to be let in. `known`: one of this name is in already; is it the same?"""

    request_id: str
    device_id: str
    known: bool
    fleet_key: str
    hardware: dict[str, str]
    address: str
    first_at: str
    last_updated_at: str


class AcceptIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`request_id`: when several devices call themselves the same; `replace`: the tokens of the one that is in end."""

    request_id: Text | None = None
    replace: bool = False


class RejectIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`request_id`: when several devices call themselves the same."""

    request_id: Text | None = None


class GoneOut(msgspec.Struct, frozen=True, kw_only=True):
    """What is no more, or has been decided."""

    target: str
    state: str
    last_updated_at: str


async def post_enroll(request: web.Request) -> web.Response:
    """201 when it is in, 200 when it was, 202 while it waits. Raises Refusal 400, 403, 408, 409, 413, 415, 422, 429."""
    services, address, now_ms = request.app[SERVICES], request[keys.CLIENT], wall_ms()
    await services.rates.enroll(address)
    said = await payload.read_as(request, EnrollIn)
    if (said.code is None) == (said.fleet_key is None):
        raise problems.invalid("", "one-of", "give either code or fleet_key")
    token = None
    if said.token_sha256 is None:
        if said.fleet_key is not None:
            raise problems.invalid(
                "/token_sha256", "missing", "a fleet's device makes its own token", hint="64 hex digits"
            )
        token = rotation.new_secret("device")
    asked = Asked(
        device_id=said.device_id,
        token_hash=said.token_sha256 or wire.token_hash(token or ""),
        hardware=said.hardware,
        address=address,
    )
    if said.code is not None:
        found = await enrolment.by_code(services.db, said.code, asked, now_ms)
    else:
        found = await enrolment.by_fleet_key(services.db, said.fleet_key or "", asked, now_ms)
    out = EnrolledOut(
        device_id=found.device_id,
        state="accepted" if found.state == "accepted" else "pending",
        token=token,
        retry_after_s=None if found.state == "accepted" else enrolment.RETRY_S,
        last_updated_at=wire.rfc3339(now_ms),
    )
    return answers.ok(request, out, status=201 if found.fresh else 200 if found.state == "accepted" else 202)


def _place(said: CodeIn | FleetKeyIn) -> Place:
    return Place(site=said.site, groups=tuple(said.groups), tags=tuple(said.tags))


async def post_code(request: web.Request) -> web.Response:
    """201 with a code. Raises Refusal 400, 401, 403, 408, 413, 415, 422."""
    principal = await access.require(request, role="operator")
    said = await payload.read_as(request, CodeIn)
    services, now_ms = request.app[SERVICES], wall_ms()
    lasts_s = said.lasts_s or services.settings.enroll_code_s
    code = await enrolment.make_code(
        services.db, device_id=said.device_id, place=_place(said), lasts_s=lasts_s, actor=principal.actor, now_ms=now_ms
    )
    expires = wire.rfc3339(now_ms + lasts_s * 1000)
    return answers.ok(
        request, CodeMade(code=code, expires_at=expires, last_updated_at=wire.rfc3339(now_ms)), status=201
    )


async def get_codes(request: web.Request) -> web.Response:
    """200 with the newest codes. Raises Refusal 401, 403."""
    await access.require(request, role="operator")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await enrolment.codes(tx)
    return _all(request, [_code(row) for row in rows])


def _lists(row: Row) -> dict[str, list[str]]:
    return {name: msgspec.json.decode(row[name], type=list[str]) for name in ("groups", "tags")}


def _code(row: Row) -> CodeOut:
    return CodeOut(
        id=row["code_hash"][:16],
        device_id=row["device_id"],
        site=row["site"],
        **_lists(row),
        created_by=row["created_by"],
        expires_at=wire.rfc3339(row["expires_at_ms"]),
        used_by=row["used_by"],
        last_updated_at=wire.rfc3339(row["used_at_ms"] or row["created_at_ms"]),
    )


async def delete_code(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="operator")
    now_ms, number = wall_ms(), request.match_info["code_id"]
    await enrolment.remove_code(request.app[SERVICES].db, number, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, GoneOut(target=number, state="removed", last_updated_at=wire.rfc3339(now_ms)))


async def post_fleet_key(request: web.Request) -> web.Response:
    """201 with the key. Raises Refusal 400, 401, 403, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    said = await payload.read_as(request, FleetKeyIn)
    now_ms = wall_ms()
    secret = await enrolment.make_fleet_key(
        request.app[SERVICES].db,
        said.name,
        place=_place(said),
        auto_accept=said.auto_accept,
        devices_max=said.devices_max,
        expires_at_ms=None if said.lasts_s is None else now_ms + said.lasts_s * 1000,
        actor=principal.actor,
        now_ms=now_ms,
    )
    made = FleetKeyMade(name=said.name, fleet_key=secret, last_updated_at=wire.rfc3339(now_ms))
    return answers.ok(request, made, status=201)


async def get_fleet_keys(request: web.Request) -> web.Response:
    """200 with all keys. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await enrolment.fleet_keys(tx)
    shown = [
        FleetKeyOut(
            name=row["name"],
            site=row["site"],
            **_lists(row),
            auto_accept=bool(row["auto_accept"]),
            devices=row["devices"],
            devices_max=row["devices_max"],
            expires_at=answers.time_or_none(row["expires_at_ms"]),
            revoked_at=answers.time_or_none(row["revoked_at_ms"]),
            last_updated_at=wire.rfc3339(row["revoked_at_ms"] or row["created_at_ms"]),
        )
        for row in rows
    ]
    return _all(request, shown)


async def delete_fleet_key(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="admin")
    now_ms, name = wall_ms(), request.match_info["name"]
    await enrolment.revoke_fleet_key(request.app[SERVICES].db, name, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, GoneOut(target=name, state="revoked", last_updated_at=wire.rfc3339(now_ms)))


async def get_enrolments(request: web.Request) -> web.Response:
    """200 with the devices that wait to be let in. Raises Refusal 401, 403."""
    await access.require(request, role="operator")
    async with request.app[SERVICES].db.reading() as tx:
        rows = await enrolment.requests(tx)
    shown = [
        EnrolmentOut(
            request_id=row["id"],
            device_id=row["device_id"],
            known=bool(row["known"]),
            fleet_key=row["fleet_key"],
            hardware=msgspec.json.decode(row["hardware"], type=dict[str, str]),
            address=row["address"],
            first_at=wire.rfc3339(row["first_at_ms"]),
            last_updated_at=wire.rfc3339(row["last_at_ms"]),
        )
        for row in rows
    ]
    return _all(request, shown)


async def post_accept(request: web.Request) -> web.Response:
    """200: the device is in. Raises Refusal 400, 401, 403, 404, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="operator")
    said = await payload.read_as(request, AcceptIn)
    device_id, now_ms = request.match_info["device_id"], wall_ms()
    async with request.app[SERVICES].db.transaction() as tx:
        await enrolment.accept(
            tx,
            device_id,
            request_id=said.request_id,
            replace=said.replace,
            actor=principal.actor,
            now_ms=now_ms,
        )
    return answers.ok(request, GoneOut(target=device_id, state="accepted", last_updated_at=wire.rfc3339(now_ms)))


async def post_reject(request: web.Request) -> web.Response:
    """200: the device stays out. Raises Refusal 400, 401, 403, 404, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="operator")
    said = await payload.read_as(request, RejectIn)
    device_id, now_ms = request.match_info["device_id"], wall_ms()
    async with request.app[SERVICES].db.transaction() as tx:
        await enrolment.reject(tx, device_id, request_id=said.request_id, actor=principal.actor, now_ms=now_ms)
    return answers.ok(request, GoneOut(target=device_id, state="rejected", last_updated_at=wire.rfc3339(now_ms)))


async def post_retire(request: web.Request) -> web.Response:
    """200: the device is shut out; its files and history stay. Raises Refusal 401, 403, 404, 409."""
    principal = await access.require(request, role="operator", grouped=True)
    device_id, now_ms = request.match_info["device_id"], wall_ms()
    services = request.app[SERVICES]
    async with services.db.reading() as tx:
        await access.device_key(tx, principal, device_id, "operator")
    try:
        await identity.revoke(services.db, device_id, now_ms, actor=principal.actor)
    except identity.NotThere as error:
        raise Refusal(409, "device-retired", error.detail, hint="it was shut out before") from error
    return answers.ok(request, GoneOut(target=device_id, state="retired", last_updated_at=wire.rfc3339(now_ms)))


def _all(request: web.Request, shown: list[Any]) -> web.Response:
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


def setup(app: web.Application) -> None:
    """Adds the routes."""
    router = app.router
    router.add_post("/api/enroll", post_enroll)
    router.add_post("/api/enroll-codes", post_code)
    router.add_get("/api/enroll-codes", get_codes)
    router.add_delete("/api/enroll-codes/{code_id}", delete_code)
    router.add_post("/api/fleet-keys", post_fleet_key)
    router.add_get("/api/fleet-keys", get_fleet_keys)
    router.add_delete("/api/fleet-keys/{name}", delete_fleet_key)
    router.add_get("/api/enrolments", get_enrolments)
    router.add_post("/api/devices/{device_id}/accept", post_accept)
    router.add_post("/api/devices/{device_id}/reject", post_reject)
    router.add_post("/api/devices/{device_id}/retire", post_retire)
