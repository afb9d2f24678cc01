"""Carries what can be read of a damaged outbox over into a new one. All inside of one Database.write."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pisyncd.core import record
from pisyncd.core.deciding import Decision
from pisyncd.core.problems import Refusal
from pisyncd.outbox import instance, reconciling, salvage
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.messages import Messages
from pisyncd.outbox.recordrows import UNSHOWABLE, Rows

log = structlog.get_logger()

_learning = queries("learning", in_thread=True)
_records = queries("records", in_thread=True)
_books = queries("books", in_thread=True)


class Carrying:
    """`carried` messages, and what is to be said of it all."""

    def __init__(self, aside: Path, messages: Messages, db: Database) -> None:
        self._aside = aside
        self._messages = messages
        self._db = db
        self.carried = 0
        self._unreadable = 0
        self._sessions = 0
        self._records = 0
        self._ids: set[str] = set()

    @property
    def told(self) -> str:
        """For the ledger."""
        messages = f"{self.carried} messages carried over, {self._unreadable} unreadable"
        more = ((self._sessions, "sessions"), (self._records, "records"))
        return ", ".join([messages, *(f"{count} {name}" for count, name in more if count)])

    def messages(self, db: sqlite3.Connection) -> None:
        """Each keeps its id, its body and its stamp; numbers are given anew."""
        ids = self._ids
        now = self._db.clock.stamp()
        for row in salvage.readable_rows(self._aside, "messages"):
            message = salvage.message_in(row)
            if message is None or message.message_id in ids:
                self._unreadable += 1
                continue
            self._messages.put(
                db,
                message.stream,
                message.item_type,
                message.body,
                message_id=message.message_id,
                stamp=message.stamp or now,
            )
            ids.add(message.message_id)
        self.carried = len(ids)

    def boots(self, db: sqlite3.Connection) -> None:
        """Their numbers: by these the cloud dates what was told under a wrong clock."""
        known = {
            row["boot_id"]: row["number"]
            for row in salvage.readable_rows(self._aside, "boots")
            if isinstance(row["boot_id"], str) and isinstance(row["number"], int) and 0 < row["number"] < 2**53
        }
        now = self._db.clock.boot_id
        known[now] = known.get(now, max(known.values(), default=0) + 1)
        _books.forget_boots(db)
        numbers: set[int] = set()
        for boot_id, number in known.items():
            if number not in numbers:
                numbers.add(number)
                _books.set_boot(db, boot_id=boot_id, number=number)

    def sessions(self, db: sqlite3.Connection) -> None:
        """With the time that they have left; one that cannot be read whole is left behind, the cloud has its own."""
        last = self._cursors().get("last_at_ms")
        stopped_at_ms = int(last) if isinstance(last, str) and last.isascii() and last.isdigit() else None
        for row in salvage.readable_rows(self._aside, "sessions"):
            self._sessions += _tried(db, _learning.add_session, self._rebased(row, stopped_at_ms))
        for row in salvage.readable_rows(self._aside, "answers"):
            _tried(db, _learning.set_answer, row)

    def _rebased(self, row: dict[str, Any], stopped_at_ms: int | None) -> dict[str, Any]:
        now_ms, due, expires = self._db.now_ms(), row["due_at_ms"], row["expires_wall_ms"]
        if isinstance(due, int) and isinstance(expires, int) and isinstance(row["created_wall_ms"], int):
            whole_ms = expires - row["created_wall_ms"]
            due = now_ms + (whole_ms if stopped_at_ms is None else min(whole_ms, due - stopped_at_ms))
        return {**row, "due_at_ms": due, "changed_at_ms": now_ms}

    def records(self, db: sqlite3.Connection, rows: Rows) -> None:
        """After the messages: a write whose message cannot be read is owed anew. All is fetched from the cloud anew."""
        cursors = self._cursors()
        if (known := reconciling.decode_rules(cursors.get(reconciling.RULES))) is not None:
            rows.rules = known
            for name in (reconciling.RULES, reconciling.RULES_ETAG):
                if isinstance(cursors.get(name), str):
                    _books.set_cursor(db, name=name, value=cursors[name])
        if (before := instance.decode(cursors.get(instance.INSTANCE))) is not None:
            rows.instance.remember(db, (before.id, *before.past))
        for row in salvage.readable_rows(self._aside, "decisions"):
            if _is_decision(row["body"]):
                _tried(db, _records.decide, {name: value for name, value in row.items() if name != "ord"})
        for row in salvage.readable_rows(self._aside, "records"):
            self._records += self._record(db, rows, row)
        if self._records:
            reconciling.begin_sweep(db)

    def _record(self, db: sqlite3.Connection, rows: Rows, row: dict[str, Any]) -> bool:
        record_type, record_id, message_id, synced = (
            row[name] for name in ("type", "id", "message_id", "synced_wall_ms")
        )
        if record_type not in rows.rules or not isinstance(record_id, str) or not record.is_record_id(record_id):
            return False
        try:
            state = record.checked_state(str(row["state"]).encode())
            record.check_form(rows.rules[record_type], state)
            kept = rows.keep(
                db,
                record_type,
                record_id,
                state,
                before=None,
                message_id=message_id if message_id in self._ids else None,
                synced_wall_ms=synced if isinstance(synced, int) else None,
            )
        except (Refusal, *UNSHOWABLE) as error:
            log.warning("outbox.record_unreadable", type=record_type, id=record_id, error=str(error))
            return False
        if message_id is not None and kept.message_id is None:
            rows.push_again(db, kept, {})
        return True

    def _cursors(self) -> dict[Any, Any]:
        return {row["name"]: row["value"] for row in salvage.readable_rows(self._aside, "cursors")}


def _is_decision(body: object) -> bool:
    try:
        return isinstance(body, str) and bool(msgspec.json.decode(body, type=Decision).id)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def _tried(db: sqlite3.Connection, write: Any, row: dict[str, Any]) -> bool:
    """The table's own rules say whether a row makes sense."""
    try:
        write(db, **row)
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeError):
        return False
    return True
