"""GET /live: server-sent events that say when there is something new to see."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from cloud.api import access
from cloud.dashboard import frame
from cloud.flows.live import Live
from cloud.rules import access as rules
from cloud.services import SERVICES

#: A proxy must not take the stream for dead; a session that has ended is noticed by then as well.
BEAT_S = 15.0
#: A browser that goes on too slowly to be told anything is let go.
WRITE_S = 30.0


async def get_live(request: web.Request) -> web.StreamResponse:
    """200 with a stream of `changed` events, the first at once: what there is now (see cloud/flows/live.py).

    204, after which a browser does not ask again, for who may not see anything and for too many pages of one session;
    503 when the service has too many listeners.
    """
    live = request.app[SERVICES].live
    if not await _may(request):
        return web.Response(status=204, headers=frame.HEADERS)
    session = access.csrf_token(request) or request.remote or ""
    of_process, of_session = live.has_room(session)
    if not of_process:
        return web.Response(status=503, headers={"Retry-After": "60", **frame.HEADERS})
    if not of_session:
        return web.Response(status=204, headers=frame.HEADERS)
    headers = {**frame.HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    async with live.listening(session):
        try:
            await response.prepare(request)
            await _tell(request, response, live)
        except (ConnectionError, TimeoutError):
            # The page is closed: nobody reads on.
            pass
    return response


async def _tell(request: web.Request, response: web.StreamResponse, live: Live) -> None:
    seen, checked_s = "", time.monotonic()
    while not live.released:
        known = await live.other_than(seen, BEAT_S)
        if time.monotonic() - checked_s >= BEAT_S:
            if not await _may(request):
                return
            checked_s = time.monotonic()
        told = f"event: changed\ndata: {known}\n\n" if known != seen else ": still here\n\n"
        seen = known
        async with asyncio.timeout(WRITE_S):
            await response.write(told.encode())


async def _may(request: web.Request) -> bool:
    principal = await access.identify(request)
    reach = rules.reach(principal, "viewer") if principal is not None else frozenset()
    return reach is None or bool(reach)


def setup(app: web.Application) -> None:
    """Adds the stream."""
    app.router.add_get("/live", get_live)
