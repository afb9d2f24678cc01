"""Who may use the loopback port: pages of allowed origins, and applications with a token.

A page anywhere can make a browser on this machine send requests to 127.0.0.1, under any name that it lets point there
(DNS rebinding). So the Host must be this machine's own, and an Origin, which browsers always send with what changes
something, must be on the list. With `intake.tokens_file` a token is needed as well.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from pisyncd.core import cors
from pisyncd.core.problems import Refusal
from pisyncd.gateway.boundary import Handler
from pisyncd.gateway.tokens import Tokens

HOSTS = ("127.0.0.1", "localhost", "[::1]")
PUBLIC = ("/telemetry.js",)
_ASKED_METHOD = "Access-Control-Request-Method"
_ASKED_NETWORK = "Access-Control-Request-Private-Network"


class Browsers:
    """The middleware of the port, and the headers of its answers."""

    def __init__(self, origins: frozenset[str], tokens: Tokens | None) -> None:
        self._origins = origins
        self._tokens = tokens

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Raises Refusal 401 or 403 for whoever may not."""
        host = request.headers.get(hdrs.HOST, "")
        if (host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host).lower() not in HOSTS:
            raise Refusal(403, "host-not-allowed", "this port answers as 127.0.0.1 and localhost only")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin not in self._origins:
            detail = f"pages of {origin[:200]!r} may not use this"
            raise Refusal(403, "origin-not-allowed", detail, hint="add it to intake.origins")
        if request.method == hdrs.METH_OPTIONS and origin is not None and _ASKED_METHOD in request.headers:
            asked = request.headers.get(_ASKED_NETWORK) == "true"
            return web.Response(status=204, headers=cors.preflight(private_network=asked))
        if request.path not in PUBLIC:
            self._admit(request, origin)
        return await handler(request)

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Lets allowed pages read the answer, also one that says no."""
        response.headers.update(cors.allowing(request.headers.get(hdrs.ORIGIN), self._origins))

    def _admit(self, request: web.Request, origin: str | None) -> None:
        if self._tokens is None:
            if origin is None:
                hint = "use the socket, or set intake.tokens_file and send a token"
                raise Refusal(401, "unauthorized", "only pages of intake.origins may use this", hint=hint)
            return
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or self._tokens.name_of(token.strip()) is None:
            raise Refusal(
                401,
                "unauthorized",
                "a token of this device's intake.tokens_file is needed",
                hint="`pisyncd app-token NAME` makes one: `Authorization: Bearer ...`",
                headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            )
