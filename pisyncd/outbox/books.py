"""What the daemon remembers beside files and messages: losses, cycles, breakers, cursors and networks."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import aiosqlite
import msgspec

from pisyncd.core import wire
from pisyncd.core.backoff import Breaker
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.messages import Messages

_sql = queries("books")
_in_thread = queries("books", in_thread=True)

LEDGER_KEEP = 10_000
CYCLES_KEEP = 5_000
BOOTS_KEEP = 1_000

Outcome = Literal["success", "partial", "failed", "offline", "idle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cycle:
    """One sync cycle. Bytes are bytes on the wire, duration is monotonic."""

    outcome: Outcome
    attempted: int
    files_synced: int
    errors: int
    bytes_sent: int
    speed_mbps: float | None
    duration_ms: int
    error_code: str | None


class Ledger:
    """The numbered entries of what was set aside, refused, evicted or salvaged."""

    def __init__(self, db: Database, messages: Messages) -> None:
        self._db = db
        self._messages = messages

    async def record(
        self, tx: aiosqlite.Connection, what: str, reason: str, *, count: int = 1, bytes: int = 0, detail: str = ""
    ) -> int:
        """Writes one entry and its message in the caller's transaction; gives the entry's number."""
        wall_ms = self._db.clock.wall_ms()
        entry = {"what": what, "reason": reason, "count": count, "bytes": bytes, "detail": detail}
        number: int = await _sql.add_loss(tx, wall_ms=wall_ms, **entry)
        await _sql.trim_losses(tx, keep=LEDGER_KEEP)
        await self._messages.append(tx, wire.STREAM_LOSS, "loss", {"entry": number, "wall_ms": wall_ms, **entry})
        return number

    def enter(self, db: sqlite3.Connection, what: str, reason: str, *, count: int, detail: str) -> None:
        """The same inside of Database.write."""
        stamp = self._db.clock.stamp()
        entry = {"what": what, "reason": reason, "count": count, "bytes": 0, "detail": detail}
        number = _in_thread.add_loss(db, wall_ms=stamp.wall_ms, **entry)
        _in_thread.trim_losses(db, keep=LEDGER_KEEP)
        body = msgspec.json.encode({"entry": number, "wall_ms": stamp.wall_ms, **entry}).decode()
        self._messages.put(db, wire.STREAM_LOSS, "loss", body, message_id=str(uuid.uuid4()), stamp=stamp)

    async def newest(self, most: int) -> list[dict[str, Any]]:
        return [dict(row) async for row in _sql.losses(self._db.reader, most=most)]

    async def count(self) -> int:
        return int(await _sql.count_losses(self._db.reader))

    async def count_of(self, what: str) -> int:
        """How many things its entries of this kind speak of."""
        return int(await _sql.count_lost(self._db.reader, what=what))


class Cycles:
    """The sync cycles of this device, and the sync events that report them."""

    def __init__(self, db: Database, messages: Messages) -> None:
        self._db = db
        self._messages = messages

    async def record(self, cycle: Cycle, event: dict[str, Any] | None) -> None:
        """Writes a cycle and, unless it is None, the sync event that reports it, in one transaction."""
        async with self._db.transaction() as tx:
            event_id = None
            if event is not None:
                event_id = await self._messages.append(tx, wire.STREAM_SYNC, "sync_event", event)
            await _sql.add_cycle(
                tx,
                event_id=event_id,
                ended_wall_ms=self._db.clock.wall_ms(),
                clock_trusted=self._db.clock.trusted(),
                **asdict(cycle),
            )
            await _sql.trim_cycles(tx, keep=CYCLES_KEEP)

    async def newest(self, most: int, before: int = 2**62) -> list[dict[str, Any]]:
        """The newest cycles, or those before the cycle of that id."""
        return [dict(row) async for row in _sql.cycles(self._db.reader, most=most, before=before)]


class Boots:
    """The boots of this device, counted from 1 in their order."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._numbers: dict[str, int] = {}

    async def open(self) -> None:
        """Counts this boot, unless it is counted already."""
        async with self._db.transaction() as tx:
            await _sql.add_boot(tx, boot_id=self._db.clock.boot_id)
            await _sql.trim_boots(tx, keep=BOOTS_KEEP)
        self._numbers = {boot_id: number async for boot_id, number in _sql.boots(self._db.reader)}

    def numbers(self, boot_ids: Iterable[str]) -> dict[str, int]:
        """The numbers of those that are known."""
        return {boot_id: self._numbers[boot_id] for boot_id in boot_ids if boot_id in self._numbers}


class Memory:
    """Small things that survive a restart."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, name: str) -> str | None:
        value = await _sql.get_cursor(self._db.reader, name=name)
        return None if value is None else str(value)

    async def set(self, name: str, value: str) -> None:
        async with self._db.transaction() as tx:
            await self.set_in(tx, name, value)

    async def set_in(self, tx: aiosqlite.Connection, name: str, value: str) -> None:
        """In the caller's transaction."""
        await _sql.set_cursor(tx, name=name, value=value)

    def set_in_thread(self, db: sqlite3.Connection, name: str, value: str) -> None:
        """Inside of Database.write."""
        _in_thread.set_cursor(db, name=name, value=value)

    async def breaker(self, destination: str) -> Breaker:
        """What is remembered of a destination; a wait from before a restart goes on."""
        row = await _sql.get_breaker(self._db.reader, destination=destination)
        return Breaker(failures=row[0], due_at_ms=row[1]) if row else Breaker()

    async def set_breaker(self, destination: str, breaker: Breaker) -> None:
        async with self._db.transaction() as tx:
            await _sql.set_breaker(tx, destination=destination, failures=breaker.failures, due_at_ms=breaker.due_at_ms)

    async def network(self, name: str) -> tuple[int, float | None] | None:
        """(chunk bytes, goodput in bytes/s) as last learned on a network."""
        row = await _sql.get_network(self._db.reader, name=name)
        return (row[0], row[1]) if row else None

    async def set_network(self, name: str, chunk_bytes: int, goodput_bps: float | None) -> None:
        async with self._db.transaction() as tx:
            await _sql.set_network(
                tx, name=name, chunk_bytes=chunk_bytes, goodput_bps=goodput_bps, wall_ms=self._db.clock.wall_ms()
            )
            await _sql.trim_networks(tx)
