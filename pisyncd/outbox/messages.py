"""Messages owed to the cloud, numbered per stream, kept until the cloud has acknowledged their number."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import aiosqlite
import msgspec

from pisyncd.core import envelope, vitals, wire
from pisyncd.outbox.db import Database, queries
from pisyncd.runtime.clock import Stamp

if TYPE_CHECKING:
    from pisyncd.outbox.books import Ledger
    from pisyncd.outbox.instance import Instance

_sql = queries("messages")
_in_thread = queries("messages", in_thread=True)
_books = queries("books")
_books_in_thread = queries("books", in_thread=True)
_records = queries("records")

NAMED_MAX = 20
#: Learning events travel in one stream for each priority, so that the numbers of a stream are always sent in order.
LEARNING = {f"learn{priority}": priority for priority in range(1, 11)}
PRIORITY = {wire.STREAM_LOSS: 10, wire.STREAM_RECORD: 9, wire.STREAM_SYNC: 7, wire.STREAM_EVENT: 5, vitals.STREAM: 5}
PRIORITY |= LEARNING
#: Which stream is sent first: losses before all else, then by priority.
TURN = {**PRIORITY, wire.STREAM_LOSS: 11}
REPORTS_SHED = "reports"
#: The code of a refused write of a record that the cloud has removed for good.
RECORD_PURGED = "record-purged"
ACKNOWLEDGED = "acknowledged_wall_ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A message that is still here. `body` is JSON."""

    item_type: str
    body: str
    wall_ms: int


class Messages:
    """append, put, batch, accept_through, and counts.

    A stream's name carries the outbox's own id, so a device whose outbox was lost begins new streams instead of
    giving old numbers to new messages.
    """

    def __init__(self, db: Database, instance: Instance) -> None:
        self._db = db
        self._instance = instance
        self.queue_max = 10_000

    async def append(
        self,
        tx: aiosqlite.Connection,
        stream: str,
        item_type: str,
        body: dict[str, Any],
    ) -> str:
        """Adds one message in the caller's transaction, beside the fact that it reports; gives its id.

        With queue_max reports waiting another (stream `event`) is shed, counted, and the ledger tells it; '' then.
        """
        if stream == wire.STREAM_EVENT and await _sql.count_reports(tx, **_SHEDDABLE) >= self.queue_max:
            await _sql.add_shed(tx, reason=REPORTS_SHED, count=1)
            return ""
        name = await self._current(tx, stream)
        seq = await _sql.next_seq(tx, stream=name, turn=TURN.get(stream, 5))
        message_id = str(uuid.uuid4())
        if item_type == "sync_event":
            body = {**body, "event_id": message_id, "seq": seq}
        elif item_type == "event":
            body = {"eventId": message_id, **body}
        await _sql.append(
            tx,
            stream=name,
            seq=seq,
            id=message_id,
            item_type=item_type,
            body=msgspec.json.encode(body).decode(),
            priority=PRIORITY.get(stream, 5),
            now_ms=self._db.now_ms(),
            **asdict(self._db.clock.stamp()),
        )
        return message_id

    def put(
        self, db: sqlite3.Connection, stream: str, item_type: str, body: str, *, message_id: str, stamp: Stamp
    ) -> None:
        """Adds one message inside `Database.write`. `body` is JSON, `message_id` is not in use, nothing is shed.

        A salvaged message keeps the id and the stamp that it had, so that the cloud knows it when it has it already.
        """
        name = _books_in_thread.get_cursor(db, name=f"stream.{stream}") or f"{stream}-{self._instance.outbox_id}"
        seq = _in_thread.next_seq(db, stream=name, turn=TURN[stream])
        if item_type == "sync_event":
            body = msgspec.json.encode({**msgspec.json.decode(body), "seq": seq}).decode()
        _in_thread.append(
            db,
            stream=name,
            seq=seq,
            id=message_id,
            item_type=item_type,
            body=body,
            priority=PRIORITY[stream],
            boot_id=stamp.boot_id,
            boottime_ms=stamp.boottime_ms,
            wall_ms=stamp.wall_ms,
            clock_trusted=stamp.clock_trusted,
            now_ms=self._db.now_ms(),
        )

    def waiting(self, db: sqlite3.Connection, message_id: str) -> Waiting | None:
        """A message that is still here, inside `Database.write`."""
        row = _in_thread.waiting(db, id=message_id)
        return None if row is None else Waiting(item_type=row[0], body=row[1], wall_ms=row[2])

    def is_full(self, db: sqlite3.Connection) -> bool:
        """Whether queue_max messages wait that may be shed; inside `Database.write`."""
        return bool(_in_thread.count_reports(db, **_SHEDDABLE) >= self.queue_max)

    def shed(self, db: sqlite3.Connection, reason: str, count: int) -> None:
        """Counts what is not taken, inside `Database.write`; tell_shed tells it."""
        _in_thread.add_shed(db, reason=reason, count=count)

    async def batch(self, most: int, after: Mapping[str, int] | None = None) -> list[wire.Item]:
        """Up to `most` messages in the order in which they are to be sent: urgent streams first, each in order.

        `after` is what is under way already: the messages of a stream up to that number are left out.
        """
        found: list[wire.Item] = []
        for stream in [row[0] async for row in _sql.streams_owing(self._db.reader)]:
            if len(found) >= most:
                break
            behind = (after or {}).get(stream, 0)
            rows = _sql.batch(self._db.reader, stream=stream, after=behind, most=most - len(found))
            found += [_item(row) async for row in rows]
        return found

    async def accept_through(
        self,
        received: dict[str, int],
        lost: Mapping[str, Sequence[wire.Item]] | None = None,
        ledger: Ledger | None = None,
    ) -> int:
        """Lets go of all messages up to each stream's number; gives how many. Numbers never move back.

        `lost` are those among them that the cloud has refused, by code; the ledger says so in the same transaction.
        A record that was refused as removed for good goes from here with what was decided about it.
        """
        dropped = 0
        async with self._db.transaction() as tx:
            for code, items in (lost or {}).items():
                assert ledger is not None
                named = ", ".join(f"{item.stream} {item.seq} {item.itemType}" for item in items[:NAMED_MAX])
                await ledger.record(tx, "message-refused", code, count=len(items), detail=named)
            refused = _ids(item for items in (lost or {}).values() for item in items)
            await _drop_purged_records(tx, (lost or {}).get(RECORD_PURGED, ()))
            for stream, seq in received.items():
                if stream.startswith(f"{wire.STREAM_RECORD}-"):
                    await self._settle_records(tx, stream, seq, refused)
                dropped += await _sql.accept_through(tx, stream=stream, seq=seq)
                await _sql.mark_accepted(tx, stream=stream, seq=seq)
            if dropped:
                await _books.set_cursor(tx, name=ACKNOWLEDGED, value=str(self._db.clock.wall_ms()))
                await _drop_gone_records(tx)
        return dropped

    async def _settle_records(self, tx: aiosqlite.Connection, stream: str, seq: int, refused: str) -> None:
        """Records whose last write the cloud has now, unless it has refused it."""
        wall_ms = self._db.clock.wall_ms()
        await _records.settled(tx, stream=stream, seq=seq, refused=refused, wall_ms=wall_ms)

    async def hollow_out(self, item: wire.Item, code: str, ledger: Ledger) -> bool:
        """Empties one message that the cloud will never take; the ledger says so in the same transaction.

        False when it was empty already: then it is not the message that the cloud objects to.
        """
        async with self._db.transaction() as tx:
            if not await _sql.hollow_out(tx, stream=item.stream, seq=item.seq):
                return False
            await ledger.record(tx, "message-refused", code, detail=f"{item.stream} {item.seq} {item.itemType}")
        return True

    async def restart_stream(self, stream: str, first_seq: int) -> None:
        """The cloud has lost what it had acknowledged before `first_seq` (a restored backup): what is still held
        goes on under a new stream from 1, because the old one's gap will never close. Ids stay the same."""
        short, own = stream.partition("-")[0], self._instance.outbox_id
        async with self._db.transaction() as tx:
            names = [row[0] async for row in _sql.streams_named(tx, name=f"{short}-{own}")]
            epochs = [int(name.split("-")[2]) for name in names if name.count("-") > 1]
            new = f"{short}-{own}-{max(epochs, default=0) + 1}"
            await _sql.open_stream(tx, old=stream, new=new, skipped=first_seq - 1)
            await _sql.move_stream(tx, old=stream, new=new, skipped=first_seq - 1)
            if stream.split("-")[1] == own:
                await _books.set_cursor(tx, name=f"stream.{short}", value=new)

    async def _current(self, tx: aiosqlite.Connection, stream: str) -> str:
        return await _books.get_cursor(tx, name=f"stream.{stream}") or f"{stream}-{self._instance.outbox_id}"

    async def any_shed(self) -> bool:
        """Whether something was shed since tell_shed told it last."""
        return bool([row async for row in _sql.shed(self._db.reader)])

    async def tell_shed(self, ledger: Ledger) -> None:
        """Writes what was shed since the last time into the ledger, one entry for each reason."""
        async with self._db.transaction() as tx:
            for name, count in [row async for row in _sql.take_shed(tx)]:
                reason = name.removeprefix("shed").removeprefix(".")
                if reason in ("", REPORTS_SHED):
                    await ledger.record(tx, "reports-shed", "queue-full", count=count)
                else:
                    await ledger.record(tx, "events-shed", reason, count=count)

    async def accepted(self) -> dict[str, int]:
        """The number up to which the cloud has each stream."""
        return {stream: seq async for stream, seq in _sql.accepted(self._db.reader)}

    async def acknowledged(self) -> int:
        """How many messages the cloud has acknowledged since this outbox was made."""
        return int(await _sql.acknowledged(self._db.reader))

    async def acknowledged_wall_ms(self) -> int | None:
        """When the cloud acknowledged something last."""
        value = await _books.get_cursor(self._db.reader, name=ACKNOWLEDGED)
        return None if value is None else int(value)

    async def learning_owed(self) -> bool:
        """Whether learning data or records wait; reports alone are not worth a look at the link."""
        return any(each["stream"].startswith(("learn", "record")) for each in await self.by_stream())

    async def owed(self) -> tuple[int, int, int | None]:
        """(messages, bytes, outbox time of the oldest)."""
        streams = await self.by_stream()
        oldest = min((each["oldest_at_ms"] for each in streams), default=None)
        return sum(each["messages"] for each in streams), sum(each["bytes"] for each in streams), oldest

    async def by_stream(self) -> list[dict[str, Any]]:
        """Per stream: messages, bytes, oldest_at_ms."""
        return [dict(row) async for row in _sql.by_stream(self._db.reader)]


_SHEDDABLE = {"sheddable_max": envelope.SHEDDABLE_MAX}


async def _drop_gone_records(tx: aiosqlite.Connection) -> None:
    """What the cloud took away from this device while a write waited; see Reconciling."""
    await _drop(tx, [row async for row in _records.gone(tx, gone=-1)])


async def _drop_purged_records(tx: aiosqlite.Connection, refused: Iterable[wire.Item]) -> None:
    """The cloud tells of a purge only those that it entitles; who still writes hears of it by the refusal."""
    await _drop(tx, [row async for row in _records.told_by(tx, ids=_ids(refused))])


async def _drop(tx: aiosqlite.Connection, keys: Iterable[Any]) -> None:
    for record_type, record_id in keys:
        await _records.drop(tx, type=record_type, id=record_id)
        await _records.drop_decisions(tx, type=record_type, id=record_id)


def _ids(items: Iterable[wire.Item]) -> str:
    return msgspec.json.encode([item.id or "" for item in items]).decode()


def _item(row: Any) -> wire.Item:
    stream, seq, message_id, item_type, body, boot_id, boottime_ms, wall_ms, trusted = row
    return wire.Item(
        itemType=item_type,
        itemData=msgspec.Raw(body.encode()),
        id=message_id,
        stream=stream,
        seq=seq,
        boot_id=boot_id,
        boottime_ms=boottime_ms,
        wall_ms=wall_ms,
        clock_trusted=bool(trusted),
    )
