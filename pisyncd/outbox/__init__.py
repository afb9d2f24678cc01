"""The outbox: whatever the device owes the cloud, owed once and kept until acknowledged."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from pisyncd.outbox import salvage
from pisyncd.outbox.books import Cycles, Ledger, Memory
from pisyncd.outbox.db import Database, connect
from pisyncd.outbox.files import Files, Queue
from pisyncd.outbox.messages import Messages
from pisyncd.runtime.clock import Clock

log = structlog.get_logger()

__all__ = ["Outbox", "open_outbox"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outbox:
    """The verbs of the outbox, by what they speak of."""

    db: Database
    files: Files
    queue: Queue
    messages: Messages
    ledger: Ledger
    cycles: Cycles
    memory: Memory


@contextlib.asynccontextmanager
async def open_outbox(path: Path, clock: Clock) -> AsyncIterator[Outbox]:
    """Opens the outbox at `path`; a damaged one is set aside, named in the ledger, and what is readable carried over.

    Raises SchemaTooNew when a newer PiSync wrote it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = None
    if path.exists() and _was_unclean(path) and not salvage.is_sound(path):
        aside = salvage.set_aside(path)
    try:
        db = await connect(path, clock)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            raise
        aside = salvage.set_aside(path)
        db = await connect(path, clock)
    try:
        outbox = await _compose(db)
        if aside is not None:
            await _carry_over(outbox, aside)
        yield outbox
    finally:
        await db.close()


async def _compose(db: Database) -> Outbox:
    memory = Memory(db)
    outbox_id = await memory.get("outbox_id")
    if outbox_id is None:
        outbox_id = secrets.token_hex(4)
        await memory.set("outbox_id", outbox_id)
    messages = Messages(db, outbox_id)
    ledger = Ledger(db, messages)
    return Outbox(
        db=db,
        files=Files(db, messages, ledger),
        queue=Queue(db),
        messages=messages,
        ledger=ledger,
        cycles=Cycles(db, messages),
        memory=memory,
    )


def _was_unclean(path: Path) -> bool:
    """A write-ahead log that was left behind: the power was cut, or the process was killed."""
    return Path(f"{path}-wal").exists()


async def _carry_over(outbox: Outbox, aside: Path) -> None:
    carried = 0
    async with outbox.db.transaction() as tx:
        for row in salvage.readable_rows(aside, "messages"):
            stream = str(row["stream"]).partition("-")[0]
            try:
                body = msgspec.json.decode(row["body"], type=dict)
            except msgspec.DecodeError:
                continue
            await outbox.messages.append(tx, stream, row["item_type"], body, message_id=row["id"])
            carried += 1
        await outbox.ledger.record(
            tx,
            "outbox-damaged",
            "outbox-damaged",
            count=carried,
            detail=f"set aside as {aside.name}; {carried} messages carried over; all files are looked at again",
        )
    digests = [row["sha256"] for row in salvage.readable_rows(aside, "contents") if len(row["sha256"]) == 32]
    await outbox.files.learn_contents(digests)
    log.warning("outbox.salvaged", messages=carried, contents=len(digests), aside=aside.name)
