"""Forgets one user, as privacy laws ask: the only way in which learning events are ever deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud.flows import audit
from cloud.rules import exporting
from cloud.store.db import Database, Tx
from pisyncd.core import envelope, privacy
from pisyncd.core.problems import Refusal

#: In this order: answers before the sessions that say whose they are.
TABLES = (
    "attempt_events",
    "telemetry",
    "session_answer",
    "learner_session",
    "batch_log",
    "message",
    "rejected_item",
)
_STALE = ("attempt_events", "telemetry", "sessions")


@dataclass(frozen=True, kw_only=True)
class Purge:
    """What was removed, by table, and how many ranges of the export have to be rewritten or looked through."""

    removed: dict[str, int]
    stale_ranges: int


def check(user_id: str, reason: str) -> str:
    """The user's id as it is stored. Raises Refusal for what cannot be an id, or does not belong into the audit."""
    if not envelope.is_uuid(user_id):
        raise Refusal(422, "user-id-invalid", f"{user_id[:100]!r} is not a UUID", hint="users are named by UUIDs")
    if not reason.strip() or not reason.isprintable():
        raise Refusal(422, "reason-missing", "a reason in one line is needed", hint='--reason "request 2026-17"')
    found = privacy.personal(reason)
    if found is not None or user_id.lower() in reason.lower():
        why = found[1] if found else "the user's id"
        raise Refusal(
            422,
            "personal-data",
            f"the reason holds {why}; it is kept for ever",
            hint="name the request, not the person",
        )
    return user_id.lower()


async def preview(db: Database, user_id: str) -> dict[str, int]:
    """How many rows of each table would be removed."""
    async with db.reading() as tx:
        row = await tx.one("purge_preview", user_id=user_id)
    assert row is not None
    return {table: row[table] for table in TABLES}


async def purge(db: Database, user_id: str, *, reason: str, actor: str, now_ms: Callable[[], int]) -> Purge:
    """Removes every row of a user, in one transaction with its audit entry. Raises Refusal, StorageBusy.

    Files of the export that hold rows of the user are stale with the same commit; the next export rewrites them.
    """
    user_id = check(user_id, reason)
    async with db.transaction() as tx:
        await tx.value("purge_begin")
        await tx.run("purge_permit_add", user_id=user_id)
        through = {dataset.name: await _newest(tx, dataset.name) for dataset in exporting.GROWING}
        stale = sum([await tx.run(f"purge_stale_{name}", user_id=user_id) for name in _STALE])
        removed = {table: await tx.run(f"purge_{table}", user_id=user_id) for table in TABLES}
        await tx.run("purge_permit_end", user_id=user_id)
        await audit.record(
            tx,
            now_ms=now_ms(),
            actor=actor,
            action=audit.USER_PURGED,
            target=exporting.user_hash(user_id),
            detail={"reason": reason, "removed": removed, "stale_ranges": stale, "through": through},
        )
    async with db.reading() as tx:
        await tx.value("purge_end")
    return Purge(removed=removed, stale_ranges=stale)


async def _newest(tx: Tx, dataset: str) -> int:
    """The last ord that there is, here or in the files: retention may have emptied the table."""
    here = await tx.value(f"export_newest_{dataset}")
    return int(max(here, await tx.value("export_planned_through", dataset=dataset)))
