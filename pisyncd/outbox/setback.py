"""What a database does that was set back, once the cloud says that another copy of it has used its numbers.

What was written here under those numbers goes under another name, beside what the other copy wrote (docs/records.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from pisyncd.core import admitting, record, recordwire, wire
from pisyncd.core.problems import Refusal
from pisyncd.core.recordwire import Pushed
from pisyncd.outbox.db import queries
from pisyncd.outbox.recordrows import Rows
from pisyncd.runtime.clock import Stamp

log = structlog.get_logger()

_messages: Any = queries("messages", in_thread=True)

EMPTIED = "dropped"  # its number is still sent


@dataclass(kw_only=True, slots=True)
class _Said:
    """What the messages in doubt say of one record. `firsts`: from which count on of each writer; `stamp`: the last."""

    stamp: Stamp
    firsts: dict[str, int] = field(default_factory=dict)


def stand_beside(db: sqlite3.Connection, rows: Rows, refused: Sequence[wire.Item]) -> int:
    """Writes all anew that was told from the first refused number of each stream on; gives how many records.

    Inside of Database.write, after the instance was renewed.
    """
    doubtful: dict[str, int] = {}
    for item in refused:
        if item.stream is not None and item.seq is not None:
            doubtful[item.stream] = min(item.seq, doubtful.get(item.stream, item.seq))
    said: dict[tuple[str, str], _Said] = {}
    for stream, seq in sorted(doubtful.items()):
        for row in _messages.from_number(db, stream=stream, seq=seq):
            if row["item_type"] == EMPTIED:
                continue
            if (pushed := _pushed(row["body"])) is not None:
                _note(said, pushed, _stamp(row))
            _messages.hollow_out(db, stream=stream, seq=row["seq"])
    return sum(_renamed(db, rows, key, each) for key, each in said.items())


def _pushed(body: str) -> Pushed | None:
    try:
        return recordwire.decode_pushed(body.encode())
    except Refusal:
        return None


def _stamp(row: Any) -> Stamp:
    return Stamp(
        boot_id=row["boot_id"],
        boottime_ms=row["boottime_ms"],
        wall_ms=row["wall_ms"],
        clock_trusted=bool(row["clock_trusted"]),
    )


def _note(said: dict[tuple[str, str], _Said], pushed: Pushed, stamp: Stamp) -> None:
    known = said.setdefault((pushed.type, pushed.id), _Said(stamp=stamp))
    known.stamp = stamp
    for writer, count in record.decode(bytes(pushed.state)).version.items():
        # what was only told again is not in doubt
        if count == pushed.base.get(writer, 0) + 1:
            known.firsts[writer] = min(count, known.firsts.get(writer, count))


def _renamed(db: sqlite3.Connection, rows: Rows, key: tuple[str, str], said: _Said) -> bool:
    kept = rows.get(db, *key)
    if kept is None:
        return False
    state = kept.state
    for writer, first in said.firsts.items():
        if rows.instance.is_mine(writer) and state.version.get(writer, 0) >= first:
            state = admitting.split(state, writer, first, admitting.alias_of(writer, rows.instance.id))
    message_id = rows.push(db, *key, state, state.version, stamp=said.stamp)
    rows.keep(db, *key, state, before=kept, message_id=message_id, synced_wall_ms=kept.synced_wall_ms)
    log.info("records.renamed", type=key[0], id=key[1])
    return True
