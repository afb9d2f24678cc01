"""Forgets one user, as privacy laws ask: the only way in which learning events are ever deleted.

Of a record that is the user's nothing is left but its type and id, until tombstones are dropped, and a place at the end
of the feed of changes: devices that had it are told that it is gone, and drop their copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud.flows import audit
from cloud.rules import exporting
from cloud.store import records
from cloud.store.db import Database, Tx
from pisyncd.core import envelope, privacy
from pisyncd.core.problems import Refusal

#: In this order: answers before the sessions that say whose they are, conflicts before the records, and so on.
TABLES = (
    "attempt_events",
    "telemetry",
    "session_answer",
    "learner_session",
    "batch_log",
    "message",
    "rejected_item",
    "conflict",
    "record",
    "subscription",
    "webhook_attempt",
    "webhook_delivery",
    "webhook_event",
    "webhook_inbound",
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
        # Before any other row, as all do who write records: else two of them could wait for each other.
        await records.lock(tx)
        await tx.run("purge_permit_add", user_id=user_id)
        through = {dataset.name: await _newest(tx, dataset.name) for dataset in exporting.GROWING}
        stale = sum([await tx.run(f"purge_stale_{name}", user_id=user_id) for name in _STALE])
        removed = {table: await _remove(tx, table, user_id, now_ms()) for table in TABLES}
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


async def _remove(tx: Tx, table: str, user_id: str, now_ms: int) -> int:
    if table == "record":
        return await _remove_records(tx, user_id, now_ms)
    count = await tx.run(f"purge_{table}", user_id=user_id)
    if table == "subscription" and count:
        await tx.run("subscriptions_changed")
    return count


async def _remove_records(tx: Tx, user_id: str, now_ms: int) -> int:
    found = await tx.all("purge_records_of", user_id=user_id)
    if found:
        change = await tx.value("records_advance", count=len(found)) - len(found)
        for number, row in enumerate(found, 1):
            key = {"type": row["type"], "id": row["id"]}
            await tx.run("purge_one_record", **key, change=change + number, now_ms=now_ms)
            await tx.run("purge_one_record_scopes", **key)
    await tx.run("purge_record_scopes", user_id=user_id)
    return len(found)


async def _newest(tx: Tx, dataset: str) -> int:
    """The last ord that there is, here or in the files: retention may have emptied the table."""
    here = await tx.value(f"export_newest_{dataset}")
    return int(max(here, await tx.value("export_planned_through", dataset=dataset)))
