"""Reads what a group of reports has to be judged by, and writes what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloud.rules.admit import Alert, Changes, Knowledge, Recorded, Tally, Unit
from cloud.rules.facts import MessageFact, SyncFact
from cloud.rules.streaks import State
from cloud.store.db import Database, Row, Tx

NOTIFICATION_KIND = "consecutive-failures"
HOUR_MS = 3_600_000


def _state(row: Row) -> State:
    return State(
        dk=row["dk"],
        events_total=row["events_total"],
        success_total=row["success_total"],
        partial_total=row["partial_total"],
        failed_total=row["failed_total"],
        consecutive_failures=row["consecutive_failures"],
        files_synced_total=row["files_synced_total"],
        last_status=row["last_status"],
        last_event_at_ms=row["last_event_at_ms"],
        last_success_at_ms=row["last_success_at_ms"],
        last_failed_at_ms=row["last_failed_at_ms"],
        last_error_code=row["last_error_code"],
        last_speed_mbps=row["last_speed_mbps"],
        last_queue_depth=row["last_queue_depth"],
        alert_opened_at_ms=row["alert_opened_at_ms"],
    )


def _recorded(row: Row) -> Recorded:
    return Recorded(
        digest=bytes(row["digest"]),
        occurred_at_ms=row["occurred_at_ms"],
        received_at_ms=row["received_at_ms"],
        status=row["status"],
        consecutive_failures=row["consecutive_failures"],
        time_flags=row["time_flags"],
    )


async def knowledge(tx: Tx, units: Sequence[Unit]) -> Knowledge:
    """Everything that the facts of `units` are to be compared with; their devices are locked until the end of `tx`."""
    devices = sorted({unit.dk for unit in units if unit.dk})
    syncs: set[tuple[int, str]] = set()
    messages: set[tuple[int, str, str]] = set()
    records: set[tuple[int, str]] = set()
    streams: set[tuple[int, str]] = set()
    for unit in units:
        for fact in unit.facts:
            if isinstance(fact, SyncFact):
                syncs.add((unit.dk, fact.event_id))
            elif isinstance(fact, MessageFact):
                messages.add((unit.dk, unit.user_id or fact.user_id, fact.item_id))
                if fact.record is not None and fact.place is not None:
                    records.add((unit.dk, fact.item_id))
            if fact.place is not None:
                streams.add((unit.dk, fact.place.stream))
    states = await tx.lookup("states_for_update", [(dk,) for dk in devices])
    known = Knowledge(states={row["dk"]: _state(row) for row in states})
    for row in await tx.lookup("known_syncs", list(syncs)):
        known.syncs[row["dk"], row["event_id"]] = _recorded(row)
    for row in await tx.lookup("known_messages", list(messages)):
        known.messages[row["dk"], row["user_id"], row["item_id"]] = bytes(row["digest"])
    for row in await tx.lookup("known_rejected", list(records)):
        known.refused[row["dk"], row["item_id"], bytes(row["digest"])] = row["code"], row["detail"]
    for row in await tx.lookup("known_marks", list(streams)):
        known.marks[row["dk"], row["stream"]] = row["received_through"]
    for row in await tx.lookup("known_ahead", list(streams)):
        known.ahead.setdefault((row["dk"], row["stream"]), set()).add(row["seq"])
    return known


async def count_hour(tx: Tx, tally: Tally, slot: int, now_ms: int) -> None:
    """Adds a group to its hour; every writer has a slot of its own, so that none waits for another's commit."""
    if tally.success or tally.partial or tally.failed:
        await tx.run(
            "add_to_hour",
            hour_ms=now_ms - now_ms % HOUR_MS,
            slot=slot,
            success=tally.success,
            partial=tally.partial,
            failed=tally.failed,
            files=tally.files,
            bytes=tally.bytes,
        )


async def write(tx: Tx, known: Knowledge, changes: Changes, seen: Iterable[int], now_ms: int) -> None:
    """Writes the rows of a judged group."""
    await tx.bulk("add_syncs", changes.syncs)
    await tx.bulk("add_messages", changes.messages)
    await tx.bulk("add_rejected", changes.rejected)
    await tx.bulk("save_states", [_state_row(known.states[dk], now_ms) for dk in changes.states])
    await tx.bulk("touch_devices", [(now_ms, dk) for dk in seen if dk not in changes.states])
    if changes.ahead_new:
        marks = known.marks
        await tx.bulk("add_ahead", [row for row in changes.ahead_new if row[2] > marks.get(row[:2], 0)])
    marks_rows = [(dk, stream, known.marks[dk, stream]) for dk, stream in changes.marks]
    await tx.bulk("save_marks", marks_rows)
    await tx.bulk("drop_ahead", marks_rows)
    for alert in changes.alerts:
        await _apply(tx, alert, now_ms)
    await tx.bulk("save_vitals", [changes.vitals[dk] for dk in sorted(changes.vitals)])
    if changes.results:
        await tx.bulk("end_commands", changes.results)
        await tx.run("commands_changed")
        await tx.run("fleet_changed")
    await tx.bulk("end_faults", [(dk,) for dk in sorted(changes.cured)])
    await tx.bulk("add_faults", [(*key, now_ms, now_ms, count, None) for key, count in sorted(changes.ended.items())])
    await tx.bulk(
        "add_faults", [(*key, now_ms, now_ms, count, now_ms) for key, count in sorted(changes.faults.items())]
    )


def _state_row(state: State, now_ms: int) -> tuple[object, ...]:
    return (
        state.events_total,
        state.success_total,
        state.partial_total,
        state.failed_total,
        state.consecutive_failures,
        state.files_synced_total,
        state.last_status,
        state.last_event_at_ms,
        state.last_success_at_ms,
        state.last_failed_at_ms,
        state.last_error_code,
        state.last_speed_mbps,
        state.last_queue_depth,
        state.alert_opened_at_ms,
        now_ms,
        now_ms,
        state.dk,
    )


async def _apply(tx: Tx, alert: Alert, now_ms: int) -> None:
    if alert.verb == "open":
        await tx.run(
            "open_notification",
            dk=alert.dk,
            kind=NOTIFICATION_KIND,
            now_ms=now_ms,
            streak=alert.consecutive_failures,
            error_code=alert.error_code,
        )
        return
    await tx.run(
        "close_notification", dk=alert.dk, kind=NOTIFICATION_KIND, now_ms=now_ms, streak=alert.consecutive_failures
    )


async def drop_old_hours(db: Database, before_ms: int) -> int:
    """Forgets the figures of hours before a time; how many."""
    async with db.transaction() as tx:
        return await tx.run("drop_hours", before_ms=before_ms)
