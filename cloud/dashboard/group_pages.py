"""Groups, sites, regions and tags."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import groups
from cloud.flows.groups import KINDS, Group
from cloud.rules import access
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row, Tx
from pisyncd.core.problems import Refusal

LEARNERS_MAX = 10_000_000


async def _within(request: web.Request, tx: Tx) -> tuple[list[Row], bool]:
    """The groups within reach, a region's sites with it; and whether that is all there are."""
    reach = access.reach(forms.who(request), "viewer")
    found = await groups.groups(tx)
    return [row for row in found if reach is None or row["name"] in reach or row["parent"] in reach], reach is None


def _suggestions(found: Sequence[Row]) -> dict[str, list[str]]:
    return {
        "regions": [row["name"] for row in found if row["kind"] == "region"],
        "calendars": sorted({row["calendar"] for row in found if row["calendar"]}),
    }


async def show_all(request: web.Request, tried: Tried) -> web.StreamResponse:
    """All groups within reach, tags, and the form for one more group."""
    async with request.app[SERVICES].db.reading() as tx:
        found, is_all = await _within(request, tx)
        tags = await groups.tags(tx) if is_all else []
    context = {"groups": found, "tags": tags, "is_all": is_all, **_suggestions(found), "tried": tried}
    return frame.render(request, "groups.html", context, status=tried.status)


@page(grouped=True)
async def get_groups(request: web.Request) -> web.StreamResponse:
    """200: groups and tags."""
    return await show_all(request, NOTHING)


@form(role="admin")
@beside(show_all, "group")
async def post_group(request: web.Request, fields: Fields) -> str:
    """A new group. Raises Refusal 409, 422."""
    name = first(fields, "name")
    async with request.app[SERVICES].db.reading() as tx:
        if any(row["name"] == name for row in await groups.groups(tx)):
            raise Refusal(409, "already-there", f"there is a group {name} already", hint="change that one")
    await _put(request, name, fields)
    return "/groups?done=group-saved"


async def _put(request: web.Request, name: str, fields: Fields) -> None:
    group = Group(
        name=name,
        kind=forms.choice(fields, "kind", KINDS),
        parent=first(fields, "parent") or None,
        calendar=first(fields, "calendar") or None,
        learners=forms.whole(fields, "learners", least=0, most=LEARNERS_MAX),
        note=first(fields, "note"),
    )
    await groups.put_group(request.app[SERVICES].db, group, actor=forms.who(request).actor, now_ms=wall_ms())


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One group. Raises Refusal 404."""
    name = request.match_info["name"]
    async with request.app[SERVICES].db.reading() as tx:
        found, _ = await _within(request, tx)
    group = next((row for row in found if row["name"] == name), None)
    if group is None:
        raise Refusal(404, "group-unknown", "There is no such group.")
    sites = [row for row in found if row["parent"] == name]
    context = {"group": group, "sites": sites, **_suggestions(found), "tried": tried}
    return frame.render(request, "group.html", context, status=tried.status)


@page(grouped=True)
async def get_group(request: web.Request) -> web.StreamResponse:
    """200: one group. Raises Refusal 404 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="admin")
@beside(show, "group")
async def post_change(request: web.Request, fields: Fields) -> str:
    """What is said of a group is another. Raises Refusal 404, 409, 422."""
    await _put(request, request.match_info["name"], fields)
    return "/groups?done=group-saved"


@form(role="admin")
@beside(show, "remove")
async def post_remove(request: web.Request, _fields: Fields) -> str:
    """Its devices belong to it no more. Raises Refusal 404."""
    db, actor, name = request.app[SERVICES].db, forms.who(request).actor, request.match_info["name"]
    await groups.remove_group(db, name, force=True, actor=actor, now_ms=wall_ms())
    return "/groups?done=group-removed"


def setup(app: web.Application) -> None:
    """Adds the pages."""
    router, one = app.router, "/groups/{name}"
    router.add_get("/groups", get_groups)
    router.add_post("/groups", post_group)
    router.add_get(one, get_group)
    router.add_post(one, post_change)
    router.add_post(f"{one}/remove", post_remove)
