"""Who may sign in and what they may; keys of the API. Passwords and keys are shown once, when they are made."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import identity, operators
from cloud.rules.access import ROLES, SCOPES, Grant
from cloud.services import SERVICES, wall_ms
from pisyncd.core import problems

DAY_MS = 86_400_000
DAYS_MAX = 3650


async def show_all(request: web.Request, tried: Tried) -> web.StreamResponse:
    """People, keys, and the forms for one more of each."""
    now_ms = wall_ms()
    async with request.app[SERVICES].db.reading() as tx:
        people, found = await operators.people(tx), await tx.all("keys")
        names = await forms.group_names(tx)
    context = {
        "people": people,
        "keys": [_key(dict(row), now_ms) for row in found],
        "roles": ROLES,
        "scopes": sorted(SCOPES),
        "group_names": names,
        "tried": tried,
    }
    return frame.render(request, "people.html", context, status=tried.status)


def _key(row: dict[str, Any], now_ms: int) -> dict[str, Any]:
    ended = row["revoked_at_ms"] is not None or (row["expires_at_ms"] or now_ms + 1) <= now_ms
    lists = {name: msgspec.json.decode(row[name], type=list[str]) for name in ("scopes", "groups")}
    return {**row, **lists, "ended": ended}


@page(role="admin")
async def get_people(request: web.Request) -> web.StreamResponse:
    """200: people and keys."""
    return await show_all(request, NOTHING)


@form(role="admin")
@beside(show_all, "add")
async def post_person(request: web.Request, fields: Fields) -> str | web.StreamResponse:
    """Somebody may sign in; a password that was made is shown only here. Raises Refusal 409, 422."""
    name, typed = first(fields, "name"), _password(fields)
    password = typed or operators.new_password()
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await operators.add(db, name, password, _grants(fields), now_ms=wall_ms(), actor=actor)
    return "/people?done=person-added" if typed else _made(request, name, password)


def _password(fields: Fields) -> str:
    """As it was typed, blanks and all; '': one is to be made."""
    return (fields.get("password") or [""])[0]


def _grants(fields: Fields) -> tuple[Grant, ...]:
    everywhere = forms.choice(fields, "everywhere", ["", *ROLES])
    held = [Grant(role=role, group=None) for role in ROLES if role == everywhere]
    held += [Grant(role=role, group=group) for role in ROLES for group in forms.names(fields, f"groups_{role}")]
    if not held:
        raise problems.invalid("/everywhere", "required", "nothing would be granted", hint="choose a role, or groups")
    return tuple(held)


def _made(request: web.Request, name: str, password: str) -> web.Response:
    context = {
        "title": f"{name} may sign in",
        "label": "Password",
        "secret": password,
        "note": f"Hand it over to {name} by a way that you trust.",
        "back": "/people",
        "back_label": "People and keys",
    }
    return frame.render(request, "secret.html", context)


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One person. Raises Refusal 404."""
    name = request.match_info["name"]
    async with request.app[SERVICES].db.reading() as tx:
        found = next((each for each in await operators.people(tx) if each.name == name), None)
        names = await forms.group_names(tx)
    if found is None:
        raise problems.Refusal(404, "operator-unknown", f"nobody is called {name!r} here")
    context = {"person": found, "roles": ROLES, "group_names": names, "tried": tried}
    return frame.render(request, "person.html", context, status=tried.status)


@page(role="admin")
async def get_person(request: web.Request) -> web.StreamResponse:
    """200: one person. Raises Refusal 404 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="admin")
@beside(show, "grants")
async def post_grants(request: web.Request, fields: Fields) -> str:
    """They may something else from now on. Raises Refusal 404, 409, 422."""
    db, actor, name = request.app[SERVICES].db, forms.who(request).actor, request.match_info["name"]
    await operators.set_grants(db, name, _grants(fields), actor=actor, now_ms=wall_ms())
    return _of(request, "person-changed")


@form(role="admin")
@beside(show, "password")
async def post_password(request: web.Request, fields: Fields) -> str | web.StreamResponse:
    """Another password; one that was made is shown only here. Raises Refusal 404, 422."""
    db, actor, name = request.app[SERVICES].db, forms.who(request).actor, request.match_info["name"]
    typed = _password(fields)
    password = typed or operators.new_password()
    await operators.set_password(db, name, password, now_ms=wall_ms(), actor=actor)
    return _of(request, "password-set") if typed else _made(request, name, password)


@form(role="admin")
@beside(show, "state")
async def post_state(request: web.Request, fields: Fields) -> str:
    """Shut out, or let in again. Raises Refusal 404, 409, 422."""
    on = forms.choice(fields, "state", ["enabled", "disabled"]) == "enabled"
    db, actor, name = request.app[SERVICES].db, forms.who(request).actor, request.match_info["name"]
    await operators.set_disabled(db, name, not on, now_ms=wall_ms(), actor=actor)
    return _of(request, "person-enabled" if on else "person-disabled")


@form(role="admin")
@beside(show, "remove")
async def post_remove(request: web.Request, _fields: Fields) -> str:
    """The name is gone. Raises Refusal 404, 409."""
    db, actor, name = request.app[SERVICES].db, forms.who(request).actor, request.match_info["name"]
    await operators.remove(db, name, actor=actor, now_ms=wall_ms())
    return "/people?done=person-removed"


def _of(request: web.Request, done: str) -> str:
    return f"/people/{quote(request.match_info['name'], safe='')}?done={done}"


# Keys


@form(role="admin")
@beside(show_all, "key")
async def post_key(request: web.Request, fields: Fields) -> web.StreamResponse:
    """200: the new key, shown only here. Raises Refusal 409, 422."""
    name, now_ms = first(fields, "name"), wall_ms()
    days = forms.whole(fields, "days", least=1, most=DAYS_MAX)
    role = forms.choice(fields, "role", ROLES)
    secret = await identity.create_key(
        request.app[SERVICES].db,
        name,
        role,
        now_ms,
        expires_at_ms=None if days is None else now_ms + days * DAY_MS,
        scopes=fields.get("scopes", []),
        groups=forms.names(fields, "groups"),
        actor=forms.who(request).actor,
    )
    context = {
        "title": f"The key {name} is made",
        "label": "Key",
        "secret": secret,
        "note": "A program shows it with every request: Authorization: Bearer KEY",
        "back": "/people#keys",
        "back_label": "People and keys",
    }
    return frame.render(request, "secret.html", context)


@form(role="admin")
@beside(show_all, "key")
async def post_revoke_key(request: web.Request, fields: Fields) -> str:
    """The key ends. Raises Refusal 404."""
    db, actor = request.app[SERVICES].db, forms.who(request).actor
    await identity.revoke_key(db, first(fields, "name"), wall_ms(), actor=actor)
    return "/people?done=key-revoked"


def setup(app: web.Application) -> None:
    """Adds the pages; the fixed paths before those with a name in them."""
    router, one = app.router, "/people/{name}"
    router.add_get("/people", get_people)
    router.add_post("/people", post_person)
    router.add_post("/people/keys", post_key)
    router.add_post("/people/keys/revoke", post_revoke_key)
    router.add_get(one, get_person)
    router.add_post(f"{one}/grants", post_grants)
    router.add_post(f"{one}/password", post_password)
    router.add_post(f"{one}/state", post_state)
    router.add_post(f"{one}/remove", post_remove)
