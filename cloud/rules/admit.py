"""What happens to a group of reports: which are new, which are repeats, which clash; and what that changes.

A message is known by its id and by its place (stream, seq); both are looked at:

place      id and content     outcome     kept in
new        new                synced      sync_event or message
new        known, same        duplicate   (its place now counts as received)
new        known, other       conflict    rejected_item (id-conflict)
received   known, same        duplicate
received   known, other       conflict    rejected_item (id-conflict)
received   new                conflict    rejected_item (seq-conflict): a device that forgot its numbers loses nothing

A Fault is failed and kept in rejected_item; its place counts as received, else one bad item would hold its stream for
ever. Without a place only the id decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cloud.rules import streaks, times
from cloud.rules.intake import Fact, Fault, MessageFact, Place, SyncFact
from cloud.rules.streaks import State
from pisyncd.core.wire import ItemStatus, SyncStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one request reports."""

    dk: int
    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A sync event as it is kept; the answer to its first sending and to every repeat."""

    digest: bytes
    occurred_at_ms: int
    received_at_ms: int
    status: SyncStatus
    consecutive_failures: int
    time_flags: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one fact."""

    item_id: str
    status: ItemStatus
    code: str | None = None
    recorded: Recorded | None = None


@dataclass(kw_only=True, slots=True)
class Knowledge:
    """What the store knows of the devices and ids of a group; changed while the group is gone through."""

    states: dict[int, State]
    syncs: dict[tuple[int, str], Recorded] = field(default_factory=dict)
    messages: dict[tuple[int, str], bytes] = field(default_factory=dict)
    marks: dict[tuple[int, str], int] = field(default_factory=dict)
    ahead: dict[tuple[int, str], set[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A notification to open or to close."""

    verb: Literal["open", "close"]
    dk: int
    consecutive_failures: int
    error_code: str | None


@dataclass(kw_only=True, slots=True)
class Changes:
    """The rows to write, as tuples in the order of the statements that take them."""

    syncs: list[tuple[Any, ...]] = field(default_factory=list)
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[Any, ...]] = field(default_factory=list)
    states: set[int] = field(default_factory=set)
    marks: set[tuple[int, str]] = field(default_factory=set)
    ahead_new: list[tuple[int, str, int]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


def group(
    units: Sequence[Unit], known: Knowledge, *, now_ms: int, notify_after: int
) -> tuple[list[list[Outcome]], Changes]:
    """Judges every fact of every unit in order; gives the outcomes per unit and what is to be written."""
    changes = Changes()
    outcomes = [
        [_one(unit.dk, fact, known, changes, now_ms=now_ms, notify_after=notify_after) for fact in unit.facts]
        for unit in units
    ]
    return outcomes, changes


def _one(dk: int, fact: Fact, known: Knowledge, changes: Changes, *, now_ms: int, notify_after: int) -> Outcome:
    place_is_new = _take_place(dk, fact.place, known, changes)
    if isinstance(fact, Fault):
        changes.rejected.append(_rejected(dk, fact, fact.code, fact.detail, now_ms))
        return Outcome(item_id=fact.item_id, status="failed", code=fact.code)
    item_id = fact.event_id if isinstance(fact, SyncFact) else fact.item_id
    key = (dk, item_id)
    before = known.syncs[key].digest if key in known.syncs else known.messages.get(key)
    if before is not None:
        if before == fact.digest:
            return Outcome(item_id=item_id, status="duplicate", recorded=known.syncs.get(key))
        changes.rejected.append(_rejected(dk, fact, "id-conflict", "the same id came with other content", now_ms))
        return Outcome(item_id=item_id, status="conflict", code="id-conflict")
    if not place_is_new:
        changes.rejected.append(_rejected(dk, fact, "seq-conflict", "this seq was received before", now_ms))
        return Outcome(item_id=item_id, status="conflict", code="seq-conflict")
    if isinstance(fact, SyncFact):
        recorded = _record(dk, fact, known, changes, now_ms=now_ms, notify_after=notify_after)
        return Outcome(item_id=item_id, status="synced", recorded=recorded)
    known.messages[key] = fact.digest
    changes.messages.append(_message(dk, fact, now_ms))
    return Outcome(item_id=item_id, status="synced")


def _take_place(dk: int, place: Place | None, known: Knowledge, changes: Changes) -> bool:
    """Counts a place as received; False when it was before. The mark moves over whatever is contiguous."""
    if place is None:
        return True
    key = (dk, place.stream)
    mark, ahead = known.marks.get(key, 0), known.ahead.setdefault(key, set())
    if place.seq <= mark or place.seq in ahead:
        return False
    if place.seq != mark + 1:
        ahead.add(place.seq)
        changes.ahead_new.append((dk, place.stream, place.seq))
        return True
    mark += 1
    while mark + 1 in ahead:
        mark += 1
        ahead.discard(mark)
    known.marks[key] = mark
    changes.marks.add(key)
    return True


def _record(dk: int, fact: SyncFact, known: Knowledge, changes: Changes, *, now_ms: int, notify_after: int) -> Recorded:
    occurred, flags = times.judge(
        timestamp_ms=fact.timestamp_ms, received_ms=now_ms, sent_ms=fact.sent_ms, trusted=fact.trusted
    )
    status = streaks.sync_status(fact.files, fact.errors)
    before = known.states[dk]
    state = streaks.advance(
        before,
        status=status,
        files=fact.files,
        speed_mbps=fact.speed_mbps,
        error_code=fact.error_code,
        queue_depth=fact.queue_depth,
        occurred_at_ms=occurred,
        now_ms=now_ms,
        notify_after=notify_after,
    )
    known.states[dk] = state
    changes.states.add(dk)
    if state.alert_opened_at_ms != before.alert_opened_at_ms:
        changes.alerts.append(_alert(before, state))
    recorded = Recorded(
        digest=fact.digest,
        occurred_at_ms=occurred,
        received_at_ms=now_ms,
        status=status,
        consecutive_failures=state.consecutive_failures,
        time_flags=flags,
    )
    known.syncs[dk, fact.event_id] = recorded
    changes.syncs.append(_sync_row(dk, fact, recorded))
    return recorded


def _alert(before: State, after: State) -> Alert:
    closes = after.alert_opened_at_ms is None
    return Alert(
        verb="close" if closes else "open",
        dk=after.dk,
        consecutive_failures=before.consecutive_failures if closes else after.consecutive_failures,
        error_code=after.last_error_code,
    )


def _sync_row(dk: int, fact: SyncFact, recorded: Recorded) -> tuple[Any, ...]:
    return (
        dk,
        fact.event_id,
        fact.digest,
        recorded.occurred_at_ms,
        recorded.received_at_ms,
        fact.timestamp,
        fact.files,
        fact.errors,
        fact.speed_mbps,
        recorded.status,
        recorded.consecutive_failures,
        recorded.time_flags,
        fact.seq,
        fact.boot_id,
        fact.boottime_ms,
        fact.error_code,
        fact.bytes_sent,
        fact.duration_ms,
        fact.queue_depth,
    )


def _message(dk: int, fact: MessageFact, now_ms: int) -> tuple[Any, ...]:
    return (
        dk,
        fact.item_id,
        fact.item_type,
        fact.place.stream if fact.place else None,
        fact.place.seq if fact.place else None,
        fact.digest,
        fact.body,
        fact.boot_id,
        fact.boottime_ms,
        fact.wall_ms,
        None if fact.trusted is None else int(fact.trusted),
        now_ms,
    )


def _rejected(dk: int, fact: Fact, code: str, detail: str, now_ms: int) -> tuple[Any, ...]:
    if isinstance(fact, SyncFact):
        item_id, item_type, body = fact.event_id, "sync_event", fact.raw
    else:
        item_id, item_type, body = fact.item_id, fact.item_type, fact.body
    place = fact.place
    stream, seq = (place.stream, place.seq) if place else (None, None)
    return (dk, item_id, item_type, stream, seq, fact.digest, code, detail, body, now_ms)
