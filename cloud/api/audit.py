"""GET /api/audit: who did what, newest first."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from cloud.api import access, answers, params
from cloud.flows import audit
from cloud.services import SERVICES
from cloud.store.db import Row
from pisyncd.core import problems, wire

TEXT_MAX = 300


class AuditOut(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `actor`: operator:NAME, key:NAME, cli:UNIX_USER, webhook:NAME, device:ID or system.

    A user stands as a SHA-256.

    `before_hash` and `after_hash`: SHA-256 of the canonical JSON of what was there before and after; null: nothing.
    """

    id: int
    at: str
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    before_hash: str | None
    after_hash: str | None
    last_updated_at: str


def out(row: Row) -> AuditOut:
    """An entry as it is shown. Entries never change, so their time is that of their last update."""
    at = wire.rfc3339(row["at_ms"])
    return AuditOut(
        id=row["id"],
        at=at,
        actor=row["actor"],
        action=row["action"],
        target=row["target"],
        detail=msgspec.json.decode(row["detail"]),
        before_hash=row["before_hash"],
        after_hash=row["after_hash"],
        last_updated_at=at,
    )


async def get_audit(request: web.Request) -> web.Response:
    """200 with a page of the entries, newest first. Raises Refusal 401, 403, 422."""
    await access.require(request, role="admin")
    page = params.page(request, limit=50)
    wanted = audit.Wanted(
        actor=_text(request, "actor"),
        action=_text(request, "action"),
        target=_text(request, "target"),
        from_ms=params.moment(request, "from", audit.ALL.from_ms),
        to_ms=params.moment(request, "to", audit.ALL.to_ms),
    )
    before_id = page.before[1] if page.before else params.INT64_MAX
    async with request.app[SERVICES].db.reading() as tx:
        rows = await audit.entries(tx, wanted, before_id=before_id, limit=page.limit + 1, offset=page.offset)
        total = await audit.count(tx, wanted)
    more, rows = len(rows) > page.limit, rows[: page.limit]
    cursor = params.cursor_after(0, rows[-1]["id"]) if more else None
    return answers.ok(
        request, [out(row) for row in rows], pagination=answers.pagination(page.number, page.limit, total, cursor)
    )


def _text(request: web.Request, name: str) -> str | None:
    text = request.query.get(name) or None
    if text is not None and (len(text) > TEXT_MAX or not text.isprintable()):
        raise problems.invalid(f"query:{name}", "text", f"{name} is at most {TEXT_MAX} printable characters")
    return text


def setup(app: web.Application) -> None:
    """Adds the route."""
    app.router.add_get("/api/audit", get_audit)
