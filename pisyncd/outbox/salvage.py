"""What is done with an outbox that is damaged: it is set aside, and what can still be read is carried over.

Beside the database, `<name>.suspect` says that a run met damage in it, and `<name>.salvage` names the one that was set
aside and is not carried over yet: a power cut in between loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pisyncd.core import wire
from pisyncd.runtime.clock import Stamp

log = structlog.get_logger()

SUFFIXES = ("", "-wal", "-shm")
#: What is read of a table, and the order of its own tree: it is walked until the damage, from both ends.
COLUMNS = {
    "messages": ("stream", "seq", "id", "item_type", "body", "boot_id", "boottime_ms", "wall_ms", "clock_trusted"),
    "contents": ("sha256",),
    "boots": ("boot_id", "number"),
    "sessions": (
        "id", "user_id", "mode", "filters", "question_ids", "state", "rev", "due_at_ms", "created_wall_ms",
        "expires_wall_ms", "ended_wall_ms", "updated_wall_ms",
    ),
    "answers": ("session_id", "question_id", "position", "selected_index", "marked", "rev", "answered_wall_ms"),
    "cursors": ("name", "value"),
    "records": ("type", "id", "state", "message_id", "updated_wall_ms", "synced_wall_ms"),
    "decisions": ("ord", "id", "type", "record_id", "body", "wall_ms"),
}  # fmt: skip
KEYS = {
    "messages": ("stream", "seq"), "contents": ("sha256",), "boots": ("boot_id",), "sessions": ("id",),
    "answers": ("session_id", "question_id"), "cursors": ("name",),
    "records": ("type", "id"), "decisions": ("ord",),
}  # fmt: skip
MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
# no PiSync has that many migrations: a number above it was not written by one
SCHEMA_MAX = 1000
STREAMS = frozenset(
    {wire.STREAM_LOSS, wire.STREAM_SYNC, wire.STREAM_EVENT, wire.STREAM_RECORD, *(f"learn{n}" for n in range(1, 11))}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message that was read from a damaged outbox. `stream` is the short name, `body` JSON as it was.

    `stamp` is None when it cannot be told any more.
    """

    message_id: str
    stream: str
    item_type: str
    body: str
    stamp: Stamp | None


def is_damaged(path: Path) -> bool:
    """Whether the database is there and its pages do not hang together (SQLite's quick_check).

    False when it cannot be told: a database that another program holds, or that cannot be opened, is not damaged.
    """
    if not path.exists():
        return False
    if _suspect(path).exists():
        return True
    try:
        if not _plausible(path):
            return True
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except (sqlite3.Error, OSError) as error:
        return means_damage(error, opening=True)


def means_damage(error: BaseException, *, opening: bool = False) -> bool:
    """Whether an error, or one in a group of errors, tells that the database is damaged, not that it is held or full.

    `opening`: no statement of ours has run on sound tables yet, so one that SQLite cannot understand, or a value that
    is no number, is damage too.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(means_damage(each, opening=opening) for each in error.exceptions)
    if opening and isinstance(error, ValueError):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "decode" in str(error)  # text that is no UTF-8; Python raises this, not SQLite
    damage = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    if opening:
        damage |= {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
    return code & 0xFF in damage


def suspect(path: Path) -> None:
    """A run met damage that a look at the pages may not show: the next start sets the database aside."""
    with contextlib.suppress(OSError):
        _suspect(path).touch()


def set_aside(path: Path) -> Path:
    """Renames the database and its companions to the first free `<name>.damaged-N`; gives the new path."""
    number = next(n for n in range(1, 1_000_000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    _write_durably(_pending(path), aside.name)
    for suffix in reversed(SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    _suspect(path).unlink(missing_ok=True)
    _sync_directory(path.parent)
    log.error("outbox.set_aside", path=str(path), aside=str(aside))
    return aside


def not_carried_over(path: Path) -> Path | None:
    """The database that was set aside and from which nothing was carried over yet."""
    try:
        aside = path.with_name(_pending(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return aside if aside.exists() and aside != path.parent else None


def carried_over(path: Path) -> None:
    """What could be read is in the new outbox, durably."""
    _pending(path).unlink(missing_ok=True)


def readable_rows(aside: Path, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table that can still be read, from the front until the damage and from the back until it."""
    columns, keys = COLUMNS[table], KEYS[table]
    seen: set[tuple[Any, ...]] = set()
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{name} {direction}" for name in keys)
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"  # noqa: S608 - constants of this file
        try:
            with contextlib.closing(sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True)) as db:
                for row in db.execute(query):
                    if row[: len(keys)] not in seen:
                        seen.add(row[: len(keys)])
                        yield dict(zip(columns, row, strict=True))
        except sqlite3.Error as error:
            log.warning("outbox.salvage_ended", table=table, direction=direction, error=str(error))


def message_in(row: dict[str, Any]) -> Message | None:
    """The message of a row of a damaged database; None when it is not one."""
    stream = str(row["stream"]).partition("-")[0]
    if stream not in STREAMS or not all(isinstance(row[name], str) for name in ("id", "item_type", "body")):
        return None
    try:
        msgspec.json.decode(row["body"], type=dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    # The body stays as it was to the letter: the cloud may have it already, and compares.
    return Message(message_id=row["id"], stream=stream, item_type=row["item_type"], body=row["body"], stamp=_stamp(row))


def _stamp(row: dict[str, Any]) -> Stamp | None:
    boot_id, boottime_ms, wall_ms = row["boot_id"], row["boottime_ms"], row["wall_ms"]
    if not isinstance(boot_id, str) or not isinstance(boottime_ms, int) or not isinstance(wall_ms, int):
        return None
    return Stamp(boot_id=boot_id, boottime_ms=boottime_ms, wall_ms=wall_ms, clock_trusted=row["clock_trusted"] == 1)


def _plausible(path: Path) -> bool:
    """Whether the header is one that PiSync may have written. SQLite takes an empty file for a new database, another
    format version for one that must not be written, and we a large schema number for a newer PiSync."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    formats_known = set(header[18:20]) <= {1, 2}
    schema = int.from_bytes(header[60:64], "big")
    return len(header) == HEADER_BYTES and header.startswith(MAGIC) and formats_known and schema <= SCHEMA_MAX


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")


def _pending(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvage")


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
