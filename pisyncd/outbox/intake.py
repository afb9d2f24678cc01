"""Takes learning events in: each becomes a message of its own, once, or is refused with a reason."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pisyncd.core import envelope
from pisyncd.core.edits import Delete, Patch
from pisyncd.core.envelope import Rejection
from pisyncd.core.problems import Refusal
from pisyncd.core.wire import ItemStatus
from pisyncd.outbox import arrivals
from pisyncd.outbox.arrivals import Arrival, OfRecord, OfSession
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.messages import Messages
from pisyncd.outbox.records import Records
from pisyncd.runtime.clock import Stamp

_sql = queries("learning", in_thread=True)

KEEP_TAKEN = 100_000
DISK_FLOOR = "disk-floor"
QUEUE_FULL = "queue-full"

Piece = Arrival | OfSession | OfRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one event. `wall_ms` is when it was taken, of a duplicate the first time."""

    event_id: str
    status: ItemStatus
    wall_ms: int
    code: str | None = None
    detail: str = ""


class Intake:
    """`has_room` says whether the disk is above its floor, `arrived` is called when there is something new to send."""

    def __init__(self, db: Database, messages: Messages, records: Records) -> None:
        self._db = db
        self._messages = messages
        self._records = records
        self.has_room: Callable[[], bool] = lambda: True
        self.arrived: Callable[[], None] = lambda: None
        self.shed: Callable[[], None] = lambda: None
        self.taken = 0
        self.shedding = ""

    async def take(self, pieces: Sequence[Piece]) -> list[Outcome]:
        """One outcome for each piece, durable. Raises StorageBusy.

        Below the disk's floor, or with messages.queue_max waiting, what is behaviour is refused as `shed`.
        """
        outcomes = await self._db.write(lambda db: self.take_in(db, pieces, may_shed=True))
        self.told(outcomes)
        return outcomes

    def told(self, outcomes: Sequence[Outcome]) -> None:
        """After the commit: wakes whoever sends and whoever tells of losses."""
        new = sum(outcome.status == "synced" for outcome in outcomes)
        self.taken += new
        if new:
            self.arrived()
        if any(outcome.code == "shed" for outcome in outcomes):
            self.shed()

    def take_in(self, db: sqlite3.Connection, pieces: Sequence[Piece], *, may_shed: bool) -> list[Outcome]:
        """The same inside of Database.write; call `told` afterwards."""
        stamp = self._db.clock.stamp()
        sheddable = may_shed and any(piece.priority <= envelope.SHEDDABLE_MAX for piece in pieces)
        reason = self.no_room(db) if sheddable else ""
        if sheddable:
            self.shedding = reason
        outcomes = [self._one(db, piece, stamp, reason) for piece in pieces]
        if reason and (count := sum(outcome.code == "shed" for outcome in outcomes)):
            self._messages.shed(db, reason, count)
        return outcomes

    def no_room(self, db: sqlite3.Connection) -> str:
        """Why nothing more than answers is taken, '' when there is room. Inside of Database.write."""
        if not self.has_room():
            return DISK_FLOOR
        return QUEUE_FULL if self._messages.is_full(db) else ""

    def _one(self, db: sqlite3.Connection, piece: Piece, stamp: Stamp, full: str) -> Outcome:
        found = _resolved(db, piece) if isinstance(piece, OfSession) else piece
        if isinstance(found, Rejection):
            return _refused(piece, found.code, found.detail, stamp)
        before = _sql.known(db, key=found.key)
        if before is None:
            if full and found.priority <= envelope.SHEDDABLE_MAX:
                return _refused(found, "shed", f"there is no room for more than answers ({full})", stamp)
            try:
                before = self._add(db, found, stamp)
            except Refusal as refusal:
                return _refused(found, refusal.code, refusal.detail, stamp)
            if before is None:
                return Outcome(event_id=found.event_id, status="synced", wall_ms=stamp.wall_ms)
        digest, wall_ms = before
        if digest == found.digest:
            return Outcome(event_id=found.event_id, status="duplicate", wall_ms=wall_ms)
        detail = "the same id came with other content"
        return Outcome(
            event_id=found.event_id, status="conflict", code="id-conflict", detail=detail, wall_ms=stamp.wall_ms
        )

    def _add(self, db: sqlite3.Connection, found: Arrival | OfRecord, stamp: Stamp) -> tuple[bytes, int] | None:
        """None, or what shows that it waits already: known ids are kept for a time, or were lost with an outbox.

        Raises Refusal for a record that cannot be written so.
        """
        if isinstance(found, OfRecord):
            self._write(db, found)
        elif (before := self._send(db, found, stamp)) is not None:
            return before
        _sql.add_taken(db, key=found.key, digest=found.digest, wall_ms=stamp.wall_ms)
        return None

    def _write(self, db: sqlite3.Connection, found: OfRecord) -> None:
        plain = found.plain
        edit = Delete() if plain.deleted else Patch(plain.fields, create=True)
        self._records.write_in(db, plain.type, plain.id, edit, message_id=found.event_id)

    def _send(self, db: sqlite3.Connection, found: Arrival, stamp: Stamp) -> tuple[bytes, int] | None:
        for message_id in (found.message_id, _other_id(found)):
            there = self._messages.waiting(db, message_id)
            if there is None:
                stream = f"learn{found.priority}"
                self._messages.put(db, stream, found.item_type, found.body, message_id=message_id, stamp=stamp)
                break
            if (there.item_type, there.body) == (found.item_type, found.body):
                return found.digest, there.wall_ms
        else:
            return b"", stamp.wall_ms
        return None

    async def trim(self) -> None:
        """Forgets the oldest ids; writes nothing when there is nothing to forget."""
        if await _reading.surplus_taken(self._db.reader, keep=KEEP_TAKEN) > KEEP_TAKEN // 10:
            await self._db.write(lambda db: _sql.trim_taken(db, keep=KEEP_TAKEN))


_reading: Any = queries("learning")


def _resolved(db: sqlite3.Connection, piece: OfSession) -> Arrival | Rejection:
    """The event with the user that its session has. What is not known here is for the cloud to judge."""
    event = piece.event
    row = _sql.holder(db, session_id=event.session_id, question_id=event.question_id)
    if row is None:
        if not event.user_id:
            return Rejection(code="user-missing", detail="no PiSync-User, no user_id, and the session is not known")
        return arrivals.of_session(event)
    if event.user_id not in ("", row["user_id"]):
        return Rejection(code="session-not-yours", detail="the session belongs to another learner")
    if not row["holds"]:
        detail = f"the session does not hold question {event.question_id}"
        return Rejection(code="question-not-in-session", detail=detail)
    if event.user_id:
        return arrivals.of_session(event)
    owned = piece.belonging_to(row["user_id"])
    return owned if isinstance(owned, Rejection) else arrivals.of_session(owned)


def _refused(piece: Piece, code: str, detail: str, stamp: Stamp) -> Outcome:
    event_id = piece.event.id if isinstance(piece, OfSession) else piece.event_id
    return Outcome(event_id=event_id, status="failed", code=code, detail=detail, wall_ms=stamp.wall_ms)


def _other_id(found: Arrival) -> str:
    """For a message whose id another one has: two applications that count from 1 do not hold up each other."""
    return envelope.derived_id(hashlib.blake2b(found.key + found.digest, digest_size=16).digest())
