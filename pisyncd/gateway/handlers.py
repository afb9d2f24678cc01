"""The gateway's HTTP: parse, ask, answer. Errors are problem details (RFC 9457) with a code and a hint."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web

from pisyncd.core import errors, wire
from pisyncd.gateway import answers, why
from pisyncd.gateway.parsing import Refusal, asked_path, body, nothing_in, number, path_bytes, printable, query
from pisyncd.gateway.ports import Device
from pisyncd.gateway.views import Done, Health
from pisyncd.outbox import Outbox

log = structlog.get_logger()

BODY_BYTES_MAX = 64 * 1024
PAGE_DEFAULT = 50
PAGE_MAX = 500

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """One handler per route."""

    def __init__(self, device: Device, outbox: Outbox) -> None:
        self._device = device
        self._outbox = outbox

    def app(self) -> web.Application:
        """The application, ready for a runner."""
        app = web.Application(middlewares=[_errors_as_problems], client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get("/status", self.status),
                web.get("/queue", self.queue),
                web.get("/why", self.why),
                web.get("/history", self.history),
                web.get("/failures", self.failures),
                web.get("/healthz", self.healthz),
                web.post("/sync", self.sync),
                web.post("/retry", self.retry),
                web.post("/pause", self.pause),
                web.post("/resume", self.resume),
                web.post("/probe", self.probe),
            ]
        )
        return app

    async def status(self, request: web.Request) -> web.Response:
        """Everything at one glance."""
        query(request)
        return answer(await answers.status(self._device, self._outbox))

    async def queue(self, request: web.Request) -> web.Response:
        """What waits, in the order of sending. ?limit= ?skip="""
        asked = query(request, "limit", "skip")
        limit = number(asked, "limit", 1, PAGE_MAX, PAGE_DEFAULT)
        return answer(await answers.queue(self._outbox, limit, number(asked, "skip", 0, 10**9, 0)))

    async def history(self, request: web.Request) -> web.Response:
        """Sync cycles, newest first. ?limit= ?before="""
        asked = query(request, "limit", "before")
        limit = number(asked, "limit", 1, PAGE_MAX, PAGE_DEFAULT)
        return answer(await answers.history(self._outbox, limit, number(asked, "before", 1, 2**62, 2**62)))

    async def failures(self, request: web.Request) -> web.Response:
        """What could not be sent, and what is lost. ?limit="""
        asked = query(request, "limit")
        return answer(await answers.failures(self._outbox, number(asked, "limit", 1, PAGE_MAX, PAGE_DEFAULT)))

    async def why(self, request: web.Request) -> web.Response:
        """Why a path is where it is. ?path="""
        path = path_bytes(query(request, "path").get("path"))
        return answer(await why.explain(self._device, self._outbox, path))

    async def healthz(self, request: web.Request) -> web.Response:
        """200 or 503, by progress."""
        query(request)
        stuck = list(self._device.late())
        return answer(
            Health(healthy=not stuck, stuck=stuck), HTTPStatus.SERVICE_UNAVAILABLE if stuck else HTTPStatus.OK
        )

    async def sync(self, request: web.Request) -> web.Response:
        """Start a cycle."""
        await nothing_in(request)
        self._device.sync()
        return answer(Done(done="a sync cycle starts"), HTTPStatus.ACCEPTED)

    async def probe(self, request: web.Request) -> web.Response:
        """Look at the link."""
        await nothing_in(request)
        self._device.probe()
        return answer(Done(done="the link is looked at"), HTTPStatus.ACCEPTED)

    async def pause(self, request: web.Request) -> web.Response:
        """Stop sending."""
        await nothing_in(request)
        await self._device.pause()
        return answer(Done(done="sending is paused"))

    async def resume(self, request: web.Request) -> web.Response:
        """Go on sending."""
        await nothing_in(request)
        await self._device.resume()
        return answer(Done(done="sending goes on"))

    async def retry(self, request: web.Request) -> web.Response:
        """Offer failed and postponed files again: {"all": true}, {"id": 7}, {"path": "..."} or {"path_b64": "..."}."""
        query(request)
        asked = await body(request)
        if asked.all:
            return self._retried(await self._device.retry(None))
        if asked.id is not None:
            if await self._outbox.queue.get(asked.id) is None:
                raise Refusal(HTTPStatus.NOT_FOUND, "file-unknown", f"there is no file {asked.id}", _SEE_FAILURES)
            return self._retried(await self._device.retry(asked.id))
        found = await why.explain(self._device, self._outbox, asked_path(asked))
        waiting = next((version for version in found.versions if version.state in ("failed", "pending")), None)
        if waiting is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "file-unknown", found.sentence, found.hint or _SEE_FAILURES)
        return self._retried(await self._device.retry(waiting.id))

    def _retried(self, files: int) -> web.Response:
        log.info("retry.asked", files=files)
        return answer(Done(done="offered again", files=files))


_SEE_FAILURES = "`pisyncctl failures` lists what can be tried again"


def answer(view: msgspec.Struct, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """JSON with a newline, so that `curl` leaves the prompt alone."""
    return web.Response(
        body=msgspec.json.encode(view) + b"\n",
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@web.middleware
async def _errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _problem(refusal.status, refusal.code, refusal.detail, refusal.hint)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        answered = _problem(HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", f"{request.path} takes {allowed}")
        answered.headers["Allow"] = allowed
        return answered
    except web.HTTPRequestEntityTooLarge:
        detail = f"the body is larger than {BODY_BYTES_MAX} bytes"
        return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", detail)
    except web.HTTPNotFound:
        routes = sorted({route.resource.canonical for route in request.app.router.routes() if route.resource})
        detail = f"there is no {printable(request.path)} here"
        return _problem(HTTPStatus.NOT_FOUND, "route-unknown", detail, f"there is: {' '.join(routes)}")
    except web.HTTPException as error:
        return _problem(HTTPStatus(error.status), "request-invalid", error.reason)
    except errors.TransientError as error:
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, error.code, error.detail, error.hint, retryable=True)
    except Exception:
        # A fault in an answer must not end the daemon, which has more important things to do.
        request_id = secrets.token_hex(8)
        log.exception("gateway.failed", path=printable(request.path), request_id=request_id)
        detail = "the daemon could not answer this"
        hint = f"`journalctl -u pisyncd -g {request_id}` shows why"
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, hint, request_id=request_id)


def _problem(
    status: HTTPStatus, code: str, detail: str, hint: str = "", *, retryable: bool = False, request_id: str = ""
) -> web.Response:
    problem = wire.Problem(
        type=wire.PROBLEM_URN + code,
        title=status.phrase,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        request_id=request_id or secrets.token_hex(8),
        retryable=retryable,
    )
    return web.Response(
        body=msgspec.json.encode(problem) + b"\n",
        status=status,
        content_type=wire.PROBLEM_JSON,
        headers={"Cache-Control": "no-store"},
    )
