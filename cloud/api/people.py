"""Who may sign in, keys of the API, and what the one who asks may do."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, payload
from cloud.flows import identity, operators
from cloud.flows.operators import Person
from cloud.rules.access import Grant, Role
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import problems, wire

Name = Annotated[str, Meta(max_length=64)]
Grants = Annotated[list[Grant], Meta(min_length=1, max_length=100)]
Names = Annotated[list[Name], Meta(max_length=100)]


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `scopes`: the parts of the API that a key is narrowed to; empty: all."""

    kind: Literal["device", "key", "operator", "user"]
    name: str
    grants: list[Grant]
    scopes: list[str]


class OperatorIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays; a new operator takes a password and grants."""

    password: Annotated[str, Meta(max_length=1024)] | None = None
    grants: Grants | None = None
    disabled: bool | None = None


class OperatorOut(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may sign in."""

    name: str
    grants: list[Grant]
    disabled: bool
    created_at: str
    last_updated_at: str


class KeyIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For everything, or for the devices of some groups and for some scopes (parts of the API); for good, or a time."""

    name: Name
    role: Role
    groups: Names = []
    scopes: Names = []
    lasts_s: Annotated[int, Meta(ge=60, le=3650 * 86_400)] | None = None


class KeyOut(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    name: str
    role: Role
    groups: list[str]
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_updated_at: str


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """The secret, told this once."""

    name: str
    key: str
    last_updated_at: str


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """What is no more."""

    name: str
    last_updated_at: str


async def get_me(request: web.Request) -> web.Response:
    """200 with who asks. Raises Refusal 401."""
    found = await access.require(request, role="viewer", grouped=True, device=True, user=True)
    name = found.user_id if found.kind == "user" else found.name
    return answers.ok(
        request, Me(kind=found.kind, name=name, grants=list(found.grants), scopes=sorted(found.scopes))
    )


async def get_operators(request: web.Request) -> web.Response:
    """200 with all of them. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        shown = [_operator(each) for each in await operators.people(tx)]
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


async def put_operator(request: web.Request) -> web.Response:
    """200 with the person, 201 for a new one. Raises Refusal 400, 401, 403, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    said, name = await payload.read_as(request, OperatorIn), request.match_info["name"]
    db, now_ms, actor = request.app[SERVICES].db, wall_ms(), principal.actor
    async with db.reading() as tx:
        known = name in {each.name for each in await operators.people(tx)}
    if not known:
        if said.password is None or said.grants is None:
            raise problems.invalid(
                "/password" if said.password is None else "/grants", "missing", f"there is no {name!r} yet"[:200],
                hint="a new operator takes a password and grants",
            )  # fmt: skip
        await operators.add(db, name, said.password, said.grants, now_ms=now_ms, actor=actor)
    else:
        # A password that is too weak changes nothing.
        if said.password is not None:
            await operators.set_password(db, name, said.password, now_ms=now_ms, actor=actor)
        if said.grants is not None:
            await operators.set_grants(db, name, said.grants, now_ms=now_ms, actor=actor)
    if said.disabled is not None:
        await operators.set_disabled(db, name, said.disabled, now_ms=now_ms, actor=actor)
    async with db.reading() as tx:
        out = _operator(await operators.one(tx, name))
    return answers.ok(request, out, status=200 if known else 201)


async def delete_operator(request: web.Request) -> web.Response:
    """200. Raises Refusal 401, 403, 404, 409 for the last administrator."""
    principal = await access.require(request, role="admin")
    name, now_ms = request.match_info["name"], wall_ms()
    await operators.remove(request.app[SERVICES].db, name, now_ms=now_ms, actor=principal.actor)
    return answers.ok(request, Gone(name=name, last_updated_at=wire.rfc3339(now_ms)))


def _operator(person: Person) -> OperatorOut:
    return OperatorOut(
        name=person.name,
        grants=list(person.grants),
        disabled=person.disabled_at_ms is not None,
        created_at=wire.rfc3339(person.created_at_ms),
        last_updated_at=wire.rfc3339(person.updated_at_ms),
    )


async def get_keys(request: web.Request) -> web.Response:
    """200 with all keys, the ended ones as well. Raises Refusal 401, 403."""
    await access.require(request, role="admin")
    async with request.app[SERVICES].db.reading() as tx:
        shown = [_key(row) for row in await tx.all("keys")]
    return answers.ok(request, shown, pagination=answers.pagination(1, max(1, len(shown)), len(shown), None))


async def post_key(request: web.Request) -> web.Response:
    """201 with the secret. Raises Refusal 400, 401, 403, 408, 409, 413, 415, 422."""
    principal = await access.require(request, role="admin")
    said, now_ms = await payload.read_as(request, KeyIn), wall_ms()
    secret = await identity.create_key(
        request.app[SERVICES].db,
        said.name,
        said.role,
        now_ms,
        groups=said.groups,
        scopes=said.scopes,
        expires_at_ms=None if said.lasts_s is None else now_ms + said.lasts_s * 1000,
        actor=principal.actor,
    )
    made = KeyMade(name=said.name, key=secret, last_updated_at=wire.rfc3339(now_ms))
    return answers.ok(request, made, status=201)


async def delete_key(request: web.Request) -> web.Response:
    """200: it holds no more. Raises Refusal 401, 403, 404."""
    principal = await access.require(request, role="admin")
    name, now_ms = request.match_info["name"], wall_ms()
    await identity.revoke_key(request.app[SERVICES].db, name, now_ms, actor=principal.actor)
    return answers.ok(request, Gone(name=name, last_updated_at=wire.rfc3339(now_ms)))


def _key(row: Row) -> KeyOut:
    at = answers.time_or_none
    lists = {name: msgspec.json.decode(row[name], type=list[str]) for name in ("groups", "scopes")}
    return KeyOut(
        name=row["name"],
        role=row["role"],
        **lists,
        created_at=wire.rfc3339(row["created_at_ms"]),
        expires_at=at(row["expires_at_ms"]),
        revoked_at=at(row["revoked_at_ms"]),
        last_updated_at=wire.rfc3339(row["revoked_at_ms"] or row["created_at_ms"]),
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/me", get_me)
    app.router.add_get("/api/operators", get_operators)
    app.router.add_put("/api/operators/{name}", put_operator)
    app.router.add_delete("/api/operators/{name}", delete_operator)
    app.router.add_get("/api/keys", get_keys)
    app.router.add_post("/api/keys", post_key)
    app.router.add_delete("/api/keys/{name}", delete_key)


