"""The operator's pages: devices, one device, sign in and out. Rendered here, complete without scripts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import aiohttp_jinja2
import jinja2
from aiohttp import hdrs, web

from cloud.api import access, params, payload
from cloud.dashboard import reading, words
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from pisyncd.core.problems import Refusal

_HERE = Path(__file__).parent
_STYLE = (_HERE / "style.css").read_bytes()
_STYLE_TAG = hashlib.sha256(_STYLE).hexdigest()[:16]
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page(handler: Handler) -> Handler:
    """Lets viewers in, sends others to sign in, and shows refusals as a page."""

    @functools.wraps(handler)
    async def shown(request: web.Request) -> web.StreamResponse:
        try:
            principal = await access.identify(request)
            if principal is None:
                raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='')}")
            if not rules.covers(principal.role, "viewer"):
                raise Refusal(403, "role-missing", "These pages are for operators.", hint="Sign in with a viewer key.")
            return await handler(request)
        except Refusal as refusal:
            context = {"status": refusal.status, "detail": refusal.detail, "hint": refusal.hint}
            return _render("error.html", request, context, status=refusal.status)

    return shown


def _render(template: str, request: web.Request, context: dict[str, Any], *, status: int = 200) -> web.Response:
    now_ms = wall_ms()
    shared = {
        "ago": lambda at_ms: words.ago(at_ms, now_ms),
        "style": f"/style.css?{_STYLE_TAG}",
        "signed_in": bool(request.cookies.get(access.SESSION_COOKIE)),
    }
    response = aiohttp_jinja2.render_template(template, request, {**shared, **context}, status=status)
    response.headers.update(_HEADERS)
    return response


@page
async def get_devices(request: web.Request) -> web.StreamResponse:
    """200: the devices that need attention, then all."""
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    search = request.query.get("search", "").replace("\0", "")[:128]
    context = await reading.devices(request.app[SERVICES], search=search, number=number)
    return _render("devices.html", request, context)


@page
async def get_device(request: web.Request) -> web.StreamResponse:
    """200: one device, its transfers, files and sync history. Raises Refusal 404, 422 (shown as a page)."""
    files_page = params.whole(request, "files", 1, least=1, most=params.PAGE_MAX)
    events_page = params.whole(request, "events", 1, least=1, most=params.PAGE_MAX)
    context = await reading.device(
        request.app[SERVICES], request.match_info["device_id"], files_page=files_page, events_page=events_page
    )
    return _render("device.html", request, context)


def _next(target: str) -> str:
    """Where to go after signing in: a path of this server, never another host."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"


async def get_login(request: web.Request) -> web.Response:
    """200: the form."""
    return _render("login.html", request, {"next": _next(request.query.get("next", "/")), "refused": False})


def _fields(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body[:8192].decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        # More fields than the form has: not the form.
        return {}


async def post_login(request: web.Request) -> web.Response:
    """303 with a session, or 401 with the form again."""
    fields = _fields(await payload.read(request))
    target = _next(fields.get("next", ["/"])[0])
    key = fields.get("key", [""])[0].strip()
    session = await request.app[SERVICES].identity.begin_session(key) if key else None
    if session is None:
        return _render("login.html", request, {"next": target, "refused": True}, status=401)
    response = web.Response(status=303, headers={hdrs.LOCATION: target, **_HEADERS})
    secure = request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"
    response.set_cookie(access.SESSION_COOKIE, session, httponly=True, samesite="Strict", secure=secure, path="/")
    return response


async def post_logout(request: web.Request) -> web.Response:
    """303: the session is ended here and in the browser."""
    cookie = request.cookies.get(access.SESSION_COOKIE)
    if cookie:
        await request.app[SERVICES].identity.end_session(cookie)
    response = web.Response(status=303, headers={hdrs.LOCATION: "/login", **_HEADERS})
    response.del_cookie(access.SESSION_COOKIE, path="/")
    return response


async def get_style(_request: web.Request) -> web.Response:
    """200: the style sheet."""
    return web.Response(body=_STYLE, content_type="text/css", headers={"Cache-Control": "max-age=86400"})


def setup(app: web.Application) -> None:
    """Adds the pages."""
    environment = aiohttp_jinja2.setup(
        app, loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        size=words.size,
        number=words.number,
        clock=words.clock,
        path_url=words.path_url,
        path_text=words.path_text,
        quoted=lambda text: quote(text, safe=""),
    )
    app.router.add_get("/", get_devices)
    app.router.add_get("/devices/{device_id}", get_device)
    app.router.add_get("/login", get_login)
    app.router.add_post("/login", post_login)
    app.router.add_post("/logout", post_logout)
    app.router.add_get("/style.css", get_style)
