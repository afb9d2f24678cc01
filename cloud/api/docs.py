"""/api-docs: Swagger UI from this server's own files, /api-docs/openapi.json: the document."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
from aiohttp import web

from cloud.api import openapi
from cloud.api.operations import OPERATIONS
from cloud.rules.intake import ItemIn
from pisyncd import __version__
from pisyncd.core import envelope

SWAGGER = Path(__file__).parent.parent / "dashboard" / "static" / "swagger"
_SERVED = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PiSync API</title>
<link rel="icon" href="/api-docs/favicon-32x32.png">
<link rel="stylesheet" href="/api-docs/swagger-ui.css"></head>
<body><div id="api"></div>
<script src="/api-docs/swagger-ui-bundle.js"></script>
<script src="/api-docs/start.js"></script>
<noscript><p>The same as a document: <a href="/api-docs/openapi.json">openapi.json</a></p></noscript>
</body></html>
"""
_PLAIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PiSync API</title></head>
<body><h1>PiSync API</h1>
<p>The document is <a href="/api-docs/openapi.json">openapi.json</a>. For the interactive page run
<code>scripts/fetch-assets</code> once and reload.</p><ul>
{rows}
</ul></body></html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "/api-docs/openapi.json", dom_id: "#api", validatorUrl: null, deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis], persistAuthorization: false
});
"""


#: Lists whose entries are decoded one by one.
_INNER = {"BatchIn.items": ItemIn, "EventsIn.events": envelope.EventIn}
_PAYLOADS = tuple(kind for _, kind in envelope.TYPES.values())


@cache
def document() -> bytes:
    """The OpenAPI document as JSON."""
    return msgspec.json.encode(openapi.document(OPERATIONS, version=__version__, inner=_INNER, payloads=_PAYLOADS))


async def get_document(_request: web.Request) -> web.Response:
    """200 with the document."""
    return web.Response(body=document(), content_type="application/json", headers=_HEADERS)


async def get_page(_request: web.Request) -> web.Response:
    """200 with Swagger UI, or with a plain list when its assets were never fetched."""
    if (SWAGGER / "swagger-ui-bundle.js").is_file():
        return web.Response(text=_PAGE, content_type="text/html", headers=_HEADERS)
    rows = "\n".join(f"<li><code>{one.method} {one.path}</code> {one.summary}</li>" for one in OPERATIONS)
    return web.Response(text=_PLAIN.replace("{rows}", rows), content_type="text/html", headers=_HEADERS)


async def get_asset(request: web.Request) -> web.StreamResponse:
    """One of the named files and no other."""
    name = request.match_info["name"]
    if name == "start.js":
        return web.Response(text=_START, content_type="text/javascript", headers=_HEADERS)
    path = SWAGGER / name
    if name not in _SERVED or not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={"Content-Type": _SERVED[name], **_HEADERS})


async def redirect(_request: web.Request) -> web.Response:
    """The address without the slash is the right one."""
    raise web.HTTPFound("/api-docs")


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api-docs", get_page)
    app.router.add_get("/api-docs/", redirect)
    app.router.add_get("/api-docs/openapi.json", get_document)
    app.router.add_get("/api-docs/{name}", get_asset)
