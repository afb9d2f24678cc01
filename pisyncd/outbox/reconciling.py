"""What the cloud tells joins this device's copy of records; how far it is commits with it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog

from pisyncd.core import admitting, merge, record, recordwire
from pisyncd.core.errors import TransientError
from pisyncd.core.problems import Refusal
from pisyncd.core.record import State, TypeRule
from pisyncd.outbox import recordrows
from pisyncd.outbox.db import queries
from pisyncd.outbox.recordrows import GONE, PASS, UNSHOWABLE, Kept, Rows, kept_of

log = structlog.get_logger()

_sql = queries("records", in_thread=True)
_books = queries("books", in_thread=True)
_reading: Any = queries("books")

CURSOR = "records.cursor"
RULES = "records.rules"
RULES_ETAG = "records.rules_etag"
SWEEPING = "records.sweeping"
PULLED = "records.pulled_wall_ms"
PART = 200
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """`count` records are as the cloud has them, `dropped` are no more here, `skipped` could not be read.

    `owed` are owed again: the cloud lacks what this device wrote.
    """

    count: int = 0
    dropped: int = 0
    skipped: int = 0
    owed: int = 0


class OwnFirst(TransientError):
    """What was written here goes to the cloud before its changes are applied."""

    code = "own-writes-first"


class Lacking(Exception):
    """The cloud knows of a write of this instance that is not here: this is an earlier state of its database."""


class Unreadable(Exception):
    """A change that cannot be applied; the line goes on without it."""


class Reconciling:
    """apply, begin_sweep, repush."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._db = rows.db

    async def apply(self, page: recordwire.Changes, *, sweeping: bool, types: Collection[str] = ()) -> Applied:
        """One page of changes and its cursor, in one transaction. Raises StorageBusy; nothing is applied then."""
        rules = dict(self._rows.rules)
        try:
            return await self._db.write(lambda db: self._page(db, page, sweeping=sweeping, types=types))
        except BaseException:
            self._rows.rules = rules
            raise

    def _page(
        self, db: sqlite3.Connection, page: recordwire.Changes, *, sweeping: bool, types: Collection[str]
    ) -> Applied:
        if page.rules is not None:
            self._take_rules(db, page.rules, page.rules_etag)
        counts = dict.fromkeys(("count", "dropped", "skipped", "owed"), 0)
        faults: list[str] = []
        lacking = False
        for change in page.changes:
            try:
                counts[self._one(db, change, counts)] += 1
            except Lacking:
                lacking = True
            except (Unreadable, *UNSHOWABLE) as error:
                counts["skipped"] += 1
                faults.append(f"{change.type}/{change.id}: {error}"[:200])
        if faults:
            log.warning("records.skipped", count=len(faults), first=faults[0])
        _sql.trim_decisions(db, keep=recordrows.DECISIONS_KEEP)
        _books.set_cursor(db, name=CURSOR, value=page.cursor)
        _books.set_cursor(db, name=PULLED, value=str(self._db.clock.wall_ms()))
        if lacking:
            log.warning("records.fetched_anew", reason="what this device wrote is not all here")
            begin_sweep(db)
        elif not page.more and (sweeping or _books.get_cursor(db, name=SWEEPING) is not None):
            counts["dropped"] += self._end_sweep(db, types)
        return Applied(**counts)

    def _one(self, db: sqlite3.Connection, change: recordwire.Change, counts: dict[str, int]) -> str:
        before = self._rows.get(db, change.type, change.id)
        if change.gone:
            if before is None:
                return "count"
            if before.waiting:
                _sql.leave(db, type=change.type, id=change.id, gone=GONE)
                return "count"
            self._rows.drop(db, change.type, change.id)
            return "dropped"
        if change.version and change.state is None:
            if before is None or not merge.seen(before.state.version, change.version):
                raise Lacking
            return "count"
        incoming = self._incoming(change)
        self._check_numbers(before, incoming)
        known = before.state if before is not None else record.EMPTY
        if before is not None and before.joined < recordrows.pass_number(db):
            # In a full fetch: what the cloud has lost of others' writes it would not take from here; they would stay
            # in this copy alone, for ever.
            known = admitting.admitted(known, incoming, self._rows.instance.mine.__contains__)
        kept = self._rows.keep(
            db,
            change.type,
            change.id,
            merge.join(known, incoming),
            before=before,
            message_id=before.message_id if before is not None else None,
            synced_wall_ms=self._db.clock.wall_ms(),
            by_cloud=True,
        )
        if before is not None and before.message_id is None and self._lacks_own(incoming, known):
            self._rows.push_again(db, kept, incoming.version)
            counts["owed"] += 1
        return "count"

    def _check_numbers(self, before: Kept | None, incoming: State) -> None:
        """While it is not known that no other copy of this database has used its numbers, what waits goes first: what
        the cloud has under them may be the other's, and each would erase what it has not seen of the other."""
        if self._rows.confirmed or before is None or not before.waiting:
            return
        if any(self._rows.instance.is_mine(writer) for writer in incoming.version):
            raise OwnFirst

    def _incoming(self, change: recordwire.Change) -> State:
        if change.type not in self._rows.rules:
            raise Unreadable("there is no rule for this type")
        if not record.is_record_id(change.id) or change.state is None:
            raise Unreadable("it has no id or no state")
        try:
            state = record.checked_state(record.canonical(change.state))
            if "" in state.registers or not self._rows.rules[change.type].by_field:
                # a cloud that was set back has fields whose beginning it has lost; they join what is known here
                record.check_form(self._rows.rules[change.type], state)
        except Refusal as refusal:
            raise Unreadable(refusal.detail) from None
        return state

    def _lacks_own(self, incoming: State, known: State) -> bool:
        """Whether the cloud has lost what was written here; under another name it still has it."""
        aliased = {writer.partition("~")[0] for writer in incoming.version if "~" in writer}
        return any(
            incoming.version.get(writer, 0) < count
            for writer, count in known.version.items()
            if writer in self._rows.instance.mine and writer not in aliased
        )

    def _take_rules(self, db: sqlite3.Connection, given: dict[str, TypeRule], etag: str) -> None:
        before = self._rows.rules
        after = {**record.BUILT_IN, **{name: rule for name, rule in given.items() if _TYPE.fullmatch(name)}}
        changed = {name for name, rule in after.items() if before.get(name) != rule}
        self._rows.rules = after
        _books.set_cursor(db, name=RULES, value=record.canonical(after).decode())
        _books.set_cursor(db, name=RULES_ETAG, value=etag)
        for kept in self._all(db) if changed else ():
            if kept.type in changed:
                try:
                    self._rows.review(db, kept)
                except UNSHOWABLE as error:
                    log.warning("records.unshowable", type=kept.type, id=kept.id, error=str(error))

    def _all(self, db: sqlite3.Connection) -> Iterator[Kept]:
        """A part at a time: all together may be more than a small board's memory."""
        after = ("", "")
        while rows := _sql.all_after(db, type=after[0], id=after[1], most=PART):
            for row in rows:
                yield kept_of(row)
            after = rows[-1]["type"], rows[-1]["id"]

    async def begin_sweep(self) -> None:
        """Everything anew: what does not come again until a page without `more` is dropped. Raises StorageBusy."""

        def work(db: sqlite3.Connection) -> None:
            begin_sweep(db)

        await self._db.write(work)

    def _end_sweep(self, db: sqlite3.Connection, types: Collection[str]) -> int:
        found = [tuple(row) for row in _sql.swept(db, pass_number=recordrows.pass_number(db))]
        # what was not asked for did not come, which says nothing of it
        found = [each for each in found if not types or each[0] in types]
        for record_type, record_id in found:
            self._rows.drop(db, record_type, record_id)
        for row in list(_sql.unseen(db, pass_number=recordrows.pass_number(db))):
            kept = kept_of(row)
            if self._rows.holds_own(kept.state) and (not types or kept.type in types):
                # a cloud that was set back meanwhile has lost it; one that was not takes it as a repeat
                self._rows.push_again(db, kept, {})
        _books.drop_cursor(db, name=SWEEPING)
        return len(found)

    async def repush(self) -> int:
        """Owes the cloud again all that holds a write of this device and does not wait already; gives how many.

        Raises StorageBusy; what was done until then stays, and is not done again.
        """
        owed = 0
        after: tuple[str, str] | None = ("", "")
        while after is not None:
            count, after = await self._db.write(partial(self._push_part, after))
            owed += count
        return owed

    def _push_part(self, after: tuple[str, str], db: sqlite3.Connection) -> tuple[int, tuple[str, str] | None]:
        part = [kept_of(row) for row in _sql.all_after(db, type=after[0], id=after[1], most=PART)]
        own = [kept for kept in part if not kept.waiting and self._rows.holds_own(kept.state)]
        for kept in own:
            self._rows.push_again(db, kept, {})
        return len(own), (part[-1].type, part[-1].id) if part else None


def begin_sweep(db: sqlite3.Connection) -> None:
    """The next full fetch, inside of Database.write."""
    _books.set_cursor(db, name=CURSOR, value="")
    _books.set_cursor(db, name=PASS, value=str(recordrows.pass_number(db) + 1))
    _books.set_cursor(db, name=SWEEPING, value="1")


def decode_rules(text: object) -> dict[str, TypeRule] | None:
    """The rules that are kept; None when there are none that can be read."""
    try:
        return msgspec.json.decode(text, type=dict[str, TypeRule]) if isinstance(text, str) else None
    except (msgspec.DecodeError, UnicodeError):
        return None
