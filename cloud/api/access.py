"""Lets requests in: who is it, and may they do this."""

from __future__ import annotations

from aiohttp import hdrs, web

from cloud.api import keys
from cloud.flows.users import looks_like_jwt
from cloud.rules import access as rules
from cloud.rules.access import Principal, Role
from cloud.services import SERVICES
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

SESSION_COOKIE = "pisync_session"
_READING = frozenset({"GET", "HEAD"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_DEMO = Principal(kind="key", name="open-dashboard", role="viewer")


def bearer(request: web.Request) -> str:
    """The token of `Authorization: Bearer TOKEN`, or ''."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def identify(request: web.Request) -> Principal | None:
    """Who sends this request; also kept as request[keys.PRINCIPAL].

    A page session counts for reading only, and the open dashboard only under a loopback name (else a web page that
    points its own name at 127.0.0.1 could read it). Raises Refusal 401 for a JWT that does not hold.
    """
    services = request.app[SERVICES]
    token = bearer(request)
    found: Principal | None = None
    if token:
        users = services.users if looks_like_jwt(token) else None
        found = await (services.identity.who(token) if users is None else users.who(token))
    elif request.method in _READING:
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie:
            found = await services.identity.session(cookie)
        if found is None and services.settings.open_dashboard and _host_name(request) in _LOOPBACK:
            found = _DEMO
    if found is not None:
        request[keys.PRINCIPAL] = found
    return found


def _host_name(request: web.Request) -> str:
    host = request.host.lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


async def require(
    request: web.Request, *, device: bool | str = False, role: Role | None = None, user: bool = False
) -> Principal:
    """Lets the request pass or raises Refusal 401 or 403.

    `device=True` lets any device in, `device="pi-1"` that one only; `role` lets keys in that have it or a higher one;
    `user` lets in whoever shows a learner's JWT.
    """
    principal = await identify(request)
    if principal is None:
        raise Refusal(
            401,
            "token-refused" if bearer(request) else "token-missing",
            "this token is not known here" if bearer(request) else "a token is needed",
            hint="Authorization: Bearer TOKEN; `pisync-cloud enroll DEVICE_ID` or `pisync-cloud key create` makes one",
            headers={"WWW-Authenticate": 'Bearer realm="pisync"'},
        )
    if principal.kind == "device":
        return _device_passes(principal, device)
    if principal.kind == "user":
        return _user_passes(principal, user)
    if role is None or not rules.covers(principal.role, role):
        raise Refusal(
            403,
            "role-missing",
            f"a key of role {principal.role} may not do this",
            hint="a device's own token is needed" if role is None else f"it takes a key of role {role}",
        )
    return principal


def _user_passes(principal: Principal, user: bool) -> Principal:
    if user:
        return principal
    raise Refusal(403, "role-missing", "a learner may not do this", hint="learners send events and work at sessions")


def _device_passes(principal: Principal, device: bool | str) -> Principal:
    if device is True or device == principal.device_id:
        return principal
    if isinstance(device, str):
        raise problems.ownership_mismatch(device)
    raise Refusal(403, "role-missing", "a device may not do this", hint="use a key: `pisync-cloud key create`")
