"""Where a request comes from, by the proxies that the setting `trusted_proxies` names."""

from __future__ import annotations

from aiohttp import web

from cloud.rules import proxies
from cloud.services import SERVICES

FORWARDED_FOR = "X-Forwarded-For"
FORWARDED_PROTO = "X-Forwarded-Proto"


def client(request: web.Request) -> str:
    """The client's address, '192.0.2.7'."""
    forwarded = ",".join(request.headers.getall(FORWARDED_FOR, ()))
    return proxies.client(request.remote or "", forwarded, request.app[SERVICES].proxies)


def is_https(request: web.Request) -> bool:
    """Whether the client speaks TLS, with us or with a trusted proxy."""
    if request.secure:
        return True
    trusted = proxies.is_trusted(proxies.parse(request.remote or ""), request.app[SERVICES].proxies)
    return trusted and request.headers.get(FORWARDED_PROTO, "").strip().lower() == "https"
