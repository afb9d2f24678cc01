"""Files and contents of a device: lists, versions, downloads."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import IO
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import hdrs, web

from cloud.api import access, answers, params
from cloud.flows import identity
from cloud.rules import download
from cloud.services import SERVICES
from cloud.store import files
from pisyncd.core import problems, wire
from pisyncd.core.problems import Refusal

_AFTER_FILES = re.compile(r"/api/devices/[^/]+/files/(.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileOut(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a file. `version` counts from 1; `versions` is how many there are."""

    path: str
    path_b64: str
    version: int
    sha256: str
    size: int
    mtime_ms: int | None
    published_at: str
    last_updated_at: str
    upload_id: str
    versions: int | None = None


def _out(row: files.FileRow, *, current: bool) -> FileOut:
    at = wire.rfc3339(row.published_at_ms)
    return FileOut(
        path=wire.display_path(row.path),
        path_b64=base64.b64encode(row.path).decode(),
        version=row.version,
        sha256=row.sha256,
        size=row.length_bytes,
        mtime_ms=row.mtime_ms,
        published_at=at,
        last_updated_at=at,
        upload_id=row.upload_id,
        versions=row.version if current else None,
    )


async def _device(request: web.Request) -> str:
    """The device of the address, which the asker may read. Raises Refusal 401, 403, 404."""
    device_id = request.match_info["device"]
    principal = await access.require(request, device=device_id, role="viewer")
    if principal.kind != "device":
        async with request.app[SERVICES].db.reading() as tx:
            await identity.device_key(tx, device_id)
    return device_id


def _raw_query(request: web.Request, name: str) -> bytes:
    """A query parameter as bytes: paths need not be UTF-8."""
    for pair in request.rel_url.raw_query_string.split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return unquote_to_bytes(value.replace("+", " "))
    return b""


def _cursor(request: web.Request) -> bytes:
    text = request.query.get("cursor", "")
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise problems.invalid("query:cursor", "cursor", "the cursor is not one that a list has given") from None


async def get_files(request: web.Request) -> web.Response:
    """200 with a page of a device's files, those whose path begins with `prefix`. Raises Refusal 401-404, 422."""
    device_id = await _device(request)
    db = request.app[SERVICES].db
    number = params.whole(request, "page", 1, least=1, most=params.PAGE_MAX)
    limit = params.whole(request, "limit", 100, least=1, most=1000)
    prefix = _raw_query(request, "prefix") or _raw_query(request, "search")
    after = _cursor(request)
    rows = await files.list_files(
        db, device_id, prefix=prefix, after=after, limit=limit + 1, offset=0 if after else (number - 1) * limit
    )
    more, rows = len(rows) > limit, rows[:limit]
    total = await files.count_files(db, device_id, prefix=prefix)
    cursor = base64.urlsafe_b64encode(rows[-1].path).decode() if more else None
    return answers.ok(
        request,
        [_out(row, current=True) for row in rows],
        pagination=answers.pagination(number, limit, total, cursor),
    )


async def get_contents(request: web.Request) -> web.Response:
    """200 with the SHA-256 of what the device has delivered, in their order. Raises Refusal 401-404, 422."""
    device_id = await _device(request)
    db = request.app[SERVICES].db
    limit = params.whole(request, "limit", wire.CONTENTS_PAGE_MAX, least=1, most=wire.CONTENTS_PAGE_MAX)
    after = request.query.get("cursor", "")
    if after and not _SHA256.fullmatch(after):
        raise problems.invalid("query:cursor", "cursor", "the cursor is not one that a list has given")
    async with db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
    found = await files.contents_page(db, dk, after=after, limit=limit + 1)
    more, found = len(found) > limit, found[:limit]
    total = await files.count_contents(db, dk)
    return answers.ok(request, found, pagination=answers.pagination(1, limit, total, found[-1] if more else None))


def _path(request: web.Request) -> bytes:
    match = _AFTER_FILES.fullmatch(request.rel_url.raw_path)
    return unquote_to_bytes(match[1]) if match else b""


async def get_file(request: web.Request) -> web.StreamResponse:
    """The current version of a file or `?version=`; with `?versions` the list of its versions.

    200, 206 or 304. Raises Refusal 401-404, 416, 422.
    """
    device_id = await _device(request)
    path = _path(request)
    if "versions" in request.query:
        return await _versions(request, device_id, path)
    version = params.whole(request, "version", 0, least=1)
    found = await files.find(request.app[SERVICES].db, device_id, path, version or None)
    if found is None:
        raise Refusal(404, "file-unknown", f"this device has no such file: {wire.display_path(path)[:200]}")
    return await _send(request, found)


async def _versions(request: web.Request, device_id: str, path: bytes) -> web.Response:
    db = request.app[SERVICES].db
    limit = params.whole(request, "limit", 100, least=1, most=1000)
    before = params.whole(request, "cursor", params.INT64_MAX, least=1)
    current = await files.find(db, device_id, path)
    if current is None:
        raise Refusal(404, "file-unknown", f"this device has no such file: {wire.display_path(path)[:200]}")
    rows = await files.versions(db, device_id, path, before=before, limit=limit)
    cursor = str(rows[-1].version) if rows and rows[-1].version > 1 else None
    return answers.ok(
        request,
        [_out(row, current=False) for row in rows],
        pagination=answers.pagination(1, limit, current.version, cursor),
    )


async def _send(request: web.Request, found: files.Stored) -> web.StreamResponse:
    headers = {
        hdrs.ETAG: f'"{found.sha256}"',
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: "private, no-cache",
        hdrs.CONTENT_TYPE: "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: download.disposition(found.path),
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
        "Repr-Digest": download.repr_digest(found.sha256),
        "PiSync-Version": str(found.version),
    }
    if download.names_etag(request.headers.get(hdrs.IF_NONE_MATCH), found.sha256):
        return web.Response(status=304, headers=headers)
    applies = request.method == "GET" and download.range_applies(request.headers.get(hdrs.IF_RANGE), found.sha256)
    span = download.span(request.headers.get(hdrs.RANGE) if applies else None, found.length_bytes)
    if span is None:
        raise Refusal(
            416,
            "range-unsatisfiable",
            f"the file has {found.length_bytes} bytes",
            headers={hdrs.CONTENT_RANGE: f"bytes */{found.length_bytes}"},
        )
    if span.partial:
        headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.start + span.length - 1}/{found.length_bytes}"
    response = web.StreamResponse(status=206 if span.partial else 200, headers=headers)
    response.content_length = span.length
    if request.method == "HEAD" or not span.length:
        await response.prepare(request)
        return response
    uploads = request.app[SERVICES].uploads
    stream = await uploads.threads.run(uploads.blobs.open_content, found.blob)
    with stream:
        return await _stream(request, response, stream, found.offset_bytes + span.start, span.length)


async def _stream(
    request: web.Request, response: web.StreamResponse, stream: IO[bytes], offset: int, count: int
) -> web.StreamResponse:
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    # The kernel copies from file to socket; under TLS the loop copies piece by piece.
    await asyncio.get_running_loop().sendfile(request.transport, stream, offset, count)
    await response.write_eof()
    return response


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/devices/{device}/contents", get_contents)
    app.router.add_get("/api/devices/{device}/files", get_files)
    # A name may hold a newline, which `.` would not match.
    app.router.add_get("/api/devices/{device}/files/{path:(?s:.+)}", get_file)
