"""For browsers: the module /telemetry.js, and the leave for pages of `browser_origins` to send learning events here."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from aiohttp import hdrs, web

from cloud.services import SERVICES
from pisyncd.core import cors

#: What pages of other origins may use; all else is for programs and for pages of this service.
INTAKE = ("/api/telemetry/", "/v1/")


@cache
def _module() -> tuple[bytes, str]:
    text = (resources.files("pisyncd") / "telemetry.js").read_bytes()
    return text, f'"{hashlib.sha256(text).hexdigest()[:32]}"'


async def get_module(request: web.Request) -> web.Response:
    """200 with the module, 304 when the browser has it."""
    text, tag = _module()
    headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: "no-cache", hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"}
    if tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=text, content_type="text/javascript", charset="utf-8", headers=headers)


async def preflight(request: web.Request) -> web.Response:
    """204: whether the page may, `stamp` says."""
    return web.Response(status=204, headers=cors.preflight())


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Lets pages of allowed origins read the answer."""
    if request.path.startswith(INTAKE):
        origins = request.app[SERVICES].settings.origins
        response.headers.update(cors.allowing(request.headers.get(hdrs.ORIGIN), origins))


def setup(app: web.Application) -> None:
    """Adds the routes and the headers."""
    app.on_response_prepare.append(stamp)
    app.router.add_get("/telemetry.js", get_module)
    for prefix in INTAKE:
        app.router.add_route(hdrs.METH_OPTIONS, prefix + "{rest:.*}", preflight)
