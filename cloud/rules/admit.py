"""What happens to a group of reports: which are new, which are repeats, which clash; and what that changes.

A message is known by its id and by its place (stream, seq); both are looked at:

place      id and content     outcome     kept in
new        new                synced      sync_event or message
new        known, same        duplicate   (its place now counts as received)
new        known, other       conflict    rejected_item (id-conflict)
received   known, same        duplicate
received   known, other       conflict    rejected_item (id-conflict)
received   new                conflict    rejected_item (seq-conflict): a device that forgot its numbers loses nothing

A record is judged like a message; what of it is taken is found out afterwards (cloud.flows.pushes).

A Fault is failed and kept in rejected_item; its place counts as received, else one bad item would hold its stream for
ever. Without a place only the id decides. A generic event and an event of envelope v1 are judged like messages, the
latter also by its session: a user's has to be known and the user's own, a device's may still be on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from cloud.rules import faults, rows, streaks, times
from cloud.rules.facts import AttemptFact, Fact, Fault, MessageFact, Place, Stamp, SyncFact, TrackFact
from cloud.rules.streaks import State
from pisyncd.core.envelope import Envelope
from pisyncd.core.wire import ItemStatus, Resolution, SyncStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Clocks:
    """What a batch says of its device's clocks at the moment of sending; `boots` numbers the boots in it.

    `echo`: the boottimes at which an earlier request left and was answered, and the cloud's time in the answer.
    """

    boot_id: str | None = None
    boottime_ms: int | None = None
    boots: Mapping[str, int] = field(default_factory=dict)
    echo: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one request reports: a device (`dk`) or a user (`dk` 0 and `user_id`)."""

    dk: int
    facts: Sequence[Fact]
    user_id: str = ""
    batch_id: str = ""
    clocks: Clocks | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A sync event as it is kept; the answer to its first sending and to every repeat."""

    digest: bytes
    occurred_at_ms: int
    received_at_ms: int
    status: SyncStatus
    consecutive_failures: int
    time_flags: int


class First(msgspec.Struct, frozen=True, kw_only=True):
    """A generic event as it is kept; the answer to its first sending and to every repeat."""

    digest: bytes
    received_at_ms: int
    batch_id: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fact. A conflict with a `resolution` was taken."""

    item_id: str
    status: ItemStatus
    code: str | None = None
    resolution: Resolution | None = None
    recorded: Recorded | None = None
    first: First | None = None
    detail: str = ""


@dataclass(kw_only=True, slots=True)
class Knowledge:
    """What the store knows of the devices and ids of a group; changed while the group is gone through."""

    states: dict[int, State]
    syncs: dict[tuple[int, str], Recorded] = field(default_factory=dict)
    messages: dict[tuple[int, str, str], bytes] = field(default_factory=dict)
    #: (device, item, digest) -> (code, detail) of what was refused after it had been judged here
    refused: dict[tuple[int, str, bytes], tuple[str, str]] = field(default_factory=dict)
    tracks: dict[tuple[int, str, str], First] = field(default_factory=dict)
    attempts: dict[str, bytes] = field(default_factory=dict)
    #: session id -> (its user, its questions; none while the session itself has not arrived)
    sessions: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
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
class Tally:
    """What a group adds to its hour."""

    success: int = 0
    partial: int = 0
    failed: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(kw_only=True, slots=True)
class Changes:
    """The rows to write, as tuples in the order of the statements that take them."""

    syncs: list[tuple[Any, ...]] = field(default_factory=list)
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    tracks: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    session_changes: list[tuple[int, MessageFact]] = field(default_factory=list)
    rejected: list[tuple[Any, ...]] = field(default_factory=list)
    states: set[int] = field(default_factory=set)
    marks: set[tuple[int, str]] = field(default_factory=set)
    ahead_new: list[tuple[int, str, int]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    #: (device, fault) -> how many of this group's events
    faults: dict[tuple[int, str], int] = field(default_factory=dict)
    #: the same of those that were over again within the group
    ended: dict[tuple[int, str], int] = field(default_factory=dict)
    #: devices whose earlier faults are over
    cured: set[int] = field(default_factory=set)
    #: what devices say of themselves; of one that says so twice the last counts
    vitals: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    #: how commands ended
    results: list[tuple[Any, ...]] = field(default_factory=list)
    #: status -> events, and the files and bytes of all of them
    tally: Tally = field(default_factory=Tally)


def group(
    units: Sequence[Unit], known: Knowledge, *, now_ms: int, notify_after: int
) -> tuple[list[list[Outcome]], Changes]:
    """Judges every fact of every unit in order; gives the outcomes per unit and what is to be written."""
    judge = _Judge(known=known, changes=Changes(), now_ms=now_ms, notify_after=notify_after)
    outcomes = [[judge.one(unit, fact) for fact in unit.facts] for unit in units]
    return outcomes, judge.changes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Goes through one group; what is known and what is to be written grow on the way."""

    known: Knowledge
    changes: Changes
    now_ms: int
    notify_after: int

    def one(self, unit: Unit, fact: Fact) -> Outcome:
        place_is_new = _take_place(unit.dk, fact.place, self.known, self.changes)
        if isinstance(fact, Fault):
            return self._refused(unit, fact, "failed", fact.code, fact.detail)
        if isinstance(fact, AttemptFact):
            return self._attempt(unit, fact, place_is_new)
        if isinstance(fact, TrackFact):
            return self._track(unit, fact, place_is_new)
        item_id = fact.event_id if isinstance(fact, SyncFact) else fact.item_id
        key = (unit.dk, item_id)
        sync = self.known.syncs.get(key)
        before = sync.digest if sync else self.known.messages.get((unit.dk, _user(unit, fact), item_id))
        if before is not None:
            if before == fact.digest:
                return Outcome(item_id=_shown(fact), status="duplicate", recorded=sync)
            return self._clash(unit, fact)
        if not place_is_new:
            before_too = self.known.refused.get((unit.dk, item_id, fact.digest))
            return self._second(unit, fact) if before_too is None else self._refused(unit, fact, "failed", *before_too)
        if isinstance(fact, SyncFact):
            recorded = _record(
                unit.dk, fact, self.known, self.changes, now_ms=self.now_ms, notify_after=self.notify_after
            )
            return Outcome(item_id=item_id, status="synced", recorded=recorded)
        return self._message(unit, fact)

    def _message(self, unit: Unit, fact: MessageFact) -> Outcome:
        if fact.change is not None and (fault := self._change_fault(fact)):
            return self._refused(unit, fact, "failed", *fault)
        self.known.messages[unit.dk, _user(unit, fact), fact.item_id] = fact.digest
        self.changes.messages.append(rows.message(unit.dk, _user(unit, fact), fact, self.now_ms))
        if fact.vitals is not None:
            self.changes.vitals[unit.dk] = rows.vitals(unit.dk, fact.vitals, self.now_ms)
            self.changes.results += [
                (each.state, each.detail, self.now_ms, each.id, unit.dk) for each in fact.vitals.commands
            ]
        if fact.change is not None:
            self.changes.session_changes.append((unit.dk, fact))
            for event in fact.events:
                self._add_attempt(unit, event, event.user_id, fact.stamp, fact.place)
        return Outcome(item_id=_shown(fact), status="synced")

    def _change_fault(self, fact: MessageFact) -> tuple[str, str] | None:
        assert fact.change is not None
        owner, _ = self.known.sessions.get(fact.change.session_id, (fact.change.user_id, None))
        if owner != fact.change.user_id:
            return "session-not-yours", "the session belongs to another user"
        return None

    def _track(self, unit: Unit, fact: TrackFact, place_is_new: bool) -> Outcome:
        user_id = unit.user_id or fact.user_id
        key = (unit.dk, user_id, fact.event_id)
        first = self.known.tracks.get(key)
        if first is not None:
            if first.digest == fact.digest:
                return Outcome(item_id=fact.item_id, status="duplicate", first=first)
            return self._clash(unit, fact)
        if not place_is_new:
            return self._second(unit, fact)
        first = First(digest=fact.digest, received_at_ms=self.now_ms, batch_id=unit.batch_id)
        self.known.tracks[key] = first
        self.changes.tracks.append(rows.track(unit.dk, user_id, fact, self.now_ms, unit.batch_id))
        return Outcome(item_id=fact.item_id, status="synced", first=first)

    def _attempt(self, unit: Unit, fact: AttemptFact, place_is_new: bool) -> Outcome:
        event = fact.event
        before = self.known.attempts.get(event.id)
        if before is not None:
            if before == event.digest:
                return Outcome(item_id=fact.item_id, status="duplicate")
            return self._clash(unit, fact)
        if not place_is_new:
            return self._second(unit, fact)
        user_id, fault = self._owner(unit, event)
        if fault:
            return self._refused(unit, fact, "failed", *fault)
        self._add_attempt(unit, event, user_id, fact.stamp, fact.place)
        return Outcome(item_id=fact.item_id, status="synced")

    def _owner(self, unit: Unit, event: Envelope) -> tuple[str, tuple[str, str] | None]:
        """(the event's user, why it cannot be taken or None)."""
        user_id = unit.user_id or event.user_id
        found = self.known.sessions.get(event.session_id)
        if found is None:
            if unit.user_id:
                return user_id, ("session-unknown", "there is no such session of yours: POST /v1/sessions makes one")
            return user_id, None if user_id else ("user-missing", "the header PiSync-User names the learner")
        owner, questions = found
        if (user_id and user_id != owner) or (unit.user_id and event.user_id not in ("", unit.user_id)):
            return owner, ("session-not-yours", "the session belongs to another user")
        if event.question_id and questions and event.question_id not in questions:
            return owner, ("question-not-in-session", "the session has no such question")
        return owner, None

    def _add_attempt(self, unit: Unit, event: Envelope, user_id: str, stamp: Stamp, place: Place | None) -> None:
        if event.id not in self.known.attempts:
            self.known.attempts[event.id] = event.digest
            self.changes.attempts.append(rows.attempt(event, user_id, self.now_ms, unit.dk, stamp, place))

    def _clash(self, unit: Unit, fact: Fact) -> Outcome:
        return self._refused(unit, fact, "conflict", "id-conflict", "the same id came with other content")

    def _second(self, unit: Unit, fact: Fact) -> Outcome:
        return self._refused(unit, fact, "conflict", "seq-conflict", "this seq was received before")

    def _refused(
        self, unit: Unit, fact: Fact, status: Literal["failed", "conflict"], code: str, detail: str
    ) -> Outcome:
        if unit.dk:
            # A device lets go of what is refused; a user's client has been told and may flood.
            self.changes.rejected.append(rows.rejected(unit.dk, fact, code, detail, self.now_ms))
        return Outcome(item_id=_shown(fact), status=status, code=code, detail=detail)


def _shown(fact: Fact) -> str:
    """How the answer names a fact."""
    if isinstance(fact, SyncFact):
        return fact.event_id
    return fact.shown_id or fact.item_id if isinstance(fact, MessageFact) else fact.item_id


def _user(unit: Unit, fact: Fact) -> str:
    """Whose a message is: the user's who sends it, or of whom the device speaks."""
    return unit.user_id or (fact.user_id if isinstance(fact, MessageFact) else "")


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
    _count(dk, fact, status, before, changes)
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
    changes.syncs.append(
        rows.sync(
            dk,
            fact,
            occurred_at_ms=occurred,
            received_at_ms=now_ms,
            status=status,
            failures=state.consecutive_failures,
            flags=flags,
        )
    )
    return recorded


def _count(dk: int, fact: SyncFact, status: SyncStatus, before: State, changes: Changes) -> None:
    """The hour's figures, and the device's faults; a device that always succeeds has none to end."""
    tally = changes.tally
    setattr(tally, status, getattr(tally, status) + 1)
    tally.files += fact.files
    tally.bytes += fact.bytes_sent or 0
    if status != "success":
        key = dk, faults.code_of(fact.error_code)
        changes.faults[key] = changes.faults.get(key, 0) + 1
    elif before.last_status not in (None, "success"):
        changes.cured.add(dk)
        for key in [key for key in changes.faults if key[0] == dk]:
            changes.ended[key] = changes.ended.get(key, 0) + changes.faults.pop(key)


def _alert(before: State, after: State) -> Alert:
    closes = after.alert_opened_at_ms is None
    return Alert(
        verb="close" if closes else "open",
        dk=after.dk,
        consecutive_failures=before.consecutive_failures if closes else after.consecutive_failures,
        error_code=after.last_error_code,
    )
