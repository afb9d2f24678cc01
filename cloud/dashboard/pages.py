"""The operator's pages: devices, one device."""

from __future__ import annotations

from aiohttp import web

from cloud.api import params
from cloud.dashboard import frame, reading
from cloud.dashboard.frame import page
from cloud.services import SERVICES


@page()
async def get_devices(request: web.Request) -> web.StreamResponse:
    """200: the devices that need attention, then all."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    search = request.query.get("search", "").replace("\0", "")[:128]
    context = await reading.devices(request.app[SERVICES], search=search, number=number)
    return frame.render(request, "devices.html", context)


@page()
async def get_device(request: web.Request) -> web.StreamResponse:
    """200: one device, its transfers, files and sync history. Raises Refusal 404, 422 (shown as a page)."""
    files_page = params.whole(request, "files", 1, least=1, most=params.PAGE_MAX)
    events_page = params.whole(request, "events", 1, least=1, most=params.PAGE_MAX)
    context = await reading.device(
        request.app[SERVICES], request.match_info["device_id"], files_page=files_page, events_page=events_page
    )
    return frame.render(request, "device.html", context)


def setup(app: web.Application) -> None:
    """Adds the pages."""
    frame.setup(app)
    app.router.add_get("/", get_devices)
    app.router.add_get("/devices/{device_id}", get_device)
