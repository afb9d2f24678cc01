"""Request bodies of applications: read whole, limited in size, time and number, in an encoding that is known."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from pisyncd.core import encodings
from pisyncd.core.problems import Refusal

BYTES_MAX = 1024 * 1024
SMALL_BYTES = 64 * 1024
READ_S = 30.0
TURN_S = 5
LARGE_AT_ONCE = 4


class Bodies:
    """Small ones at any time, large ones a few at once: together they must fit into the memory of a small board."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(LARGE_AT_ONCE)

    @contextlib.asynccontextmanager
    async def of(self, request: web.Request) -> AsyncIterator[bytes]:
        """The decoded body, for as long as it is needed. Raises Refusal 400, 408, 413, 415, 503."""
        encoding = encodings.canonical(request.headers.get(hdrs.CONTENT_ENCODING))
        length = request.content_length
        if length is not None and length > BYTES_MAX:
            raise encodings.too_large(BYTES_MAX)
        if not encoding and length is not None and length <= SMALL_BYTES:
            yield await _read(request)
            return
        await self._turn()
        try:
            yield encodings.decode(await _read(request), encoding, bytes_max=BYTES_MAX)
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        # A few bodies that never end must not keep the others waiting for ever.
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Refusal(
                503,
                "intake-busy",
                "other large bodies are still arriving",
                hint="send it again in a moment",
                headers={"Retry-After": str(TURN_S)},
            ) from None


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(READ_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, "body-timeout", "the body did not arrive in time", headers={"Connection": "close"}) from None
