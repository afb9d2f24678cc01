"""The frame of what `/api/*` answers, the same at both ends.

    {"success": true, "data": ..., "pagination": {...}, "metadata": {"timestamp", "version", "request_id"}}

Bodies whose fields a source document fixes keep them, and get `metadata` beside.
"""

from __future__ import annotations

from typing import Any

import msgspec

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


class Framed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The frame around `data`."""

    success: bool
    data: Any
    next: wire.Pacing | None = None
    pagination: Pagination | None = None
    metadata: Metadata | None = None


_encoder = msgspec.json.Encoder()


def metadata(wall_ms: int, request_id: str) -> Metadata:
    """Of an answer that is made now."""
    return Metadata(timestamp=wire.rfc3339(wall_ms), version=__version__, request_id=request_id)


def pagination(number: int, limit: int, total: int, next_cursor: str | None) -> Pagination:
    """Counts the pages; an empty list has none."""
    return Pagination(page=number, limit=limit, total=total, total_pages=-(-total // limit), next_cursor=next_cursor)


def encoded(body: Any) -> bytes:
    """JSON of anything msgspec can encode."""
    return _encoder.encode(body)


def beside(body: msgspec.Struct, about: Metadata) -> bytes:
    """JSON of a body of its own shape, with `metadata` beside its fields; the body is encoded once.

    {"syncStatus": {...}} -> {"syncStatus": {...}, "metadata": {...}}
    """
    plain = _encoder.encode(body)
    comma = b"" if plain == b"{}" else b","
    return b"".join((plain[:-1], comma, b'"metadata":', _encoder.encode(about), b"}"))
