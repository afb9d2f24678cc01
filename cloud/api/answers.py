"""Answers of `/api/*`: `{"success": true, "data": ..., "metadata": {...}}`, lists with `pagination`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from cloud.api import keys
from cloud.services import wall_ms
from pisyncd import __version__
from pisyncd.core import wire


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """When, by which version, to which request."""

    timestamp: str
    version: str
    request_id: str


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    """Where in a list this page is. `next_cursor` goes on exactly after the last row, whatever arrives meanwhile."""

    page: int
    limit: int
    total: int
    total_pages: int
    next_cursor: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The frame around `data`."""

    success: bool
    data: Any
    next: wire.Pacing | None = None
    pagination: Pagination | None = None
    metadata: Metadata | None = None


_encoder = msgspec.json.Encoder()


def json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Any msgspec-encodable body."""
    return web.Response(
        status=status, body=_encoder.encode(body), content_type="application/json", headers=headers or _FRESH
    )


_FRESH = {"Cache-Control": "no-store"}


def ok(
    request: web.Request,
    data: Any,
    *,
    status: int = 200,
    pagination: Pagination | None = None,
    next: wire.Pacing | None = None,
) -> web.Response:
    """`data` in its frame."""
    metadata = Metadata(timestamp=wire.rfc3339(wall_ms()), version=__version__, request_id=request[keys.REQUEST_ID])
    return json(Answer(success=True, data=data, next=next, pagination=pagination, metadata=metadata), status=status)


def pagination(number: int, limit: int, total: int, next_cursor: str | None) -> Pagination:
    """Counts the pages; an empty list has none."""
    return Pagination(page=number, limit=limit, total=total, total_pages=-(-total // limit), next_cursor=next_cursor)


def time_or_none(at_ms: int | None) -> str | None:
    """Wall milliseconds as RFC 3339, or None."""
    return None if at_ms is None else wire.rfc3339(at_ms)
