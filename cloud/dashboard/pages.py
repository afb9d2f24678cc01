"""The operator's pages about the fleet: at a glance, its devices as a list, its failures."""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web

from cloud.api import params
from cloud.api.devices import wanted
from cloud.dashboard import bulk_pages, device_pages, forms, frame, reading
from cloud.dashboard.forms import NOTHING, Tried
from cloud.dashboard.frame import page
from cloud.dashboard.record_pages import csv_lines
from cloud.rules import access as rules
from cloud.services import SERVICES

CSV_LINES = 1000


def _reach(request: web.Request) -> frozenset[str] | None:
    return rules.reach(forms.who(request), "viewer")


@page(grouped=True)
async def get_overview(request: web.Request) -> web.StreamResponse:
    """200: what needs a person, and how the fleet is."""
    context = await reading.overview(request.app[SERVICES], _reach(request))
    return frame.render(request, "overview.html", context)


async def show_devices(request: web.Request, tried: Tried) -> web.StreamResponse:
    """A page of the devices that are asked for. Raises Refusal 422."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    chosen = wanted(request, sort="attention")
    context = await reading.devices(request.app[SERVICES], chosen, _reach(request), number=number)
    query = {name: value for name, value in request.query.items() if name not in ("page", "done") and value}
    may_act = rules.reach(forms.who(request), "operator") != frozenset()
    context |= {"query": urlencode(query, errors="replace"), "may_act": may_act, "tried": tried}
    return frame.render(request, "devices.html", context, status=tried.status)


@page(grouped=True)
async def get_devices(request: web.Request) -> web.StreamResponse:
    """200: a page of the devices that are asked for. Raises Refusal 422 (shown as a page)."""
    return await show_devices(request, NOTHING)


@page(grouped=True)
async def get_devices_csv(request: web.Request) -> web.StreamResponse:
    """200: all devices that are asked for, as a file. Raises Refusal 422 (shown as a page)."""
    cells = await reading.devices_csv(request.app[SERVICES], wanted(request), _reach(request))
    response = web.StreamResponse(headers=frame.HEADERS)
    response.content_type, response.charset = "text/csv", "utf-8"
    response.headers["Content-Disposition"] = 'attachment; filename="devices.csv"'
    await response.prepare(request)
    await response.write(csv_lines([reading.CSV_HEADS]))
    for at in range(0, len(cells), CSV_LINES):
        await response.write(csv_lines(cells[at : at + CSV_LINES]))
    await response.write_eof()
    return response


@page(grouped=True)
async def get_failures(request: web.Request) -> web.StreamResponse:
    """200: failures by what they have in common, and devices that fail again and again."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    context = await reading.failures(request.app[SERVICES], _reach(request), number=number)
    return frame.render(request, "failures.html", context)


def setup(app: web.Application) -> None:
    """Adds the pages."""
    frame.setup(app)
    app.router.add_get("/", get_overview)
    app.router.add_get("/devices", get_devices)
    app.router.add_get("/devices.csv", get_devices_csv)
    app.router.add_get("/failures", get_failures)
    bulk_pages.setup(app, show_devices)
    device_pages.setup(app)
