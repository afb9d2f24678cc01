"""Conflict review over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from cloud.api import access, answers, params, payload
from cloud.flows import conflicts, identity
from cloud.flows.conflicts import Conflict, Wanted
from cloud.rules.resolving import Pick
from cloud.services import SERVICES
from pisyncd.core import deciding, picking, problems, record, timeline, wire
from pisyncd.core.record import WRITERS_MAX, FieldRule, RecordType, Strategy

ConflictState = Literal["open", "automatic", "resolved"]
STATES: tuple[ConflictState, ...] = ("open", "automatic", "resolved")


class SideOut(msgspec.Struct, frozen=True, kw_only=True):
    """One of the writes. `name`: what a person calls its writer; `trusted`: whether its clock was sure of `at`;
    `deleted`: it removed the field, or the record, and has no value."""

    writer: str
    name: str
    count: int
    at: str
    trusted: bool
    deleted: bool
    value: Any


class ConflictOut(msgspec.Struct, frozen=True, kw_only=True):
    """A decision between writes. `field` '': about the whole record. `device_id`: whose report brought it up, null for
    the cloud's own. `rule` and `reason`: how it was decided; `explanation`: the same as a sentence."""

    id: str
    type: str
    record_id: str
    field: str
    state: ConflictState
    rule: Strategy | FieldRule
    reason: deciding.Reason
    explanation: str
    device_id: str | None
    created_at: str
    resolved_at: str | None
    resolved_by: str | None
    last_updated_at: str


class ConflictDetail(ConflictOut, frozen=True, kw_only=True):
    """With its sides, and how it ended.

    `resolution.by`: `pick` (with `pick` and `index`), `fields` (with `fields`), `write` (a later write had seen all
    sides), or the id of the conflict that took its place; `version` is that of the record then.
    """

    winner: SideOut
    losers: list[SideOut]
    resolution: dict[str, Any] | None


class ResolveIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either a side (`index` of a loser, from 0; needed when there are several) or fields: all of them for a type that
    is kept whole, those to change for one that is merged by field."""

    pick: Literal["winner", "loser"] | None = None
    index: Annotated[int, Meta(ge=0, lt=WRITERS_MAX)] | None = None
    fields: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(ResolveIn)


async def get_conflicts(request: web.Request) -> web.Response:
    """200 with a page of conflicts, newest first. Raises Refusal 401, 403, 404, 422."""
    await access.require(request, role="viewer")
    page = params.page(request, limit=50)
    device_id = request.query.get("device_id", "")
    async with request.app[SERVICES].db.reading() as tx:
        wanted = Wanted(
            state=params.choice(request, "state", STATES),
            type=_type(request),
            record_id=_record_id(request),
            dk=await identity.device_key(tx, device_id) if device_id else None,
        )
        before = page.before[1] if page.before else params.INT64_MAX
        found, total = await conflicts.page(tx, wanted, before=before, limit=page.limit, offset=page.offset)
    shown = found[: page.limit]
    cursor = params.cursor_after(0, shown[-1].row["ord"]) if len(found) > page.limit else None
    return answers.ok(
        request,
        [ConflictOut(**_fields(each)) for each in shown],
        pagination=answers.pagination(page.number, page.limit, total, cursor),
    )


def _type(request: web.Request) -> str | None:
    text = request.query.get("type") or None
    try:
        return None if text is None else msgspec.convert(text, RecordType)
    except msgspec.ValidationError:
        raise problems.invalid("query:type", "pattern", "this cannot name a record type") from None


def _record_id(request: web.Request) -> str | None:
    text = request.query.get("record_id") or None
    if text is not None and not record.is_record_id(text):
        raise problems.invalid("query:record_id", "pattern", "this cannot be the id of a record")
    return text


async def get_conflict(request: web.Request) -> web.Response:
    """200 with one conflict. Raises Refusal 401, 403, 404."""
    await access.require(request, role="viewer")
    async with request.app[SERVICES].db.reading() as tx:
        found = await conflicts.one(tx, request.match_info["conflict_id"])
    return answers.ok(request, _detail(found))


async def post_resolve(request: web.Request) -> web.Response:
    """200 with the conflict as it ended. Raises Refusal 400, 401, 403, 404, 408, 409, 413, 422."""
    principal = await access.require(request, role="operator")
    choice = _choice(await payload.read(request))
    review = request.app[SERVICES].review
    found = await review.resolve(request.match_info["conflict_id"], choice, actor=principal.actor)
    return answers.ok(request, _detail(found))


def _choice(body: bytes) -> Pick | dict[str, Any]:
    try:
        asked = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, ResolveIn, error) from None
    if (asked.pick is None) == (asked.fields is None):
        raise problems.invalid("", "choice", "either `pick` or `fields` says how it ends")
    if asked.index is not None and asked.pick != "loser":
        raise problems.invalid("/index", "choice", "`index` says which loser is picked")
    if asked.fields is not None:
        return asked.fields
    assert asked.pick is not None
    return Pick(side=asked.pick, index=asked.index)


def _fields(conflict: Conflict) -> dict[str, Any]:
    row, decision = conflict.row, conflict.decision
    at = answers.time_or_none
    return {
        "id": row["id"],
        "type": row["type"],
        "record_id": row["record_id"],
        "field": row["field"],
        "state": row["state"],
        "rule": decision.rule,
        "reason": decision.reason,
        "explanation": row["explanation"],
        "device_id": row["device_id"],
        "created_at": wire.rfc3339(row["created_at_ms"]),
        "resolved_at": at(row["resolved_at_ms"]),
        "resolved_by": row["resolved_by"],
        "last_updated_at": wire.rfc3339(row["resolved_at_ms"] or row["created_at_ms"]),
    }


def _detail(conflict: Conflict) -> ConflictDetail:
    decision, text = conflict.decision, conflict.row["resolution"]
    return ConflictDetail(
        **_fields(conflict),
        winner=_side(decision.winner, conflict),
        losers=[_side(each, conflict) for each in decision.losers],
        resolution=None if text is None else msgspec.json.decode(text),
    )


def _side(side: deciding.Side, conflict: Conflict) -> SideOut:
    return SideOut(
        writer=side.writer,
        name=conflict.names.get(side.writer) or ("the cloud" if side.writer.startswith(picking.CLOUD) else side.writer),
        count=side.count,
        at=wire.rfc3339(min(max(side.at_ms, 0), timeline.WALL_MAX_MS)),
        trusted=side.trusted,
        deleted=side.value is None,
        value=side.value,
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/conflicts", get_conflicts)
    app.router.add_get("/api/conflicts/{conflict_id}", get_conflict)
    app.router.add_post("/api/conflicts/{conflict_id}/resolve", post_resolve)
