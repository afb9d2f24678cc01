"""What can still be read of a damaged queue goes on in the new one."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

COLUMNS = "id, event_type, kind, rank, user_id, seq, body, bytes"
ROWS_MAX = 20_000

Row = tuple[Any, ...]


def readable(damaged: Path) -> list[Row]:
    """The events of a damaged file as far as they can be read, from both ends. Never raises."""
    found: dict[int, Row] = {}
    for order in ("ASC", "DESC"):
        # A connection each: one that has met a damaged page may remember it.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(damaged, timeout=1)) as db:
            # By the table alone: a damaged index would hide rows that are there.
            query = f"SELECT n, {COLUMNS} FROM events NOT INDEXED ORDER BY n {order} LIMIT {ROWS_MAX}"  # noqa: S608
            for n, *row in db.execute(query):
                if n in found:
                    break
                if _whole(row):
                    found[n] = tuple(row)
    return [found[n] for n in sorted(found)]


def put(db: sqlite3.Connection, rows: list[Row]) -> None:
    """Adds them to a new queue, in a transaction of its own."""
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
        db.execute("UPDATE totals SET captured = captured + ?", (len(rows),))
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _whole(row: list[Any]) -> bool:
    event_id, event_type, kind, rank, user_id, seq, body, size = row
    texts = all(isinstance(each, str) for each in (event_id, event_type, user_id, body))
    numbers = isinstance(rank, int) and isinstance(size, int) and (seq is None or isinstance(seq, int))
    return texts and numbers and kind in ("learning", "track") and body[:1] == "{" and body[-1:] == "}"
