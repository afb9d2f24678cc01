"""GET /live: server-sent events that say when there is something new to see."""

from __future__ import annotations

import time

from aiohttp import web

from cloud.api import access
from cloud.dashboard import frame
from cloud.rules import access as rules
from cloud.services import SERVICES

BEAT_S = 15.0
#: A session that has ended is noticed by then.
CHECK_S = 30.0


async def get_live(request: web.Request) -> web.StreamResponse:
    """200 with a stream of `changed` events; 204 (which a browser does not ask again) for who may not listen."""
    live = request.app[SERVICES].live
    if not await _may(request):
        return web.Response(status=204, headers=frame.HEADERS)
    async with live.listening() as welcome:
        if not welcome:
            return web.Response(status=503, headers={"Retry-After": "60", **frame.HEADERS})
        headers = {**frame.HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b"retry: 5000\n\n")
        seen, checked_s = live.number, time.monotonic()
        while not live.released:
            number = await live.other_than(seen, BEAT_S)
            if time.monotonic() - checked_s > CHECK_S:
                if not await _may(request):
                    break
                checked_s = time.monotonic()
            if live.released:
                break
            # The first number is no news: it is what the page has shown already.
            told = f"event: changed\ndata: {number}\n\n" if number != seen and seen >= 0 else ": still here\n\n"
            seen = number
            await response.write(told.encode())
    return response


async def _may(request: web.Request) -> bool:
    principal = await access.identify(request)
    reach = rules.reach(principal, "viewer") if principal is not None else frozenset()
    return reach is None or bool(reach)


def setup(app: web.Application) -> None:
    """Adds the stream."""
    app.router.add_get("/live", get_live)
