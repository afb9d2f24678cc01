"""Incidents: what people were told of, who took it on, what came of it."""

from __future__ import annotations

from aiohttp import web

from cloud.api import params
from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import incidents
from cloud.rules import access
from cloud.services import SERVICES, wall_ms

SHOWN = 50
STATES = ("open", "acknowledged", "closed")


@page(grouped=True)
async def get_incidents(request: web.Request) -> web.StreamResponse:
    """200: incidents within reach, at first those that nobody has taken on. Raises Refusal 422 (shown as a page)."""
    asked = params.page(request, limit=SHOWN)
    state = params.choice(request, "state", [*STATES, "all"], "open")
    reach = access.reach(forms.who(request), "viewer")
    async with request.app[SERVICES].db.reading() as tx:
        found, total = await incidents.page(
            tx,
            state=None if state == "all" else state,
            reach=reach,
            before_id=asked.before[1] if asked.before else params.INT64_MAX,
            limit=SHOWN,
            offset=0,
        )
    rows = found[:SHOWN]
    context = {
        "incidents": rows,
        "state": state,
        "states": [*STATES, "all"],
        "list": forms.listed(request, "/incidents", asked, total, rows[-1]["id"] if len(found) > SHOWN else None),
    }
    return frame.render(request, "incidents.html", context)


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One incident with its devices. Raises Refusal 404."""
    reach = access.reach(forms.who(request), "viewer")
    async with request.app[SERVICES].db.reading() as tx:
        row, members = await incidents.one(tx, _number(request), reach)
    context = {"incident": row, "members": members, "tried": tried}
    return frame.render(request, "incident.html", context, status=tried.status)


def _number(request: web.Request) -> int:
    text = request.match_info["incident_id"]
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else 0


@page(grouped=True)
async def get_incident(request: web.Request) -> web.StreamResponse:
    """200: one incident. Raises Refusal 404 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="operator", grouped=True)
@beside(show, "acknowledge")
async def post_acknowledge(request: web.Request, fields: Fields) -> str:
    """Somebody has taken it on. Raises Refusal 404, 409, 422."""
    principal = forms.who(request)
    await incidents.acknowledge(
        request.app[SERVICES].db,
        _number(request),
        note=first(fields, "note"),
        actor=principal.actor,
        reach=access.reach(principal, "operator"),
        now_ms=wall_ms(),
    )
    back = {"list": "/incidents"}.get(first(fields, "back"), first(fields, "back"))
    return f"{frame.local(back) if back else f'/incidents/{_number(request)}'}?done=acknowledged"


def setup(app: web.Application) -> None:
    """Adds the pages."""
    app.router.add_get("/incidents", get_incidents)
    app.router.add_get("/incidents/{incident_id}", get_incident)
    app.router.add_post("/incidents/{incident_id}/acknowledge", post_acknowledge)
