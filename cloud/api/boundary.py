"""The outer edge: every failure becomes one problem answer here, every answer carries its request id and proof.

A request id that the client sends (X-Request-ID, 8-64 of A-Z a-z 0-9 . _ : -) is taken over, so that a line in the log
of a device and one in the log of the cloud can be found by the same word.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import ClientPayloadError, hdrs, http_exceptions, web

from cloud import tracing
from cloud.api import access, address, keys, metrics
from cloud.api.shutout import UNDER_WAY
from cloud.services import SERVICES, wall_ms
from pisyncd.core import problems, wire
from pisyncd.core.errors import PermanentError, TransientError
from pisyncd.core.problems import Refusal

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = wire.REQUEST_ID_HEADER
_PREFIX = os.urandom(6).hex()
_NUMBERS = itertools.count(1)
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{8,64}")
#: Asked for again and again by machines on the spot: neither counted nor told.
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
_STATUS_CODES = {
    400: "malformed",
    404: "not-found",
    405: "method-not-allowed",
    411: "length-required",
    413: "too-large",
    415: "media-type",
    417: "expectation-failed",
}
#: What a client's own broken body, or its going away, can raise while a handler reads.
BROKEN_BODY = (
    ClientPayloadError,
    http_exceptions.BadHttpMessage,
    http_exceptions.PayloadEncodingError,
    zlib.error,
)


#: What the flows that the command line calls as well do not do; 422 where nothing else is said.
_PERMANENT = {"not-there": 404, "already-there": 409, "last-admin": 409}


def as_refusal(error: PermanentError) -> Refusal:
    """The answer for what a flow does not do."""
    return Refusal(_PERMANENT.get(error.code, 422), error.code, error.detail, hint=error.hint)


class InFlight:
    """Requests that are being served, so that a stop can wait for them while their bodies still arrive."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False
        self._idle = asyncio.Event()

    def leave(self) -> None:
        """One request less."""
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Waits until nothing is served; False when that takes longer. Connections end with their next answer."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self.count:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True


IN_FLIGHT: web.AppKey[InFlight] = web.AppKey("in_flight", InFlight)


@web.middleware
async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives every request its id, and counts and tells it and its answer."""
    asked = request.headers.get(REQUEST_ID, "")
    request[keys.REQUEST_ID] = asked if _CLIENT_ID.fullmatch(asked) else f"{_PREFIX}-{next(_NUMBERS):x}"
    request[keys.CLIENT] = address.client(request)
    in_flight = request.app[IN_FLIGHT]
    in_flight.count += 1
    begun_s = time.perf_counter()
    status = 499
    try:
        with tracing.request_span(request) as span, request.app[UNDER_WAY].serving(request):
            response = await _answered(request, handler)
            status = response.status
            span.ended(status, request.get(keys.PROBLEM))
        return response
    except web.HTTPException as redirect:
        status = redirect.status
        raise
    finally:
        in_flight.leave()
        seconds = time.perf_counter() - begun_s
        metrics.note(request, status, seconds)
        _tell(request, status, seconds)


def _tell(request: web.Request, status: int, seconds: float) -> None:
    """One line per request. 499: the client went away before it was answered."""
    wanted = request.app[SERVICES].settings.access_log
    if wanted == "off" or (wanted == "problems" and status < 400) or request.path in _PROBES:
        return
    principal = request.get(keys.PRINCIPAL)
    log.info(
        "request.served",
        method=request.method[:16],
        path=request.path[:200],
        status=status,
        ms=round(seconds * 1000, 1),
        request_id=request[keys.REQUEST_ID],
        client=request[keys.CLIENT],
        who=None if principal is None else principal.actor,
        code=request.get(keys.PROBLEM),
    )


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Maps everything that can go wrong to one problem answer, once."""
    try:
        if request.path not in _PROBES:
            await request.app[SERVICES].rates.address(request[keys.CLIENT])
        return await handler(request)
    except Refusal as error:
        return _problem(request, error.status, error)
    except web.HTTPException as error:
        return _from_http(request, error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not request.get(keys.SHUT_OUT) or request.get(keys.BEGUN):
            raise
        task.uncancel()
        return _problem(request, 401, Refusal(401, "token-refused", "this token was ended while it was used"))
    except PermanentError as error:
        return _problem(request, as_refusal(error).status, as_refusal(error))
    except TransientError as error:
        log.warning("request.postponed", code=error.code, detail=error.detail, path=request.path)
        retry = str(max(1, round(error.retry_after_s or 5)))
        return _problem(request, 503, Refusal(503, error.code, error.detail, headers={"Retry-After": retry}))
    except BROKEN_BODY as error:
        return _problem(request, 400, problems.malformed(f"the body cannot be read: {error}", code="body-unreadable"))
    except ConnectionError as error:
        # The client is gone: nobody reads the answer, and a field link that is cut is no fault of the cloud.
        return _problem(request, 400, problems.malformed(f"the connection ended: {error}", code="connection-lost"))
    except Exception:
        log.exception("request.failed", method=request.method, path=request.path, request_id=request[keys.REQUEST_ID])
        return _problem(request, 500, Refusal(500, "internal", "the cloud failed; the log has the details"))


def _from_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        raise error
    code = _STATUS_CODES.get(error.status, problems.title(error.status).lower().replace(" ", "-"))
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    if error.status == 404:
        detail = f"there is nothing at {request.path[:200]}"
    elif error.status == 405:
        detail = f"{request.method[:40]} is not possible here"
    else:
        detail = error.text or error.reason
    return _problem(request, error.status, Refusal(error.status, code, detail, headers=headers))


def _problem(request: web.Request, status: int, error: Refusal) -> web.Response:
    request[keys.PROBLEM] = error.code
    body = problems.problem_body(
        status,
        error.code,
        error.detail,
        hint=error.hint,
        request_id=request[keys.REQUEST_ID],
        errors=error.errors,
    )
    headers: Mapping[str, str] = {hdrs.CONTENT_TYPE: wire.PROBLEM_JSON, hdrs.CACHE_CONTROL: "no-store", **error.headers}
    return web.Response(status=status, body=body, headers=headers)


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Adds what every answer carries: the request id; for a token's holder the time, and the proof when asked."""
    headers = response.headers
    request[keys.BEGUN] = True
    request_id = request.get(keys.REQUEST_ID)
    if request_id is not None:
        headers[REQUEST_ID] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    if address.is_https(request):
        headers["Strict-Transport-Security"] = "max-age=31536000"
    if request.app[IN_FLIGHT].draining:
        response.force_close()
    left = request.get(keys.RATES)
    if left is not None and "RateLimit" not in headers:
        headers.update(left.headers)
    if hdrs.AUTHORIZATION not in request.headers:
        return
    headers[wire.TIME_HEADER] = str(wall_ms())
    challenge = request.headers.get(wire.CHALLENGE_HEADER)
    if challenge and wire.is_challenge(challenge):
        token = access.bearer(request)
        if token:
            headers[wire.PROOF_HEADER] = wire.proof(token, challenge)
