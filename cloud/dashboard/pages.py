"""The operator's pages about devices: the fleet at a glance, lists, failures, one device."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from aiohttp import web

from cloud.api import access, keys, params
from cloud.api.devices import wanted
from cloud.dashboard import frame, reading
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import standing
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from pisyncd.core import problems


def _reach(request: web.Request) -> frozenset[str] | None:
    return rules.reach(request[keys.PRINCIPAL], "viewer")


@page(grouped=True)
async def get_overview(request: web.Request) -> web.StreamResponse:
    """200: what needs a person, and how the fleet is."""
    context = await reading.overview(request.app[SERVICES], _reach(request))
    return frame.render(request, "overview.html", context)


@page(grouped=True)
async def get_devices(request: web.Request) -> web.StreamResponse:
    """200: a page of the devices that are asked for. Raises Refusal 422 (shown as a page)."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    chosen = wanted(request, sort="attention")
    context = await reading.devices(request.app[SERVICES], chosen, _reach(request), number=number)
    query = {name: value for name, value in request.query.items() if name != "page" and value}
    return frame.render(request, "devices.html", {**context, "query": urlencode(query)})


@page(grouped=True)
async def get_failures(request: web.Request) -> web.StreamResponse:
    """200: failures by what they have in common, and devices that fail again and again."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    context = await reading.failures(request.app[SERVICES], _reach(request), number=number)
    return frame.render(request, "failures.html", context)


@page(grouped=True)
async def get_device(request: web.Request) -> web.StreamResponse:
    """200: one device, its transfers, files and sync history. Raises Refusal 404, 422 (shown as a page)."""
    files_page = params.whole(request, "files", 1, least=1, most=params.PAGE_MAX)
    events_page = params.whole(request, "events", 1, least=1, most=params.PAGE_MAX)
    context = await reading.device(
        request.app[SERVICES],
        request[keys.PRINCIPAL],
        request.match_info["device_id"],
        files_page=files_page,
        events_page=events_page,
    )
    return frame.render(request, "device.html", context)


@form(role="operator", grouped=True)
async def post_mute(request: web.Request, fields: Fields) -> str:
    """Mutes a device for so many days, or ends that. Raises Refusal 404, 422."""
    device_id = request.match_info["device_id"]
    principal, now_ms = request[keys.PRINCIPAL], wall_ms()
    days = first(fields, "days")
    async with request.app[SERVICES].db.transaction() as tx:
        dk = await access.device_key(tx, principal, device_id, "operator")
        if days == "0":
            await standing.unmute(tx, [dk], actor=principal.actor, now_ms=now_ms)
        elif days in ("1", "7", "30"):
            until_ms = now_ms + int(days) * 86_400_000
            note = first(fields, "note")[:500]
            await standing.mute(tx, [dk], until_ms=until_ms, note=note, actor=principal.actor, now_ms=now_ms)
        else:
            raise problems.invalid("/days", "enum", "A device is muted for 1, 7 or 30 days.", hint="Choose one.")
    return f"/devices/{quote(device_id, safe='')}"


def setup(app: web.Application) -> None:
    """Adds the pages."""
    frame.setup(app)
    app.router.add_get("/", get_overview)
    app.router.add_get("/devices", get_devices)
    app.router.add_get("/failures", get_failures)
    app.router.add_get("/devices/{device_id}", get_device)
    app.router.add_post("/devices/{device_id}/mute", post_mute)
