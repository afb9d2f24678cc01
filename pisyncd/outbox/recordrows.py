"""One record of this device's copy and the message that tells the cloud of it; all inside of Database.write."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pisyncd.core import deciding, merge, record, recordwire, timeline, wire
from pisyncd.core.record import State, TypeRule
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.instance import Instance
from pisyncd.outbox.messages import Messages
from pisyncd.runtime.clock import Stamp

_sql = queries("records", in_thread=True)
_books = queries("books", in_thread=True)

DECISIONS_KEEP = 20_000
GONE = -1
PASS = "records.pass"  # noqa: S105 - the name of a cursor
#: What a state can hold that no answer can: sums of numbers that are too large.
UNSHOWABLE = (OverflowError, ValueError, TypeError, RecursionError)


#: The cloud's copy of a record has not been seen.
NEVER = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A record as it is kept here. Times are wall milliseconds; `synced_wall_ms` None: never.

    `waiting`: the cloud has not acknowledged the last write here yet; `refused`: it never will.
    """

    type: str
    id: str
    state: State
    fields: Mapping[str, Any]
    deleted: bool
    conflicted: bool
    message_id: str | None
    waiting: bool
    updated_wall_ms: int
    synced_wall_ms: int | None
    pass_number: int
    joined: int = NEVER

    @property
    def refused(self) -> bool:
        """The cloud has the number of the message, but did not take what it said."""
        return self.message_id is not None and not self.waiting


def kept_of(row: sqlite3.Row) -> Kept:
    """The record of a row of `get` or `page`."""
    return Kept(
        type=row["type"],
        id=row["id"],
        state=record.decode(row["state"]),
        fields=msgspec.json.decode(row["fields"]),
        deleted=bool(row["deleted"]),
        conflicted=bool(row["conflicted"]),
        message_id=row["message_id"],
        waiting=bool(row["waiting"]),
        updated_wall_ms=row["updated_wall_ms"],
        synced_wall_ms=row["synced_wall_ms"],
        pass_number=row["pass"],
        joined=row["joined"],
    )


class Rows:
    """`rules` are those in force; every verb is for use inside of Database.write."""

    def __init__(self, db: Database, messages: Messages, instance: Instance) -> None:
        self.db = db
        self.instance = instance
        self._messages = messages
        self.rules: dict[str, TypeRule] = dict(record.BUILT_IN)
        #: Whether a write of this run was new to the cloud: then no other copy of this database has used its numbers.
        self.confirmed = False

    def get(self, db: sqlite3.Connection, record_type: str, record_id: str) -> Kept | None:
        """The record, deleted or not."""
        row = _sql.get(db, type=record_type, id=record_id)
        return None if row is None else kept_of(row)

    def keep(
        self,
        db: sqlite3.Connection,
        record_type: str,
        record_id: str,
        state: State,
        *,
        before: Kept | None,
        message_id: str | None,
        synced_wall_ms: int | None,
        by_cloud: bool = False,
    ) -> Kept:
        """Writes the record with what it shows, and what was decided. Raises KeyError without a rule, UNSHOWABLE.

        `by_cloud`: the cloud's copy was joined.
        """
        rule = self.rules[record_type]
        shown = merge.view(state, rule)
        same = before is not None and record.encode(before.state) == record.encode(state)
        kept = Kept(
            type=record_type,
            id=record_id,
            state=state,
            fields=shown.fields,
            deleted=not shown.present,
            conflicted=shown.conflicted,
            message_id=message_id,
            waiting=message_id is not None,
            updated_wall_ms=before.updated_wall_ms if before is not None and same else newest_ms(state),
            synced_wall_ms=synced_wall_ms,
            pass_number=pass_number(db),
            joined=pass_number(db) if by_cloud else before.joined if before is not None else NEVER,
        )
        _keep(db, kept)
        if not same:
            self.decide(db, kept)
        return kept

    def decide(self, db: sqlite3.Connection, kept: Kept) -> None:
        """Notes what stands beside each other, and which of it is shown."""
        wall_ms = self.db.clock.wall_ms()
        for each in deciding.decisions(kept.type, kept.id, kept.state, self.rules[kept.type]):
            body = record.canonical(each).decode()
            _sql.decide(db, id=each.id, type=kept.type, record_id=kept.id, body=body, wall_ms=wall_ms)

    def push(
        self,
        db: sqlite3.Connection,
        record_type: str,
        record_id: str,
        state: State,
        base: Mapping[str, int],
        message_id: str | None = None,
        stamp: Stamp | None = None,
    ) -> str:
        """Owes the cloud the record as it is; gives the message's id, which is `message_id` when that is free.

        `stamp` is of its newest write, if that was not now.
        """
        if message_id is None or self._messages.waiting(db, message_id) is not None:
            message_id = str(uuid.uuid4())
        raw = msgspec.Raw(record.encode(state).encode())
        pushed = recordwire.Pushed(type=record_type, id=record_id, state=raw, base=dict(base))
        item_type = record_type if record_type in recordwire.ITEM_TYPES else recordwire.ITEM_TYPE
        body = msgspec.json.encode(pushed).decode()
        stamp = stamp or self.db.clock.stamp()
        self._messages.put(db, wire.STREAM_RECORD, item_type, body, message_id=message_id, stamp=stamp)
        return message_id

    def push_again(self, db: sqlite3.Connection, kept: Kept, base: Mapping[str, int]) -> None:
        """The cloud has lost it: it is owed once more."""
        message_id = self.push(db, kept.type, kept.id, kept.state, base)
        _keep(db, kept, message_id=message_id)

    def holds_own(self, state: State) -> bool:
        """Whether this device has written in it."""
        return any(map(self.instance.is_mine, state.version))

    def review(self, db: sqlite3.Connection, kept: Kept) -> None:
        """What it shows by rules that are new. Raises UNSHOWABLE."""
        shown = merge.view(kept.state, self.rules[kept.type])
        _keep(db, kept, fields=shown.fields, deleted=not shown.present, conflicted=shown.conflicted)
        self.decide(db, kept)

    def drop(self, db: sqlite3.Connection, record_type: str, record_id: str) -> None:
        """Forgets the record and what was decided about it."""
        _sql.drop(db, type=record_type, id=record_id)
        _sql.drop_decisions(db, type=record_type, id=record_id)


def _keep(db: sqlite3.Connection, kept: Kept, **changed: Any) -> None:
    values: dict[str, Any] = {
        "type": kept.type,
        "id": kept.id,
        "state": record.encode(kept.state),
        "fields": kept.fields,
        "deleted": kept.deleted,
        "conflicted": kept.conflicted,
        "message_id": kept.message_id,
        "updated_wall_ms": kept.updated_wall_ms,
        "synced_wall_ms": kept.synced_wall_ms,
        "pass_number": kept.pass_number,
        "joined": kept.joined,
    } | changed
    _sql.keep(db, **values | {"fields": record.canonical(dict(values["fields"])).decode()})


def pass_number(db: sqlite3.Connection) -> int:
    """Of which full fetch the present one is, from 0."""
    return int(_books.get_cursor(db, name=PASS) or 0)


def newest_ms(state: State) -> int:
    """When its newest write was made, as its writer said; what no calendar shows is cut off."""
    newest = max((write.at_ms for writes in state.registers.values() for write in writes), default=0)
    return min(max(newest, 0), timeline.WALL_MAX_MS)
