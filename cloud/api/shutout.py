"""Requests that are still served when their token has ended: held for a change, or with a body of hours. They end, too.

New requests are refused within cloud.flows.identity.CHECK_INTERVAL_S; those under way are looked at every LOOK_S, when
any token has changed at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import structlog
from aiohttp import web

from cloud.api import access, keys
from cloud.flows.users import looks_like_jwt
from cloud.services import SERVICES
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

LOOK_S = 20.0


class UnderWay:
    """The requests that are being served, each with the task that serves it."""

    def __init__(self) -> None:
        self._served: dict[asyncio.Task[object], web.Request] = {}
        self._generation: int | None = None

    @contextlib.contextmanager
    def serving(self, request: web.Request) -> Iterator[None]:
        """This request, by the task that runs here."""
        task = asyncio.current_task()
        token = access.bearer(request)
        if task is not None and token and not looks_like_jwt(token):
            self._served[task] = request
        try:
            yield
        finally:
            if task is not None:
                self._served.pop(task, None)

    async def look(self, app: web.Application) -> int:
        """Ends the requests whose token holds no more; gives how many. Raises StorageBusy."""
        identity = app[SERVICES].identity
        generation = await identity.refresh()
        if generation == self._generation:
            return 0
        self._generation = generation
        ended = 0
        for task, request in list(self._served.items()):
            if await identity.who(access.bearer(request)) is None and self._served.get(task) is request:
                request[keys.SHUT_OUT] = True
                task.cancel()
                ended += 1
        return ended


UNDER_WAY: web.AppKey[UnderWay] = web.AppKey("under_way", UnderWay)


async def looking(app: web.Application) -> AsyncIterator[None]:
    """Looks again and again while the application lives (for cleanup_ctx)."""
    task = asyncio.create_task(_look_on(app), name="shutout")
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _look_on(app: web.Application) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            ended = await app[UNDER_WAY].look(app)
        except TransientError as error:
            log.warning("shutout.postponed", code=error.code)
            continue
        if ended:
            log.info("requests.shut_out", count=ended)
