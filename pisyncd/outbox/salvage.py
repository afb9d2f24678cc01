"""What is done with an outbox that is damaged: it is set aside, and what can still be read is carried over."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

SUFFIXES = ("", "-wal", "-shm")
COLUMNS = {
    "messages": ("id", "item_type", "body", "stream", "seq"),
    "contents": ("sha256",),
}


def set_aside(path: Path) -> Path:
    """Renames the database and its companions to the first free `<name>.damaged-N`; gives the new path."""
    number = next(n for n in range(1, 1_000_000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    _sync_directory(path.parent)
    log.error("outbox.set_aside", path=str(path), aside=str(aside))
    return aside


def is_sound(path: Path) -> bool:
    """Whether the pages of the database hang together (SQLite's quick_check)."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def readable_rows(aside: Path, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table that can still be read, from the front until the damage and from the back until it."""
    columns = COLUMNS[table]
    seen: set[tuple[Any, ...]] = set()
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{name} {direction}" for name in columns[-2:])
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"  # noqa: S608 - constants of this file
        try:
            with contextlib.closing(sqlite3.connect(f"file:{aside}?mode=ro", uri=True)) as db:
                for row in db.execute(query):
                    if row[-2:] not in seen:
                        seen.add(row[-2:])
                        yield dict(zip(columns, row, strict=True))
        except sqlite3.DatabaseError as error:
            log.warning("outbox.salvage_ended", table=table, direction=direction, error=str(error))


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
