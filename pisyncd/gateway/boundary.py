"""The outer edge of the gateway: every failure becomes one problem answer (RFC 9457) with a code and a hint, here."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from aiohttp import ClientPayloadError, http_exceptions, web

from pisyncd.core import problems, wire
from pisyncd.core.errors import TransientError
from pisyncd.core.problems import Refusal
from pisyncd.gateway.parsing import printable
from pisyncd.outbox import salvage

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RETRY_S = 5.0
#: What a client's own broken body, or its going away, can raise while a handler reads.
BROKEN_BODY = (
    ClientPayloadError,
    http_exceptions.BadHttpMessage,
    http_exceptions.PayloadEncodingError,
    zlib.error,
)


def answer(view: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON with a newline, so that `curl` leaves the prompt alone."""
    return web.Response(
        body=msgspec.json.encode(view) + b"\n",
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


@web.middleware
async def errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Maps everything that can go wrong."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _problem(refusal)
    except web.HTTPException as error:
        return _problem(_of_http(request, error))
    except TransientError as error:
        return _problem(_later(error.code, error.detail, error.hint, error.retry_after_s))
    except BROKEN_BODY as error:
        return _problem(Refusal(400, "body-unreadable", f"the body cannot be read: {error}"))
    except ConnectionError:
        raise
    except Exception as error:
        if salvage.means_damage(error):
            # The daemon ends for it and sets the outbox aside; whoever asked keeps what it has for a moment.
            log.error("gateway.outbox_damaged", error=str(error))
            return _problem(_later("storage-damaged", "the outbox is damaged and is repaired", "send it again", None))
        # A fault in an answer must not end the daemon, which has more important things to do.
        request_id = secrets.token_hex(8)
        log.exception("gateway.failed", path=printable(request.path), request_id=request_id)
        hint = f"`journalctl -u pisyncd -g {request_id}` shows why"
        return _problem(Refusal(500, "internal", "the daemon could not answer this", hint=hint), request_id)


def _later(code: str, detail: str, hint: str, after_s: float | None) -> Refusal:
    headers = {"Retry-After": str(max(1, round(after_s or RETRY_S)))}
    return Refusal(503, code, detail, hint=hint, headers=headers)


def _of_http(request: web.Request, error: web.HTTPException) -> Refusal:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Refusal(405, "method-not-allowed", f"{request.path} takes {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Refusal(413, "too-large", "the body is larger than is taken here", hint="send less at a time")
    if isinstance(error, web.HTTPNotFound):
        routes = sorted({route.resource.canonical for route in request.app.router.routes() if route.resource})
        hint = f"there is: {' '.join(routes)}"
        return Refusal(404, "route-unknown", f"there is no {printable(request.path)} here", hint=hint)
    return Refusal(error.status, "request-invalid", error.reason)


def _problem(refusal: Refusal, request_id: str = "") -> web.Response:
    body = problems.problem_body(
        refusal.status,
        refusal.code,
        refusal.detail,
        hint=refusal.hint,
        request_id=request_id or secrets.token_hex(8),
        errors=refusal.errors,
    )
    headers = {"Cache-Control": "no-store", **refusal.headers}
    return web.Response(
        body=body + b"\n", status=refusal.status, content_type=wire.PROBLEM_JSON, headers=headers
    )  # fmt: skip
