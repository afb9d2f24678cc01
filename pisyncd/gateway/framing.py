"""The frame of what the gateway answers below /api, made in one place; the cloud has the same (pisyncd.core.frames)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from pisyncd.core import frames
from pisyncd.core.frames import Framed, Pagination


def framed(
    wall_ms: int,
    data: Any,
    status: int = 200,
    *,
    pagination: Pagination | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`data` in its frame."""
    body = Framed(success=True, data=data, pagination=pagination, metadata=_about(wall_ms))
    return _response(frames.encoded(body), status, headers)


def beside(
    wall_ms: int, view: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A body whose fields a source document fixes, with `metadata` as one member more."""
    return _response(frames.beside(view, _about(wall_ms)), status, headers)


def _about(wall_ms: int) -> frames.Metadata:
    return frames.metadata(wall_ms, secrets.token_hex(8))


def _response(body: bytes, status: int, headers: Mapping[str, str] | None) -> web.Response:
    """With a newline, so that `curl` leaves the prompt alone."""
    whole = {"Cache-Control": "no-store", **(headers or {})}
    return web.Response(body=body + b"\n", status=status, content_type="application/json", headers=whole)
