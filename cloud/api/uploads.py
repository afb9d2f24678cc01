"""tus 1.0.0 at /api/files: reads headers, calls the flow, answers."""

from __future__ import annotations

import base64
from email.utils import formatdate

from aiohttp import hdrs, web

from cloud.api import access, answers
from cloud.api.body import Body, encoding_of, expected
from cloud.flows.terms import Plan, Request, Standing
from cloud.rules import bundle, refusals, tus
from cloud.services import SERVICES, wall_ms
from cloud.store.uploads import UploadRow
from pisyncd.core import wire
from pisyncd.core.problems import Refusal

ROOT = "/api/files"
_OVERRIDABLE = ("PATCH", "DELETE", "HEAD")


async def options(_request: web.Request) -> web.Response:
    """204: what this server can do."""
    return web.Response(status=204)


async def create(request: web.Request) -> web.Response:
    """201 with the address of a new upload. Raises Refusal 400, 401, 403, 408, 412, 413, 415, 460, 507."""
    principal = await access.require(request, device=True)
    _same_version(request)
    body = Body(request, stall_s=request.app[SERVICES].settings.upload_stall_s)
    try:
        plan = _plan(request)
        with_bytes = request.content_length != 0 and request.body_exists
        incoming = _incoming(request, body) if with_bytes else None
        standing = await request.app[SERVICES].uploads.create(principal.dk, plan, incoming)
    except tus.BadHeader as fault:
        raise _bad_header(fault) from None
    finally:
        await body.aclose()
    headers = _standing_headers(standing, always=False)
    headers[hdrs.LOCATION] = f"{ROOT}/{standing.upload.id}"
    return web.Response(status=201, headers=headers)


def _plan(request: web.Request) -> Plan:
    concat = tus.concat(request.headers.get("Upload-Concat"))
    pairs = tus.metadata(request.headers.get("Upload-Metadata"))
    length = tus.creation_length(
        request.headers.get("Upload-Length"), request.headers.get("Upload-Defer-Length"), concat
    )
    return Plan(length=length, intent=tus.intent(pairs), concat=concat, metadata=wire.encode_metadata(dict(pairs)))


def _incoming(request: web.Request, body: Body) -> Request:
    if request.content_type != wire.OFFSET_STREAM:
        raise Refusal(
            415,
            "content-type",
            f"the bytes of an upload travel as {wire.OFFSET_STREAM}",
            hint=f"Content-Type: {wire.OFFSET_STREAM}",
        )
    encoding, declared = encoding_of(request)
    checksum = tus.checksum(request.headers.get("Upload-Checksum"))
    return Request(body=body, declared=declared, checksum=checksum, encoding=encoding)


async def patch(request: web.Request) -> web.Response:
    """204 with the new offset. Raises Refusal 400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 460, 507."""
    principal = await access.require(request, device=True)
    _same_version(request)
    body = Body(request, stall_s=request.app[SERVICES].settings.upload_stall_s)
    try:
        incoming = _incoming(request, body)
        offset = tus.required_integer("Upload-Offset", request.headers.get("Upload-Offset"))
        length = tus.integer("Upload-Length", request.headers.get("Upload-Length"))
        standing = await request.app[SERVICES].uploads.append(
            principal.dk, request.match_info["upload"], offset, length, incoming
        )
    except tus.BadHeader as fault:
        raise _bad_header(fault) from None
    finally:
        await body.aclose()
    return web.Response(status=204, headers=_standing_headers(standing, always=False))


async def head(request: web.Request) -> web.Response:
    """200 with where the upload stands; whoever still writes to it is ended first. Raises Refusal 401-412."""
    principal = await access.require(request, device=True)
    _same_version(request)
    standing = await request.app[SERVICES].uploads.look(principal.dk, request.match_info["upload"], take_over=True)
    headers = _standing_headers(standing, always=True)
    upload = standing.upload
    if upload.length_bytes is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(upload.length_bytes)
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    if upload.role == "part":
        headers["Upload-Concat"] = "partial"
    elif upload.role == "final":
        headers["Upload-Concat"] = "final;" + " ".join(f"{ROOT}/{part}" for part in upload.parts)
    # without it aiohttp's client takes the end of the answer for the end of the connection: a round trip each resume
    headers[hdrs.CONTENT_LENGTH] = "0"
    return web.Response(status=200, headers=headers)


async def delete(request: web.Request) -> web.Response:
    """204: the upload is ended; what it has published stays. Raises Refusal 401-412."""
    principal = await access.require(request, device=True)
    _same_version(request)
    await request.app[SERVICES].uploads.terminate(principal.dk, request.match_info["upload"])
    return web.Response(status=204)


async def overridden(request: web.Request) -> web.Response:
    """A POST that stands for PATCH, DELETE or HEAD, for clients that cannot send these."""
    method = request.headers.get("X-HTTP-Method-Override", "").upper()
    if method not in _OVERRIDABLE:
        raise web.HTTPMethodNotAllowed("POST", ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH"))
    return await {"PATCH": patch, "DELETE": delete, "HEAD": head}[method](request)


async def status(request: web.Request) -> web.Response:
    """200 with what became of the upload. Raises Refusal 401, 403, 404, 410."""
    principal = await access.require(request, device=True, role="viewer")
    dk = principal.dk if principal.kind == "device" else None
    flow = request.app[SERVICES].uploads
    standing = await flow.look(dk, request.match_info["upload"], take_over=False)
    published, reused, refused = standing.entries
    entries = await flow.refused_entries(standing.upload.id) if refused else []
    return answers.ok(
        request,
        wire.UploadStatus(
            id=standing.upload.id,
            state=standing.stage,
            offset=standing.offset,
            length=standing.upload.length_bytes,
            kind=standing.upload.kind,
            error_code=standing.error_code,
            hint=bundle.HINTS.get(standing.error_code or ""),
            entries=wire.EntryCounts(published=published, reused=reused, refused=refused),
            refused=[_refused(path, code) for path, code in entries],
            last_updated_at=wire.rfc3339(_updated_ms(standing.upload, flow.policy.keep_ms)),
        ),
    )


def _updated_ms(upload: UploadRow, keep_ms: int) -> int:
    """When it ended, else when bytes came last: its time runs anew then."""
    return upload.finished_at_ms or max(upload.created_at_ms, min(upload.expires_at_ms - keep_ms, wall_ms()))


def _refused(path: bytes, code: str) -> wire.RefusedEntry:
    return wire.RefusedEntry(
        path=wire.display_path(path),
        path_b64=base64.b64encode(path).decode(),
        code=code,
        hint=bundle.HINTS.get(code, ""),
    )


def _standing_headers(standing: Standing, *, always: bool) -> dict[str, str]:
    headers = {refusals.OFFSET: str(standing.offset)}
    if always or standing.stage != "receiving":
        headers[wire.UPLOAD_STATE] = standing.stage
    if standing.error_code is not None:
        headers[wire.UPLOAD_ERROR] = standing.error_code
    if standing.stage == "receiving":
        headers["Upload-Expires"] = formatdate(standing.upload.expires_at_ms / 1000, usegmt=True)
    return headers


def _same_version(request: web.Request) -> None:
    if request.headers.get("Tus-Resumable") != tus.VERSION:
        raise Refusal(
            412,
            "tus-version",
            f"this server speaks tus {tus.VERSION}",
            hint=f"Tus-Resumable: {tus.VERSION}",
            headers={"Tus-Version": tus.VERSION},
        )


def _bad_header(fault: tus.BadHeader) -> Refusal:
    return Refusal(400, "header-invalid", str(fault))


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer below /api/files is a tus answer, errors of the router included."""
    if not (request.path == ROOT or request.path.startswith(f"{ROOT}/")):
        return
    response.headers["Tus-Resumable"] = tus.VERSION
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if request.method == "OPTIONS":
        policy = request.app[SERVICES].uploads.policy
        response.headers["Tus-Version"] = tus.VERSION
        response.headers["Tus-Extension"] = ",".join(tus.EXTENSIONS)
        response.headers["Tus-Max-Size"] = str(policy.upload_bytes_max)
        response.headers["Tus-Checksum-Algorithm"] = ",".join(tus.CHECKSUMS)


async def _drain(app: web.Application) -> None:
    """A slow body must not hold up the stop of the service."""
    app[SERVICES].uploads.drain()


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.on_response_prepare.append(_stamp)
    app.on_shutdown.append(_drain)
    for path in (ROOT, f"{ROOT}/"):
        app.router.add_route("OPTIONS", path, options)
        app.router.add_route("POST", path, create, expect_handler=expected)
    one = f"{ROOT}/{{upload}}"
    app.router.add_route("OPTIONS", one, options)
    app.router.add_route("POST", one, overridden, expect_handler=expected)
    app.router.add_route("PATCH", one, patch, expect_handler=expected)
    app.router.add_route("HEAD", one, head)
    app.router.add_route("DELETE", one, delete)
    app.router.add_get(one, status, allow_head=False)
