"""This device's own copy of records. A write commits with the one message that tells the cloud of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pisyncd.core import edits, problems, record, recordwire, wire
from pisyncd.core.deciding import Decision
from pisyncd.core.edits import Delete, Edit, Patch
from pisyncd.core.merge import Pen
from pisyncd.core.record import State, TypeRule
from pisyncd.outbox import reconciling, setback
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.instance import Instance
from pisyncd.outbox.messages import Messages
from pisyncd.outbox.reconciling import Applied, Reconciling
from pisyncd.outbox.recordrows import UNSHOWABLE, Kept, Rows, kept_of

_reading: Any = queries("records")
_books: Any = queries("books")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The record as it is now. `changed` False: it was so already, and nothing is sent."""

    kept: Kept
    created: bool
    changed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many records there are, wait for the cloud, wait for a person's decision."""

    records: int
    waiting: int
    open: int


class Records:
    """`changed` is called when there is something new to send."""

    def __init__(self, db: Database, messages: Messages, instance: Instance) -> None:
        self._db = db
        self._rows = Rows(db, messages, instance)
        self._reconciling = Reconciling(self._rows)
        self.changed: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """The rules that the cloud gave last."""
        self._rows.rules = reconciling.decode_rules(await self._cursor(reconciling.RULES)) or dict(record.BUILT_IN)

    @property
    def rows(self) -> Rows:
        """For those who are inside of Database.write already."""
        return self._rows

    @property
    def rules(self) -> dict[str, TypeRule]:
        """By type; built in until the cloud gave others."""
        return self._rows.rules

    @property
    def writer(self) -> str:
        """Who writes here."""
        return self._rows.instance.id

    # Reading

    async def read(self, record_type: str, record_id: str) -> Kept | None:
        """The record, deleted or not."""
        row = await _reading.get(self._db.reader, type=record_type, id=record_id)
        return None if row is None else kept_of(row)

    async def page(self, record_type: str, after_id: str, limit: int, *, deleted: bool = False) -> list[Kept]:
        """Records of a type by id, those behind `after_id`; with `deleted`, tombstones too."""
        rows = _reading.page(self._db.reader, type=record_type, after=after_id, most=limit, deleted=deleted)
        return [kept_of(row) async for row in rows]

    async def count_of(self, record_type: str, *, deleted: bool = False) -> int:
        """How many records of a type there are."""
        return int(await _reading.count_of(self._db.reader, type=record_type, deleted=deleted))

    async def decisions_of(self, record_type: str, record_id: str, most: int = 20) -> list[Decision]:
        """What was decided here about a record, newest first."""
        rows = _reading.decisions_of(self._db.reader, type=record_type, id=record_id, most=most)
        return [msgspec.json.decode(row["body"], type=Decision) async for row in rows]

    async def counts(self) -> Counts:
        """Cheap enough to be asked every few seconds."""
        row = await _reading.counts(self._db.reader)
        return Counts(records=row["records"], waiting=row["waiting"], open=row["open"])

    # Writing

    async def write(
        self,
        record_type: str,
        record_id: str,
        edit: Edit,
        *,
        if_match: Collection[str] | None = None,
        message_id: str | None = None,
    ) -> Written:
        """The record as it is after the edit, durable, with its message. `if_match`: etags, or '*' for any.

        Raises Refusal 404, 412, 413, 422, StorageBusy.
        """

        def work(db: sqlite3.Connection) -> Written:
            return self.write_in(db, record_type, record_id, edit, if_match=if_match, message_id=message_id)

        written = await self._db.write(work)
        if written.changed:
            self.changed()
        return written

    def write_in(
        self,
        db: sqlite3.Connection,
        record_type: str,
        record_id: str,
        edit: Edit,
        *,
        if_match: Collection[str] | None = None,
        message_id: str | None = None,
    ) -> Written:
        """The same inside of Database.write; call `changed` after it. Raises Refusal before anything is written."""
        rule = self._rules_of(record_type, record_id)
        before = self._rows.get(db, record_type, record_id)
        if if_match is not None:
            _check_match(before, if_match)
        state = before.state if before is not None else record.EMPTY
        try:
            after = self._edited(record_type, record_id, before, state, rule, edit)
            if before is not None and after is state:
                return Written(kept=before, created=False, changed=False)
            # what the cloud would refuse is refused at once
            record.checked_state(record.canonical(after))
        except UNSHOWABLE as error:
            raise problems.invalid("/fields", "number", f"a number is too large to be kept: {error}"[:200]) from None
        kept = self._rows.keep(
            db,
            record_type,
            record_id,
            after,
            before=before,
            message_id=self._rows.push(db, record_type, record_id, after, state.version, message_id),
            synced_wall_ms=before.synced_wall_ms if before is not None else None,
        )
        return Written(kept=kept, created=before is None or before.deleted, changed=True)

    def _rules_of(self, record_type: str, record_id: str) -> TypeRule:
        rule = self.rules.get(record_type)
        if rule is None:
            raise recordwire.type_unknown(record_type, self.rules)
        if not record.is_record_id(record_id):
            raise recordwire.id_invalid("/id")
        return rule

    def _edited(
        self, record_type: str, record_id: str, before: Kept | None, state: State, rule: TypeRule, edit: Edit
    ) -> State:
        clock = self._db.clock
        pen = Pen.of_device(self.writer, clock.wall_ms(), trusted=clock.trusted())
        missing = before is None or before.deleted
        if (isinstance(edit, Delete) and before is None) or (isinstance(edit, Patch) and missing and not edit.create):
            raise recordwire.unknown(record_type, record_id)
        return edits.applied(state, rule, edit, pen)

    # Reconciling

    async def cursor(self) -> str:
        """How far the changes of the cloud are applied; '' before the first."""
        return await self._cursor(reconciling.CURSOR) or ""

    async def rules_etag(self) -> str:
        """What the cloud calls the rules in force."""
        return await self._cursor(reconciling.RULES_ETAG) or record.rules_etag(record.BUILT_IN)

    async def sweeping(self) -> bool:
        """Whether a full fetch is under way; it goes on after a restart."""
        return await self._cursor(reconciling.SWEEPING) is not None

    async def pulled_wall_ms(self) -> int | None:
        """When changes of the cloud were applied last."""
        value = await self._cursor(reconciling.PULLED)
        return None if value is None else int(value)

    async def apply(self, page: recordwire.Changes, *, sweeping: bool, types: Collection[str] = ()) -> Applied:
        """Joins a page of changes into this copy and keeps its cursor, in one transaction. Raises StorageBusy.

        What cannot be read is skipped and logged. `sweeping`: with the last page, what did not come is dropped, of
        `types` if only those were asked for.
        """
        applied = await self._reconciling.apply(page, sweeping=sweeping, types=types)
        if applied.owed:
            self.changed()
        return applied

    async def begin_sweep(self) -> None:
        """Fetch everything anew. Raises StorageBusy."""
        await self._reconciling.begin_sweep()

    @property
    def confirmed(self) -> bool:
        """Whether it is known in this run that this database has not been set back."""
        return self._rows.confirmed

    def confirm(self) -> None:
        """A write of this run was new to the cloud: this database has not been set back."""
        self._rows.confirmed = True

    async def stand_beside(self, refused: Sequence[wire.Item]) -> None:
        """Another copy of this database has used these numbers: what was written here under them, or after them, is
        owed again under another name. Raises StorageBusy."""
        if await self._db.write(lambda db: setback.stand_beside(db, self._rows, refused)):
            self.changed()

    async def repush(self) -> int:
        """The cloud has lost what it had: all that was written here is owed again. How many. Raises StorageBusy."""
        owed = await self._reconciling.repush()
        if owed:
            self.changed()
        return owed

    async def _cursor(self, name: str) -> str | None:
        value = await _books.get_cursor(self._db.reader, name=name)
        return None if value is None else str(value)


def _check_match(before: Kept | None, etags: Collection[str]) -> None:
    there = before is not None and not before.deleted
    now = record.etag(before.state) if before is not None else ""
    if not (there if "*" in etags else now in etags and now):
        raise recordwire.stale(now)
