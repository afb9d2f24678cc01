"""Answers of `/api/*`, made in one place: `{"success": true, "data": ..., "metadata": {...}}`, lists with `pagination`.

`beside` is for bodies whose fields a source document fixes: they stay as they are, with `metadata` as one member more.
`json` is for /v1/*, whose bodies carry nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from cloud.api import keys
from cloud.services import wall_ms
from pisyncd.core import frames, wire
from pisyncd.core.frames import Metadata, Pagination

__all__ = ["Metadata", "Pagination", "beside", "json", "ok", "pagination", "time_or_none"]

_FRESH = {"Cache-Control": "no-store"}

pagination = frames.pagination


def json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Any msgspec-encodable body, and nothing beside it."""
    return _answer(frames.encoded(body), status, headers)


def ok(
    request: web.Request,
    data: Any,
    *,
    status: int = 200,
    pagination: Pagination | None = None,
    next: wire.Pacing | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`data` in its frame."""
    framed = frames.Framed(success=True, data=data, next=next, pagination=pagination, metadata=_about(request))
    return _answer(frames.encoded(framed), status, headers)


def beside(
    request: web.Request, body: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A body of its own shape, with `metadata` beside its fields."""
    return _answer(frames.beside(body, _about(request)), status, headers)


def _answer(body: bytes, status: int, headers: Mapping[str, str] | None) -> web.Response:
    whole = _FRESH if headers is None else {**_FRESH, **headers}
    return web.Response(status=status, body=body, content_type="application/json", headers=whole)


def _about(request: web.Request) -> Metadata:
    return frames.metadata(wall_ms(), request[keys.REQUEST_ID])


def time_or_none(at_ms: int | None) -> str | None:
    """Wall milliseconds as RFC 3339, or None."""
    return None if at_ms is None else wire.rfc3339(at_ms)
