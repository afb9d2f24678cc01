"""Lets requests in: who is it, and may they do this.

A page session counts for reading, and for writing only with its CSRF token: in the header X-CSRF-Token or, in the forms
of the pages, in a hidden field.
"""

from __future__ import annotations

import hmac

from aiohttp import hdrs, web

from cloud.api import keys
from cloud.flows import identity
from cloud.flows.users import looks_like_jwt
from cloud.rules import access as rules
from cloud.rules.access import Grant, Principal, Role
from cloud.services import SERVICES
from cloud.store.db import Tx
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

SESSION_COOKIE = "pisync_session"
_READING = frozenset({"GET", "HEAD"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_DEMO = Principal(kind="key", name="open-dashboard", grants=(Grant(role="viewer"),))
CSRF_HEADER = "X-CSRF-Token"


def bearer(request: web.Request) -> str:
    """The token of `Authorization: Bearer TOKEN`, or ''."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def identify(request: web.Request) -> Principal | None:
    """Who sends this request; also kept as request[keys.PRINCIPAL].

    The open dashboard counts only under a loopback name (else a web page that points its own name at 127.0.0.1 could
    read it). Raises Refusal 401 for a JWT that does not hold.
    """
    services = request.app[SERVICES]
    token = bearer(request)
    found: Principal | None = None
    if token:
        users = services.users if looks_like_jwt(token) else None
        found = await (services.identity.who(token) if users is None else users.who(token))
    elif request.method in _READING or is_own_form(request, request.headers.get(CSRF_HEADER, "")):
        found = await page_session(request)
    if found is not None:
        request[keys.PRINCIPAL] = found
    return found


async def page_session(request: web.Request) -> Principal | None:
    """Who is signed in here; for writing, `is_own_form` has to hold as well."""
    services = request.app[SERVICES]
    cookie = request.cookies.get(SESSION_COOKIE)
    found = await services.identity.session(cookie) if cookie else None
    if found is None and services.settings.open_dashboard and _host_name(request) in _LOOPBACK:
        return _DEMO if request.method in _READING else None
    return found


def csrf_token(request: web.Request) -> str:
    """What a form of this session carries; '' without a session. Only who has the cookie can know it."""
    cookie = request.cookies.get(SESSION_COOKIE, "")
    return hmac.digest(cookie.encode("utf-8", "surrogateescape"), b"csrf", "sha256").hex() if cookie else ""


def is_own_form(request: web.Request, token: str) -> bool:
    """Whether `token` is the CSRF token of this request's session."""
    expected = csrf_token(request)
    return bool(expected) and hmac.compare_digest(expected.encode(), token.encode("utf-8", "surrogateescape"))


def _host_name(request: web.Request) -> str:
    host = request.host.lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


async def require(
    request: web.Request,
    *,
    device: bool | str = False,
    role: Role | None = None,
    grouped: bool = False,
    user: bool = False,
) -> Principal:
    """Lets the request pass or raises Refusal 401 or 403.

    `device=True` lets any device in, `device="pi-1"` that one only; `role` lets in whoever holds it or a higher one
    everywhere, with `grouped` also who holds it for some groups only: then the handler shows and changes nothing beyond
    `rules.reach` (see `device_key`). `user` lets in whoever shows a learner's JWT.
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
        request[keys.RATES] = await request.app[SERVICES].rates.request(principal)
        return _device_passes(principal, device)
    if principal.kind == "user":
        return _user_passes(principal, user)
    if not rules.in_scope(principal, request.path):
        raise Refusal(
            403,
            "scope-missing",
            f"the key {principal.name} is for {', '.join(sorted(principal.scopes))} only",
            hint=f"it takes the scope {rules.scope_of(request.path)}",
        )
    return _role_passes(principal, role, grouped)


def _role_passes(principal: Principal, role: Role | None, grouped: bool) -> Principal:
    if role is None:
        raise Refusal(403, "role-missing", "this is for devices", hint="a device's own token is needed")
    reach = rules.reach(principal, role)
    if reach is None or (grouped and reach):
        return principal
    hint = f"it takes the role {role}" + (", everywhere and not for a group only" if reach else "")
    raise Refusal(403, "role-missing", f"the role {role} is missing", hint=hint)


async def device_key(tx: Tx, principal: Principal, device_id: str, role: Role) -> int:
    """The internal key of a device that `principal` may see or change as `role`. Raises Refusal 404.

    A device beyond reach is answered like one that is not there.
    """
    dk = await identity.device_key(tx, device_id)
    if principal.kind == "device":
        return dk
    reach = rules.reach(principal, role)
    if reach is not None and not rules.within(reach, await identity.groups_of(tx, dk)):
        raise problems.device_unknown(device_id)
    return dk


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
