"""A request that the cloud holds until there is something: what ends it on the way, and how its page is read."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from pisyncd.core.errors import LinkDown, TooLarge

#: A request that was held for so long and then cut was cut for being quiet.
HELD_MIN_S = 5.0
#: However slowly a page comes.
READ_S_MAX = 300.0
#: A page of records takes several times as much memory once it is decoded.
PAGE_BYTES_MAX = 4 * 1024 * 1024
PROXYS_END = (408, 502, 503, 504)


async def read_page(response: aiohttp.ClientResponse, deadline: asyncio.Timeout, stall_s: float) -> bytes:
    """The whole body. Raises TooLarge; `deadline` moves on with each piece."""
    content = bytearray()
    loop = asyncio.get_running_loop()
    latest = loop.time() + READ_S_MAX
    async for piece in response.content.iter_any():
        # a page of records takes a while on a slow link, and each piece of it is progress
        deadline.reschedule(min(loop.time() + stall_s, latest))
        content += piece
        if len(content) > PAGE_BYTES_MAX:
            raise TooLarge("the page of records is too large", code="answer-too-large")
    return bytes(content)


def is_proxys_end(status: int, after_s: float) -> bool:
    """Whether a proxy on the way was tired of waiting."""
    return status in PROXYS_END and after_s >= HELD_MIN_S


async def once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hides from aiohttp that a held request was cut: it would send it again by itself, and let it be held anew."""
    began_s = time.monotonic()
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if time.monotonic() - began_s < HELD_MIN_S:
            raise
        raise aiohttp.ClientError(str(error)) from error


def was_cut(error: LinkDown, after_s: float) -> bool:
    """Whether a connection that was open ended while the cloud held the request."""
    return after_s >= HELD_MIN_S and not isinstance(error.__cause__, aiohttp.ClientConnectorError | TimeoutError)
