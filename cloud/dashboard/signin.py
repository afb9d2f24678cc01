"""Signing in and out. A form from another site does neither."""

from __future__ import annotations

from aiohttp import hdrs, web

from cloud.api import access, address, keys
from cloud.dashboard import frame
from cloud.flows import operators
from cloud.services import SERVICES, wall_ms
from pisyncd.core.problems import Refusal

_FOREIGN = frozenset({"cross-site", "same-site"})


async def get_login(request: web.Request) -> web.Response:
    """200: the form."""
    return _form(request, frame.local(request.query.get("next", "/")))


def _form(request: web.Request, target: str, *, wrong: str = "", status: int = 200) -> web.Response:
    return frame.render(request, "login.html", {"next": target, "wrong": wrong}, status=status)


async def post_login(request: web.Request) -> web.Response:
    """303 with a session; 401 or 429 with the form again."""
    fields = await frame.read_form(request)
    target = frame.local(frame.first(fields, "next") or "/")
    # SameSite keeps another site's form from a session that is there, not from beginning one in its own name.
    if request.headers.get("Sec-Fetch-Site", "") in _FOREIGN:
        return _form(request, target, wrong="This form came from another site. Try again here.", status=403)
    services = request.app[SERVICES]
    name, password = frame.first(fields, "name"), (fields.get("password") or [""])[0]
    try:
        await services.rates.login(request[keys.CLIENT], name)
    except Refusal as refusal:
        wait_s = refusal.headers.get("Retry-After", "60")
        wrong = f"Too many attempts. Try again in {wait_s} seconds."
        answer = _form(request, target, wrong=wrong, status=429)
        answer.headers["Retry-After"] = wait_s
        return answer
    person = await operators.check(services.db, name, password, address=request[keys.CLIENT], now_ms=wall_ms())
    if person is None:
        return _form(request, target, wrong="Name and password do not belong together.", status=401)
    await _end(request)
    lasts_s = services.settings.login_s
    session = await services.identity.begin_session(person.name, lasts_s)
    response = web.Response(status=303, headers={hdrs.LOCATION: target, **frame.HEADERS})
    response.set_cookie(
        access.SESSION_COOKIE,
        session,
        max_age=lasts_s,
        httponly=True,
        samesite="Strict",
        secure=address.is_https(request),
        path="/",
    )
    return response


async def _end(request: web.Request) -> None:
    cookie = request.cookies.get(access.SESSION_COOKIE)
    if cookie:
        await request.app[SERVICES].identity.end_session(cookie)


async def post_logout(request: web.Request) -> web.Response:
    """303: the session is ended here and in the browser. 403 for a form that is not ours."""
    fields = await frame.read_form(request)
    if request.cookies.get(access.SESSION_COOKIE) and not access.is_own_form(request, frame.first(fields, "csrf")):
        return frame.refused(request, Refusal(403, "csrf", "This form is too old, or not from here."))
    await _end(request)
    response = web.Response(status=303, headers={hdrs.LOCATION: "/login", **frame.HEADERS})
    response.del_cookie(access.SESSION_COOKIE, path="/")
    return response


def setup(app: web.Application) -> None:
    """Adds the pages."""
    app.router.add_get("/login", get_login)
    app.router.add_post("/login", post_login)
    app.router.add_post("/logout", post_logout)
