"""Conflicts to review: a list, and one with its sides next to each other."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import ValidationError, convert

from cloud.api import params
from cloud.api.conflicts import STATES
from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, first, form, page
from cloud.flows import conflicts
from cloud.flows.conflicts import Conflict, Wanted
from cloud.rules.resolving import Pick
from cloud.services import SERVICES, Services
from pisyncd.core import picking, problems, record
from pisyncd.core.deciding import Side
from pisyncd.core.problems import Refusal
from pisyncd.core.record import RecordType

SHOWN = 50


@page()
async def get_conflicts(request: web.Request) -> web.StreamResponse:
    """200: conflicts, those that wait for a person first of all. Raises Refusal 422 (shown as a page)."""
    asked = params.page(request, limit=SHOWN)
    state = params.choice(request, "state", [*STATES, "all"], "open")
    search = forms.text_of(request, "search") or ""
    record_type, _, record_id = search.partition("/")
    wanted = Wanted(
        state=None if state == "all" else state, type=_type(record_type), record_id=_record_id(record_id.strip())
    )
    before = asked.before[1] if asked.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        found, total = await conflicts.page(tx, wanted, before=before, limit=SHOWN, offset=0)
    rows = found[:SHOWN]
    context = {
        "conflicts": rows,
        "states": [*STATES, "all"],
        "state": state,
        "search": search,
        "list": forms.listed(request, "/conflicts", asked, total, rows[-1].row["ord"] if len(found) > SHOWN else None),
    }
    return frame.render(request, "conflicts.html", context)


def _type(text: str) -> str | None:
    try:
        return convert(text.strip(), RecordType) if text.strip() else None
    except ValidationError:
        raise problems.invalid(
            "query:search", "pattern", "this cannot name a record", hint="progress, or progress/prog_1"
        ) from None


def _record_id(text: str) -> str | None:
    if text and not record.is_record_id(text):
        raise problems.invalid("query:search", "pattern", "this cannot be the id of a record")
    return text or None


async def show(request: web.Request, tried: Tried) -> web.StreamResponse:
    """One conflict: both sides, the record as it is now, and the forms. Raises Refusal 404."""
    services = request.app[SERVICES]
    async with services.db.reading() as tx:
        found = await conflicts.one(tx, request.match_info["conflict_id"])
    now = await _record(services, found)
    # What a person would begin to write with: the field as the record shows it now, else as the winner has it.
    field, winner = found.decision.field, found.decision.winner.value
    begun = winner if now is None else (now.get(field, winner) if field else now)
    resolution = found.row["resolution"]
    context = {
        "conflict": found,
        "decision": found.decision,
        "sides": [
            _side(found, found.decision.winner, "winner", 0),
            *(_side(found, each, "loser", index) for index, each in enumerate(found.decision.losers)),
        ],
        "now": None if now is None else {name: forms.shown_json(value) for name, value in now.items()},
        "begun": forms.shown_json(begun if begun is not None or field else {}),
        "resolution": None if resolution is None else msgspec.json.decode(resolution),
        "tried": tried,
    }
    return frame.render(request, "conflict.html", context, status=tried.status)


async def _record(services: Services, found: Conflict) -> dict[str, Any] | None:
    """The fields of the record as it is now; None: it is not there (deleted, purged, its type unknown here)."""
    try:
        view = (await services.records.read(found.decision.type, found.decision.record_id)).view
    except Refusal:
        return None
    return dict(view.fields)


def _side(found: Conflict, side: Side, name: str, index: int) -> dict[str, Any]:
    called = found.names.get(side.writer) or ("the cloud" if side.writer.startswith(picking.CLOUD) else side.writer)
    return {
        "pick": name,
        "index": index,
        "who": called,
        "writer": side.writer,
        "at_ms": side.at_ms,
        "trusted": side.trusted,
        "deleted": side.value is None,
        "value": forms.shown_json(side.value),
    }


@page()
async def get_conflict(request: web.Request) -> web.StreamResponse:
    """200: one conflict. Raises Refusal 404 (shown as a page)."""
    return await show(request, NOTHING)


@form(role="operator")
@beside(show, "resolve")
async def post_resolve(request: web.Request, fields: Fields) -> str:
    """A side is kept, or what was typed. Raises Refusal 404, 409, 413, 422."""
    services, conflict_id = request.app[SERVICES], request.match_info["conflict_id"]
    async with services.db.reading() as tx:
        found = await conflicts.one(tx, conflict_id)
    await services.review.resolve(conflict_id, _choice(found, fields), actor=forms.who(request).actor)
    return "/conflicts?done=conflict-resolved"


def _choice(found: Conflict, fields: Fields) -> Pick | dict[str, Any]:
    keep = forms.choice(fields, "keep", ["winner", "loser", "values"])
    if keep == "winner":
        return Pick(side="winner")
    if keep == "loser":
        return Pick(side="loser", index=forms.whole(fields, "index", least=0, most=record.WRITERS_MAX, default=0))
    value = _typed(first(fields, "values"))
    if found.decision.field:
        return {found.decision.field: value}
    if not isinstance(value, dict):
        raise problems.invalid("/values", "type", "the values of a whole record are an object", hint='{"percent": 85}')
    return value


def _typed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise problems.invalid(
            "/values",
            "json",
            "this is no JSON",
            hint='a number as 85, a text as "in quotes", true, false, a list or null',
        ) from None


def setup(app: web.Application) -> None:
    """Adds the pages."""
    app.router.add_get("/conflicts", get_conflicts)
    app.router.add_get("/conflicts/{conflict_id}", get_conflict)
    app.router.add_post("/conflicts/{conflict_id}/resolve", post_resolve)
