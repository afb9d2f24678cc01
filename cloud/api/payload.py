"""Request bodies that are read whole: limited in size and time, in an encoding that is known."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web

from cloud.services import SERVICES
from pisyncd.core import encodings, problems
from pisyncd.core.problems import Refusal

T = TypeVar("T", bound=msgspec.Struct)


async def read_as(request: web.Request, kind: type[T]) -> T:
    """The body as `kind`; an empty one says nothing. Raises Refusal 400, 408, 413, 415, 422."""
    content = await read(request) or b"{}"
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(content, kind, error) from None


async def read(request: web.Request) -> bytes:
    """The decoded body. Raises Refusal 400, 408, 413, 415."""
    settings = request.app[SERVICES].settings
    encoding = encodings.canonical(request.headers.get(hdrs.CONTENT_ENCODING))
    if request.content_length is not None and request.content_length > settings.body_bytes_max:
        raise encodings.too_large(settings.body_bytes_max)
    if request.content.is_eof():
        return encodings.decode(await request.read(), encoding, bytes_max=settings.body_bytes_max)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await request.read()
    except TimeoutError:
        raise Refusal(408, "body-timeout", "the body did not arrive in time", headers={"Connection": "close"}) from None
    return encodings.decode(body, encoding, bytes_max=settings.body_bytes_max)
