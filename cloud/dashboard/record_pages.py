"""What is kept for others: exports, and the audit with its download."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from urllib.parse import urlencode

import msgspec
from aiohttp import hdrs, web

from cloud.api import params
from cloud.dashboard import forms, frame
from cloud.dashboard.forms import NOTHING, Tried, beside
from cloud.dashboard.frame import Fields, form, page
from cloud.flows import audit, export_status
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Row
from pisyncd.core import wire

SHOWN = 50
PORTION = 500
COLUMNS = ("id", "at", "actor", "action", "target", "detail", "before_hash", "after_hash")
#: A cell that begins so would be a formula to whoever opens the file in a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


# Exports


async def show_exports(request: web.Request, tried: Tried) -> web.StreamResponse:
    """How far the export is, and the form that starts a run."""
    services = request.app[SERVICES]
    context = {
        "exporter": services.exporter,
        "datasets": await export_status.statuses(services.db),
        "lag_max": export_status.LAG_MAX,
        "tried": tried,
    }
    return frame.render(request, "exports.html", context, status=tried.status)


@page()
async def get_exports(request: web.Request) -> web.StreamResponse:
    """200: the export."""
    return await show_exports(request, NOTHING)


@form(role="admin")
@beside(show_exports, "run")
async def post_exports(request: web.Request, _fields: Fields) -> str:
    """It runs now. Raises Refusal 409."""
    services = request.app[SERVICES]
    services.exporter.ask()
    async with services.db.transaction() as tx:
        await audit.record(
            tx,
            now_ms=wall_ms(),
            actor=forms.who(request).actor,
            action=audit.EXPORT_STARTED,
            target="",
            detail={},
        )
    return "/exports?done=export-started"


# The audit


def _wanted(request: web.Request) -> audit.Wanted:
    """What the form above the list asks for. Raises Refusal 422."""
    return audit.Wanted(
        actor=forms.text_of(request, "actor"),
        action=forms.text_of(request, "action"),
        target=forms.text_of(request, "target"),
        from_ms=params.moment(request, "from", audit.ALL.from_ms),
        to_ms=params.moment(request, "to", audit.ALL.to_ms),
    )


@page(role="admin")
async def get_audit(request: web.Request) -> web.StreamResponse:
    """200: who did what, newest first. Raises Refusal 422 (shown as a page)."""
    asked, wanted = params.page(request, limit=SHOWN), _wanted(request)
    before_id = asked.before[1] if asked.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        found = await audit.entries(tx, wanted, before_id=before_id, limit=SHOWN + 1)
        total = await audit.count(tx, wanted)
    rows = found[:SHOWN]
    query = {name: request.query.get(name, "") for name in ("actor", "action", "target", "from", "to")}
    context = {
        "entries": [{**dict(row), "detail": _detail(row)} for row in rows],
        "query": query,
        "csv": "/audit.csv?" + urlencode({name: value for name, value in query.items() if value}, errors="replace"),
        "list": forms.listed(request, "/audit", asked, total, rows[-1]["id"] if len(found) > SHOWN else None),
    }
    return frame.render(request, "audit.html", context)


def _detail(row: Row) -> list[tuple[str, str]]:
    """What an entry says more, as names and values."""
    found = msgspec.json.decode(row["detail"])
    return [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in found.items()
    ]


@page(role="admin")
async def get_audit_csv(request: web.Request) -> web.StreamResponse:
    """200: the same as a file, all of it, newest first, read in portions. Raises Refusal 422 (shown as a page)."""
    wanted = _wanted(request)
    response = web.StreamResponse(headers=frame.HEADERS)
    response.headers[hdrs.CONTENT_TYPE] = "text/csv; charset=utf-8"
    response.headers[hdrs.CONTENT_DISPOSITION] = 'attachment; filename="audit.csv"'
    await response.prepare(request)
    await response.write(csv_lines([COLUMNS]))
    before_id: int | None = params.INT64_MAX
    while before_id is not None:
        async with request.app[SERVICES].db.reading() as tx:
            rows = await audit.entries(tx, wanted, before_id=before_id, limit=PORTION)
        await response.write(csv_lines(map(_cells, rows)))
        before_id = rows[-1]["id"] if len(rows) == PORTION else None
    await response.write_eof()
    return response


def _cells(row: Row) -> list[str]:
    told = {**dict(row), "at": wire.rfc3339(row["at_ms"])}
    return ["" if told[name] is None else str(told[name]) for name in COLUMNS]


def csv_lines(rows: Iterable[Iterable[str]]) -> bytes:
    """Lines of a CSV file. What a spreadsheet would take for a formula gets a ' in front and stays text."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([f"'{cell}" if cell.startswith(FORMULA) else cell for cell in row] for row in rows)
    return out.getvalue().encode("utf-8", "replace")


def setup(app: web.Application) -> None:
    """Adds the pages."""
    app.router.add_get("/exports", get_exports)
    app.router.add_post("/exports", post_exports)
    app.router.add_get("/audit", get_audit)
    app.router.add_get("/audit.csv", get_audit_csv)
