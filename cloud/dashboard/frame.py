"""What every page shares: who may see it, how it is rendered, its headers, and forms that only our own pages can send.

    @page(role="viewer", grouped=True)
    async def get_devices(request): return render(request, "devices.html", {...})

    @form(role="operator")
    async def post_acknowledge(request, fields): ...; return f"/incidents?done=acknowledged"

Pages are whole without scripts. No asset comes from another host and nothing is inline.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import aiohttp_jinja2
import jinja2
from aiohttp import hdrs, web

from cloud.api import access, keys, payload
from cloud.dashboard import words
from cloud.rules import access as rules
from cloud.rules import fleet
from cloud.rules.access import Principal, Role
from cloud.services import SERVICES, wall_ms
from pisyncd.core.problems import Refusal

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
#: Files that pages load, by their address.
ASSETS = {"style.css": "text/css", "live.js": "text/javascript"}
FORM_BYTES_MAX = 65_536
FORM_FIELDS_MAX = 2_000
#: What there was before a page was read; see cloud/flows/live.py. Only pages that bring themselves up to date have it.
SEEN: web.RequestKey[str] = web.RequestKey("seen", str)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A page of the navigation, shown to who holds `role`; `grouped`: for some groups only as well."""

    href: str
    label: str
    role: Role = "viewer"
    grouped: bool = False

    def is_at(self, path: str) -> bool:
        """Whether `path` is this page or one beneath it."""
        return path == self.href or (self.href != "/" and path.startswith(f"{self.href}/"))


#: What is looked at, then what is set.
NAV: tuple[tuple[Place, ...], ...] = (
    (
        Place(href="/", label="Overview", grouped=True),
        Place(href="/devices", label="Devices", grouped=True),
        Place(href="/failures", label="Failures", grouped=True),
        Place(href="/incidents", label="Incidents", grouped=True),
        Place(href="/conflicts", label="Conflicts"),
        Place(href="/webhooks", label="Webhooks", role="admin"),
        Place(href="/exports", label="Exports"),
        Place(href="/audit", label="Audit", role="admin"),
    ),
    (
        Place(href="/notifications", label="Notifications"),
        Place(href="/groups", label="Groups", grouped=True),
        Place(href="/enrolment", label="Enrolment", role="operator"),
        Place(href="/people", label="People", role="admin"),
    ),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: What a form says: every field with its values, in order.
Fields = Mapping[str, list[str]]
#: Gives where to go next; or a page, for what is shown once only and for what was refused beside its form.
FormHandler = Callable[[web.Request, Fields], Awaitable[str | web.StreamResponse]]


def page(*, role: Role = "viewer", grouped: bool = False) -> Callable[[Handler], Handler]:
    """Lets in who holds `role` (with `grouped` also for some groups only), sends strangers to sign in, and shows
    refusals as a page."""

    def wrap(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def shown(request: web.Request) -> web.StreamResponse:
            try:
                principal = await access.identify(request)
                if principal is None:
                    raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='')}")
                _pass(principal, role, grouped)
                request[SEEN] = await request.app[SERVICES].live.now()
                return await handler(request)
            except Refusal as refusal:
                return refused(request, refusal)

        return shown

    return wrap


def form(*, role: Role, grouped: bool = False) -> Callable[[FormHandler], Handler]:
    """Takes a form of our own pages from who holds `role`; the handler gives the path to go to (303), or a page.

    Without the session's CSRF token nothing is done. Refusals are shown as a page.
    """

    def wrap(handler: FormHandler) -> Handler:
        @functools.wraps(handler)
        async def taken(request: web.Request) -> web.StreamResponse:
            try:
                fields = await read_form(request)
                principal = await access.page_session(request)
                if principal is None:
                    raise web.HTTPSeeOther("/login")
                if not access.is_own_form(request, first(fields, "csrf")):
                    raise Refusal(
                        403,
                        "csrf",
                        "This form is too old, or not from here.",
                        hint="Go back, reload the page, try again.",
                    )
                _pass(principal, role, grouped)
                request[keys.PRINCIPAL] = principal
                target = await handler(request, fields)
            except Refusal as refusal:
                return refused(request, refusal)
            if isinstance(target, web.StreamResponse):
                return target
            return web.Response(status=303, headers={hdrs.LOCATION: local(target), **HEADERS})

        return taken

    return wrap


def _pass(principal: Principal, role: Role, grouped: bool) -> None:
    reach = rules.reach(principal, role)
    if reach is None or (grouped and reach):
        return
    raise Refusal(403, "role-missing", f"This takes the role {role}.", hint="An administrator can grant it.")


async def read_form(request: web.Request) -> Fields:
    """The fields of a form; what is no form has none. Raises Refusal 408, 413, 415."""
    body = await payload.read(request)
    try:
        return parse_qs(
            body[:FORM_BYTES_MAX].decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX
        )
    except ValueError:
        return {}


def first(fields: Fields, name: str) -> str:
    """The first value of a field, stripped and without NUL; '' without one."""
    values = fields.get(name) or [""]
    return values[0].replace("\0", "").strip()


def local(target: str) -> str:
    """Where to go next: a path of this server, never another host."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"


def refused(request: web.Request, refusal: Refusal) -> web.Response:
    """A refusal as a page."""
    context = {"status": refusal.status, "detail": refusal.detail, "hint": refusal.hint}
    return render(request, "error.html", context, status=refusal.status)


def render(request: web.Request, template: str, context: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """A page. Beside `context` a template has now_ms, ago(at_ms), csrf, principal, can(role), signed_in, asset, path,
    nav, done, fresh_s, stale_s, freshness_of(at_ms)."""
    now_ms = wall_ms()
    principal = request.get(keys.PRINCIPAL)
    settings = request.app[SERVICES].settings
    fresh_s, stale_s = settings.fresh_minutes * 60, settings.stale_minutes * 60
    shared = {
        "now_ms": now_ms,
        "ago": lambda at_ms: words.ago(at_ms, now_ms),
        "csrf": access.csrf_token(request),
        "principal": principal,
        "can": lambda role, grouped=False: principal is not None and _may(principal, role, grouped),
        "signed_in": bool(request.cookies.get(access.SESSION_COOKIE)),
        "asset": asset_url,
        "path": request.path,
        "nav": NAV,
        "seen": request.get(SEEN, ""),
        "done": words.DONE.get(request.query.get("done", "")),
        "fresh_s": fresh_s,
        "stale_s": stale_s,
        "freshness_of": lambda at_ms: fleet.freshness(
            None if at_ms is None else (now_ms - at_ms) / 1000, fresh_s=fresh_s, stale_s=stale_s
        ),
    }
    response = aiohttp_jinja2.render_template(template, request, {**shared, **context}, status=status)
    response.headers.update(HEADERS)
    return response


def _may(principal: Principal, role: Role, grouped: bool) -> bool:
    reach = rules.reach(principal, role)
    return reach is None or bool(grouped and reach)


@cache
def _asset(name: str) -> tuple[bytes, str]:
    content = (HERE / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


def asset_url(name: str) -> str:
    """'/assets/style.css?v=...': the address changes with the content, so that a browser may keep it."""
    return f"/assets/{name}?v={_asset(name)[1]}"


async def get_asset(request: web.Request) -> web.Response:
    """200: a file that pages load. Raises HTTPNotFound."""
    name = request.match_info["name"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    headers = {"Cache-Control": "public, max-age=86400"}
    return web.Response(body=_asset(name)[0], content_type=ASSETS[name], charset="utf-8", headers=headers)


def setup(app: web.Application) -> None:
    """Sets the templates up."""
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # What people and devices call things must not turn the writing of a page around.
        finalize=lambda value: words.visible(value) if type(value) is str else value,
    )
    environment.filters.update(
        size=words.size,
        number=words.number,
        clock=words.clock,
        iso=words.iso,
        since=words.since,
        ahead=words.ahead,
        several=words.several,
        about_state=words.about_state,
        path_url=words.path_url,
        path_text=words.path_text,
        quoted=lambda text: quote(text, safe=""),
        quoted_path=lambda text: quote(text, safe="/"),
    )
    app.router.add_get("/assets/{name}", get_asset)
