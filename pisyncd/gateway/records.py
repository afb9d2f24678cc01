"""Records: GET, PUT, PATCH, DELETE /api/records/{type}/{id}, their list, and POST .../sync; as in the cloud."""

from __future__ import annotations

from aiohttp import hdrs, web

from pisyncd.core import deciding, explain, frames, record, recordwire, timeline, wire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.problems import Refusal
from pisyncd.gateway import framing
from pisyncd.gateway.bodies import Bodies
from pisyncd.gateway.parsing import nothing_in, number, query
from pisyncd.gateway.ports import Device
from pisyncd.outbox import Outbox
from pisyncd.outbox.recordrows import Kept
from pisyncd.outbox.records import Written

PAGE_DEFAULT = 50
PAGE_MAX = 500
CONFLICTS_MAX = 20
RETRY_S = 60
PLACE = "/api/records/{type}/{id}"
_WHY = {
    "offline": "the cloud cannot be reached now",
    "paused": "sending is paused on this device",
    "timeout": "the cloud has not answered in time",
    "stopping": "the daemon is stopping",
}


class RecordRoutes:
    """One handler per route."""

    def __init__(self, device: Device, outbox: Outbox, bodies: Bodies) -> None:
        self._device = device
        self._records = outbox.records
        self._clock = outbox.db.clock
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """What applications and browsers may use."""
        return [
            web.get("/api/records/{type}", self.page, allow_head=False),
            web.get(PLACE, self.get, allow_head=False),
            web.put(PLACE, self.put),
            web.patch(PLACE, self.patch),
            web.delete(PLACE, self.delete),
            web.post(PLACE + "/sync", self.sync),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """200 with a page, by id. ?limit= ?cursor= ?deleted= Raises Refusal 400, 404, 422."""
        asked = query(request, "limit", "cursor", "deleted")
        record_type = self._type(request)
        limit = number(asked, "limit", 1, PAGE_MAX, PAGE_DEFAULT)
        after, deleted = asked.get("cursor", ""), _flag(asked, "deleted")
        if after and not record.is_record_id(after):
            raise Refusal(422, "query-invalid", "cursor is not one that a page gave", hint="leave it out to begin anew")
        found = await self._records.page(record_type, after, limit + 1, deleted=deleted)
        cursor = found[limit - 1].id if len(found) > limit else None
        total = await self._records.count_of(record_type, deleted=deleted)
        data = [await self._out(kept) for kept in found[:limit]]
        return framing.framed(self._now(), data, pagination=frames.pagination(1, limit, total, cursor))

    async def get(self, request: web.Request) -> web.Response:
        """200 with the record. ?deleted= Raises Refusal 400, 404, 422."""
        deleted = _flag(query(request, "deleted"), "deleted")
        record_type, record_id = self._place(request)
        kept = await self._records.read(record_type, record_id)
        if kept is None or (kept.deleted and not deleted):
            raise recordwire.unknown(record_type, record_id)
        return await self._answer(kept)

    async def put(self, request: web.Request) -> web.Response:
        """201 when it was made, else 200. Raises Refusal 400, 404, 412, 413, 422."""
        async with self._bodies.of(request) as body:
            written = await self._write(request, Put(recordwire.decode_fields(body).fields))
        return await self._answer(written.kept, 201 if written.created else 200)

    async def patch(self, request: web.Request) -> web.Response:
        """200 with the record as it is now. Raises Refusal 400, 404, 412, 413, 422."""
        async with self._bodies.of(request) as body:
            written = await self._write(request, Patch(recordwire.decode_fields(body).fields))
        return await self._answer(written.kept)

    async def delete(self, request: web.Request) -> web.Response:
        """200 with the tombstone, also when it was deleted before. Raises Refusal 400, 404, 412."""
        async with self._bodies.of(request):
            written = await self._write(request, Delete())
        return await self._answer(written.kept)

    async def sync(self, request: web.Request) -> web.Response:
        """200 with the record when both ends have the same. Raises Refusal 404, 503."""
        await nothing_in(request)
        record_type, record_id = self._place(request)
        if reason := await self._device.sync_record(record_type, record_id):
            raise _not_now(reason)
        kept = await self._records.read(record_type, record_id)
        if kept is None:
            raise recordwire.unknown(record_type, record_id)
        return await self._answer(kept)

    async def _write(self, request: web.Request, edit: Edit) -> Written:
        query(request)
        record_type, record_id = self._place(request)
        return await self._records.write(
            record_type, record_id, edit, if_match=recordwire.etags(request.headers.get(hdrs.IF_MATCH))
        )

    def _type(self, request: web.Request) -> str:
        record_type = request.match_info["type"]
        if record_type not in self._records.rules:
            raise recordwire.type_unknown(record_type, self._records.rules)
        return record_type

    def _place(self, request: web.Request) -> tuple[str, str]:
        record_type, record_id = self._type(request), request.match_info["id"]
        if not record.is_record_id(record_id):
            raise recordwire.id_invalid("/id")
        return record_type, record_id

    async def _answer(self, kept: Kept, status: int = 200) -> web.Response:
        out = await self._out(kept)
        return framing.framed(self._now(), out, status, headers={hdrs.ETAG: f'"{out.etag}"'})

    async def _out(self, kept: Kept) -> recordwire.RecordOut:
        synced = kept.synced_wall_ms
        return recordwire.RecordOut(
            type=kept.type,
            id=kept.id,
            fields=dict(kept.fields),
            deleted=kept.deleted,
            version=kept.state.version,
            etag=record.etag(kept.state),
            last_updated_at=wire.rfc3339(kept.updated_wall_ms),
            last_synced_at=None if synced is None else wire.rfc3339(min(max(synced, 0), timeline.WALL_MAX_MS)),
            sync_status="pending" if kept.waiting else "refused" if kept.refused else "synced",
            conflicts=await self._conflicts(kept),
        )

    async def _conflicts(self, kept: Kept) -> list[recordwire.ConflictBrief]:
        if kept.state.version.keys() <= {self._records.writer}:
            return []
        rule = self._records.rules.get(kept.type)
        now = deciding.decisions(kept.type, kept.id, kept.state, rule) if rule is not None else []
        still_open = {each.id for each in now if each.open}
        names = {self._records.writer: self._device.config.device_id or "this device"}
        return [
            recordwire.ConflictBrief(
                id=each.id, field=each.field, open=each.id in still_open, explanation=explain.sentence(each, names)
            )
            for each in await self._records.decisions_of(kept.type, kept.id, CONFLICTS_MAX)
        ]

    def _now(self) -> int:
        return self._clock.wall_ms()


def _flag(asked: dict[str, str], name: str) -> bool:
    text = asked.get(name, "false")
    if text not in ("true", "false"):
        raise Refusal(422, "query-invalid", f"{name} is true or false")
    return text == "true"


def _not_now(reason: str) -> Refusal:
    detail = _WHY.get(reason, f"the cloud could not take or give it: {reason}")
    hint = "what was written stays queued and is sent as soon as it can be"
    if reason == "paused":
        hint += "; `pisyncctl resume` lets it go on"
    code = "offline" if reason not in _WHY else reason
    return Refusal(503, code, detail, hint=hint, headers={"Retry-After": str(RETRY_S)})
