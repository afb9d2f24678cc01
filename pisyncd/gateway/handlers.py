"""What technicians ask and ask for: parse, ask, answer."""

from __future__ import annotations

import structlog
from aiohttp import web

from pisyncd.core.problems import Refusal
from pisyncd.gateway import answers, why
from pisyncd.gateway.boundary import answer
from pisyncd.gateway.parsing import asked_path, body, nothing_in, number, path_bytes, query
from pisyncd.gateway.ports import Device
from pisyncd.gateway.views import Done, Health
from pisyncd.outbox import Outbox

log = structlog.get_logger()

PAGE_DEFAULT = 50
PAGE_MAX = 500


class Gateway:
    """One handler per route."""

    def __init__(self, device: Device, outbox: Outbox) -> None:
        self._device = device
        self._outbox = outbox

    def routes(self) -> list[web.RouteDef]:
        """What is for the socket alone."""
        return [
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
        return answer(Health(healthy=not stuck, stuck=stuck), 503 if stuck else 200)

    async def sync(self, request: web.Request) -> web.Response:
        """Start a cycle."""
        await nothing_in(request)
        self._device.sync()
        return answer(Done(done="a sync cycle starts"), 202)

    async def probe(self, request: web.Request) -> web.Response:
        """Look at the link."""
        await nothing_in(request)
        self._device.probe()
        return answer(Done(done="the link is looked at"), 202)

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
                raise Refusal(404, "file-unknown", f"there is no file {asked.id}", hint=_SEE_FAILURES)
            return self._retried(await self._device.retry(asked.id))
        found = await why.explain(self._device, self._outbox, asked_path(asked))
        waiting = next((version for version in found.versions if version.state in ("failed", "pending")), None)
        if waiting is None:
            raise Refusal(404, "file-unknown", found.sentence, hint=found.hint or _SEE_FAILURES)
        return self._retried(await self._device.retry(waiting.id))

    def _retried(self, files: int) -> web.Response:
        log.info("retry.asked", files=files)
        return answer(Done(done="offered again", files=files))


_SEE_FAILURES = "`pisyncctl failures` lists what can be tried again"
