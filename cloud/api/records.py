"""Records one by one: GET, PUT, PATCH, DELETE /api/records/{type}/{id}, their list, and POST .../sync."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec
from aiohttp import hdrs, web

from cloud.api import access, answers, keys, params, payload
from cloud.flows.recording import Author, device_author
from cloud.flows.records import Found, Reader, Records, Written
from cloud.rules.access import Principal
from cloud.services import SERVICES
from pisyncd.core import problems, record, recordwire, wire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.recordwire import ConflictBrief, RecordOut

PAGE_DEFAULT = 50
SYNC_S = 25.0
PLACE = "/api/records/{type}/{id}"


class DeliveryBrief(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one webhook about the record. `status_code` null: there was no answer."""

    endpoint_id: str
    event_id: str
    state: str
    status_code: int | None
    error: str | None


class RecordSynced(RecordOut, frozen=True, kw_only=True):
    """The record, and the webhooks that had their turn just now."""

    deliveries: list[DeliveryBrief]


async def get_page(request: web.Request) -> web.Response:
    """200 with a page of a type, by id. Raises Refusal 401, 403, 404, 422."""
    records, principal = await _asked(request)
    limit = params.whole(request, "limit", PAGE_DEFAULT, least=1, most=params.LIMIT_MAX)
    record_type = request.match_info["type"]
    found, total = await records.page(
        record_type,
        after=_after(request),
        limit=limit,
        deleted=_deleted(request),
        reader=_reader(principal),
    )
    more, found = len(found) > limit, found[:limit]
    conflicts = await records.conflicts_of([(each.kept.type, each.kept.id) for each in found])
    data = [_out(each, conflicts.get((each.kept.type, each.kept.id), [])) for each in found]
    cursor = _cursor(found[-1].kept.id) if more else None
    return answers.ok(request, data, pagination=answers.pagination(1, limit, total, cursor))


async def get_record(request: web.Request) -> web.Response:
    """200 with the record. Raises Refusal 401, 403, 404, 422."""
    records, principal = await _asked(request)
    found = await records.read(*_place(request), deleted=_deleted(request), reader=_reader(principal))
    return await _answer(request, records, found)


async def put_record(request: web.Request) -> web.Response:
    """201 when it was made, else 200. Raises Refusal 400, 401, 403, 404, 410, 412, 413, 422."""
    author = await _writing(request)
    edit = Put(recordwire.decode_fields(await payload.read(request)).fields)
    return await _write(request, author, edit)


async def patch_record(request: web.Request) -> web.Response:
    """200 with the record as it is now. Raises Refusal 400, 401, 403, 404, 410, 412, 413, 422."""
    author = await _writing(request)
    edit = Patch(recordwire.decode_fields(await payload.read(request)).fields)
    return await _write(request, author, edit)


async def delete_record(request: web.Request) -> web.Response:
    """200 with the tombstone, also when it was deleted before. Raises Refusal 401, 403, 404, 410, 412."""
    return await _write(request, await _writing(request), Delete())


async def sync_record(request: web.Request) -> web.Response:
    """200 with what became of the record's pending webhooks, after at most 25 s. Raises Refusal 401, 403, 404."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, role="operator")
    request[keys.RATES] = await services.rates.items(principal, 1)
    place = _place(request)
    found = await services.records.read(*place, deleted=True, reader=_reader(principal))
    had = await services.dispatcher.process(resource="/".join(place), timeout_s=SYNC_S)
    briefs = [
        DeliveryBrief(
            endpoint_id=each.endpoint_id,
            event_id=each.event_id,
            state=each.state,
            status_code=each.status_code,
            error=each.error,
        )
        for each in had
    ]
    conflicts = await services.records.conflicts_of([place])
    out = msgspec.structs.asdict(_out(found, conflicts.get(place, [])))
    return answers.ok(request, RecordSynced(**out, deliveries=briefs))


async def _asked(request: web.Request) -> tuple[Records, Principal]:
    principal = await access.require(request, device=True, role="viewer")
    return request.app[SERVICES].records, principal


async def _writing(request: web.Request) -> Author:
    services = request.app[SERVICES]
    principal = await access.require(request, device=True, role="operator")
    request[keys.RATES] = await services.rates.items(principal, 1)
    if principal.kind == "device":
        return device_author(principal.dk, principal.device_id)
    return Author(principal.actor)


def _reader(principal: Principal) -> Reader | None:
    return Reader(dk=principal.dk, device_id=principal.device_id) if principal.kind == "device" else None


async def _write(request: web.Request, author: Author, edit: Edit) -> web.Response:
    records = request.app[SERVICES].records
    if_match = recordwire.etags(request.headers.get(hdrs.IF_MATCH))
    written = await records.write(author, *_place(request), edit, if_match=if_match)
    return await _answer(request, records, written, status=201 if written.created and isinstance(edit, Put) else 200)


async def _answer(request: web.Request, records: Records, found: Found | Written, status: int = 200) -> web.Response:
    place = _place(request)
    out = _out(found, (await records.conflicts_of([place])).get(place, []))
    return answers.ok(request, out, status=status, headers={hdrs.ETAG: f'"{out.etag}"'})


def _out(found: Found | Written, conflicts: Sequence[ConflictBrief]) -> RecordOut:
    kept = found.kept if isinstance(found, Found) else found
    at = wire.rfc3339(kept.updated_at_ms)
    return RecordOut(
        type=kept.type,
        id=kept.id,
        fields=dict(found.view.fields),
        deleted=found.view.deleted,
        version=kept.state.version,
        etag=record.etag(kept.state),
        last_updated_at=at,
        last_synced_at=at,
        sync_status="synced",
        conflicts=list(conflicts),
    )


def _place(request: web.Request) -> tuple[str, str]:
    return request.match_info["type"], request.match_info["id"]


def _deleted(request: web.Request) -> bool:
    return params.choice(request, "deleted", ("true", "false"), "false") == "true"


def _after(request: web.Request) -> str:
    """The id after which a page begins. Raises Refusal 422."""
    cursor = request.query.get("cursor", "")
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        after = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        after = "/"
    if after and not record.is_record_id(after):
        raise problems.invalid("query:cursor", "cursor", "the cursor is not one that a list has given")
    return after


def _cursor(record_id: str) -> str:
    return base64.urlsafe_b64encode(record_id.encode("ascii")).decode("ascii").rstrip("=")


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/records/{type}", get_page, allow_head=False)
    app.router.add_get(PLACE, get_record, allow_head=False)
    app.router.add_put(PLACE, put_record)
    app.router.add_patch(PLACE, patch_record)
    app.router.add_delete(PLACE, delete_record)
    app.router.add_post(f"{PLACE}/sync", sync_record)
