"""What happened to a device, from all tables that know of it, as one list: newest first, with a cursor.

kind        id                    detail
sync        the event's number    status, files, errors, error_code
state       the transition's      old, new, reason, detail
fault       its code              the first time it was met
command     the command's         kind, state, detail; once when it was asked for and once when it ended
incident    the incident's        cause, event (opened, acknowledged, closed)
audit       the entry's           actor, action, detail
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from cloud.flows import audit, lists
from cloud.flows.lists import ALWAYS
from cloud.store.db import Row, Tx

Kind = Literal["sync", "state", "fault", "command", "incident", "audit"]
SKIP_MAX = 10_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened; `at_ms` is when, in wall milliseconds."""

    kind: Kind
    at_ms: int
    id: str
    detail: dict[str, Any]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page begins: at entries that are not younger than `at_ms`, after `skip` of those of that moment."""

    at_ms: int = 2**62
    skip: int = 0


async def page(tx: Tx, dk: int, device_id: str, place: Place, limit: int) -> tuple[list[Entry], Place | None, int]:
    """(up to `limit` entries, where the next page begins or None at the end, how many there are in all)."""
    most = limit + place.skip + 1
    found: list[Entry] = []
    events, syncs = await lists.history(tx, dk, ALWAYS, before=(place.at_ms, 2**62), limit=most, offset=0)
    found += [_sync(row) for row in events]
    found += [_state(row) for row in await tx.all("timeline_states", dk=dk, at_ms=place.at_ms, row_limit=most)]
    few = await _few(tx, dk)
    found += few
    wanted = audit.Wanted(target=device_id, to_ms=min(place.at_ms + 1, 2**62))
    found += [_entry(row) for row in await audit.entries(tx, wanted, limit=most)]
    rest = sorted((each for each in found if each.at_ms <= place.at_ms), key=_order)
    rest = rest[place.skip :]
    shown = rest[:limit]
    states = int(await tx.value("transitions_count", dk=dk))
    total = syncs + states + len(few) + await audit.count(tx, audit.Wanted(target=device_id))
    return shown, _after(place, shown) if len(rest) > limit else None, total


async def _few(tx: Tx, dk: int) -> list[Entry]:
    """What a device has dozens of at most."""
    found = [_fault(row) for row in await tx.all("faults_of_device", dk=dk)]
    for row in await tx.all("commands_shown", dk=dk, row_limit=SKIP_MAX):
        found += _command(row)
    for row in await tx.all("incidents_shown", dk=dk, row_limit=SKIP_MAX):
        found += _incident(row)
    return found


def _order(entry: Entry) -> tuple[int, str, int, str]:
    # Within a moment as the statements order them: by number, the highest first.
    return (-entry.at_ms, entry.kind, -int(entry.id) if entry.id.isdigit() else 0, entry.id)


def _after(place: Place, shown: list[Entry]) -> Place:
    at_ms = shown[-1].at_ms
    same = sum(each.at_ms == at_ms for each in shown)
    return Place(at_ms=at_ms, skip=same + (place.skip if at_ms == place.at_ms else 0))


def _sync(row: Row) -> Entry:
    said = {"status": row["status"], "files": row["files_synced"], "errors": row["errors"]}
    said["error_code"] = row["error_code"]
    return Entry(kind="sync", at_ms=row["occurred_at_ms"], id=str(row["id"]), detail=said)


def _state(row: Row) -> Entry:
    said = {"old": row["old_state"], "new": row["new_state"], "reason": row["reason"], "detail": row["detail"]}
    return Entry(kind="state", at_ms=row["at_ms"], id=str(row["id"]), detail=said)


def _fault(row: Row) -> Entry:
    return Entry(kind="fault", at_ms=row["first_seen_ms"], id=row["code"], detail={"count": row["count"]})


def _command(row: Row) -> Iterator[Entry]:
    said = {"kind": row["kind"], "state": "pending", "detail": "", "by": row["created_by"]}
    yield Entry(kind="command", at_ms=row["created_at_ms"], id=row["id"], detail=said)
    if row["ended_at_ms"] is not None:
        ended = {**said, "state": row["state"], "detail": row["detail"]}
        yield Entry(kind="command", at_ms=row["ended_at_ms"], id=f"{row['id']}.ended", detail=ended)


def _incident(row: Row) -> Iterator[Entry]:
    for event, name in (("opened", "opened_at_ms"), ("acknowledged", "acknowledged_at_ms"), ("closed", "closed_at_ms")):
        if row[name] is not None:
            said = {"subject": row["subject"], "cause": row["cause"], "event": event}
            yield Entry(kind="incident", at_ms=row[name], id=f"{row['id']}.{event}", detail=said)


def _entry(row: Row) -> Entry:
    said = {"actor": row["actor"], "action": row["action"], "detail": msgspec.json.decode(row["detail"])}
    return Entry(kind="audit", at_ms=row["at_ms"], id=str(row["id"]), detail=said)
