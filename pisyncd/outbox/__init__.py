"""The outbox: whatever the device owes the cloud, owed once and kept until acknowledged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from pisyncd.outbox import reconciling, salvage
from pisyncd.outbox.books import Boots, Cycles, Ledger, Memory
from pisyncd.outbox.carrying import Carrying
from pisyncd.outbox.db import Database, connect
from pisyncd.outbox.files import Files, Queue
from pisyncd.outbox.instance import Board, Instance, open_instance, read_board
from pisyncd.outbox.intake import Intake
from pisyncd.outbox.messages import Messages
from pisyncd.outbox.records import Records
from pisyncd.outbox.sessions import Sessions
from pisyncd.outbox.spooled import Spooled
from pisyncd.runtime.clock import Clock

log = structlog.get_logger()

SALVAGED = "salvaged"

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
    boots: Boots
    intake: Intake
    sessions: Sessions
    spooled: Spooled
    records: Records
    instance: Instance

    async def anything_owed(self) -> bool:
        """Whether files, learning data or records wait; cheap."""
        return await self.queue.anything_owed() or await self.messages.learning_owed()


@contextlib.asynccontextmanager
async def open_outbox(path: Path, clock: Clock, board: Board | None = None) -> AsyncIterator[Outbox]:
    """Opens the outbox at `path`; a damaged one is set aside, named in the ledger, and what is readable carried over.

    `board` is this machine, unless another is given. On another one than before the outbox is another writer.

    Raises SchemaTooNew when a newer PiSync wrote it, StorageBusy when there is no room or another program holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if salvage.is_damaged(path):
        salvage.set_aside(path)
    try:
        db = await connect(path, clock)
    except (sqlite3.Error, ValueError) as error:
        if not salvage.means_damage(error, opening=True):
            raise
        salvage.set_aside(path)
        db = await connect(path, clock)
    try:
        outbox = await _compose(db, board or read_board())
        if (aside := salvage.not_carried_over(path)) is not None:
            await _carry_over(outbox, aside)
            salvage.carried_over(path)
        yield outbox
    except BaseException as error:
        if salvage.means_damage(error):
            salvage.suspect(path)
        raise
    finally:
        await db.close()


async def _compose(db: Database, board: Board) -> Outbox:
    memory = Memory(db)
    # Another device is entitled to other records.
    instance = await open_instance(db, board, reconciling.begin_sweep)
    boots = Boots(db)
    await boots.open()
    messages = Messages(db, instance)
    ledger = Ledger(db, messages)
    records = Records(db, messages, instance)
    await records.open()
    intake = Intake(db, messages, records)
    return Outbox(
        db=db,
        files=Files(db, messages, ledger),
        queue=Queue(db),
        messages=messages,
        ledger=ledger,
        cycles=Cycles(db, messages),
        memory=memory,
        boots=boots,
        intake=intake,
        sessions=Sessions(db, messages),
        spooled=Spooled(db, intake, ledger),
        records=records,
        instance=instance,
    )


async def _carry_over(outbox: Outbox, aside: Path) -> None:
    if await outbox.memory.get(SALVAGED) == aside.name:
        return
    carrying = Carrying(aside, outbox.messages, outbox.db)

    def work(db: sqlite3.Connection) -> None:
        carrying.boots(db)
        carrying.messages(db)
        carrying.sessions(db)
        carrying.records(db, outbox.records.rows)
        detail = f"set aside as {aside.name}; {carrying.told}; all files are looked at again"
        outbox.ledger.enter(db, "outbox-damaged", "outbox-damaged", count=carrying.carried, detail=detail)
        outbox.memory.set_in_thread(db, SALVAGED, aside.name)

    await outbox.db.write(work)
    await outbox.boots.open()
    rows = salvage.readable_rows(aside, "contents")
    digests = [row["sha256"] for row in rows if isinstance(row["sha256"], bytes) and len(row["sha256"]) == 32]
    await outbox.files.learn_contents(digests)
    log.warning("outbox.salvaged", told=carrying.told, contents=len(digests), aside=aside.name)
