"""A consistent copy of a SQLite database that somebody else is using.

The bytes of a live database are never sent: between the main file and its -wal they are rarely a database. A snapshot
is taken through SQLite's backup API, by a read-only connection that takes part in the locking, in one of three ways:

quiet   the header says WAL and there is no -wal: nobody uses it. It is read as immutable, because an ordinary
        read-only connection would leave a -wal and a -shm behind; proven unchanged afterwards, else live.
live    under a read transaction. In WAL mode writers go on meanwhile; the -wal cannot be reset before the end, and it
        is never checkpointed from here. In rollback mode a database of up to 16 MiB is read in one go, for
        milliseconds; a larger one page by page, letting writers through, and if they keep changing it, in one go
        at last, so that it ends.
copy    SQLite refuses (a crash left a journal to roll back, or a -wal without -shm lies in a directory that is
        read-only for us): main file and journal are copied, proven unchanged as a pair, and recovered in the copy.

Nothing is ever written to the database or, in a directory that we may not write, beside it. Where we may write, a
reader that meets a -wal without -shm (after a crash) leaves the -shm that the next reader would make anyway.

The copy is in rollback mode, so it is one file; it is checked, and an unchanged database gives the same bytes again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pisyncd.core.errors import PiSyncError, SourceChanged, SourceGone, SourceUnreadable, StorageBusy
from pisyncd.sources import disk, held

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
WAL, JOURNAL = b"-wal", b"-journal"
COMPANION = re.compile(rb"(.+)(?:-wal|-shm|-journal|-mj[0-9A-F]{6,9})", re.DOTALL)
BUSY_S = 5.0
STEP_PAGES = 512
ONE_GO_BYTES = 16 << 20
RESTARTS_MAX = 3

# What quick_check says of rows that break a rule of their own schema: poor data, but a sound database.
_CONTENT = re.compile(r"^(NULL|NUMERIC|TEXT|INT|REAL|BLOB|non-\w+) value in |^CHECK constraint failed in ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A finished copy: `size` bytes with `sha256` (32 bytes). `source` is what the database looked like before it, so
    whatever was written meanwhile is seen as a change later."""

    size: int
    sha256: bytes
    source: disk.Fingerprint


class Locked(SourceUnreadable):
    """Another program keeps the database locked."""

    code = "source-locked"
    hint = "nothing to do if the program is at work; otherwise close it, and the database is sent"


class Corrupt(SourceUnreadable):
    """The database is damaged."""

    code = "sqlite-corrupt"
    hint = "repair it where it is (sqlite3 FILE .recover); it is sent when it is sound"


class _Restless(Exception):
    pass


def main_of(name: bytes) -> bytes | None:
    """The name that a database must have for `name` to be its -wal, -shm or journal; None for any other name."""
    match = COMPANION.fullmatch(name)
    return match[1] if match else None


def is_database(path: bytes | Path) -> bool:
    """Whether the regular file begins like a SQLite 3 database. False when it cannot be read."""
    try:
        return _header(os.fsencode(path)).startswith(MAGIC)
    except held.Held:
        return True  # only databases are held
    except (OSError, PiSyncError):
        return False


def fingerprint(path: bytes | Path) -> disk.Fingerprint:
    """Size of main file and -wal together, the later mtime of both, the inode of the main file.

    Raises what disk.fingerprint raises.
    """
    raw = os.fsencode(path)
    main = disk.fingerprint(raw)
    try:
        wal = os.lstat(raw + WAL)
    except OSError:
        return main
    return disk.Fingerprint(main.size + wal.st_size, max(main.mtime_ns, wal.st_mtime_ns), main.inode)


def snapshot(src: bytes | Path, dst: Path, should_stop: disk.ShouldStop | None = None) -> Snapshot:
    """Writes a consistent, checked, durable copy of the database `src` to the new file `dst`. Runs in a thread.

    Raises SourceGone; SourceChanged when it is no database any more; SourceUnreadable, of which Locked and held.Held
    pass by themselves and Corrupt does not; StorageBusy; disk.Stopped. In every case dst does not exist then.
    """
    raw = os.path.abspath(os.fsencode(src))  # noqa: PTH100 - names are bytes
    part = dst.with_name(dst.name + ".part")
    try:
        with held.hold(raw):
            source = fingerprint(raw)
            _capture(raw, part, should_stop)
        _make_single(part)
        _sync(part)
        copy = disk.fingerprint(part)
        sha256 = disk.hash_file(part, copy, should_stop)
        part.rename(dst)
        disk.sync_dir(dst.parent)
    except sqlite3.Error as error:
        raise _trouble(error) from error
    except OSError as error:
        raise disk.trouble(error, raw) from error
    finally:
        _remove(part)
    return Snapshot(size=copy.size, sha256=sha256, source=source)


def _capture(src: bytes, dst: Path, should_stop: disk.ShouldStop | None) -> None:
    header = _raw_header(src)
    if not header.startswith(MAGIC):
        raise SourceChanged("it is not a SQLite database any more")
    if header[18:19] == b"\x02" and _quiet(src, dst, should_stop):
        return
    try:
        _live(src, dst, should_stop)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        _from_copy(src, dst, should_stop)


def _quiet(src: bytes, dst: Path, should_stop: disk.ShouldStop | None) -> bool:
    """Whether the database was unused while it was copied; only then the copy counts."""
    before = fingerprint(src)
    if os.path.lexists(src + WAL):
        return False
    _leave_the_tick(before)
    trouble: sqlite3.DatabaseError | None = None
    try:
        with _connect(src, "immutable=1") as source:
            _backup(source, dst, should_stop)
    except sqlite3.DatabaseError as error:
        trouble = error
    if os.path.lexists(src + WAL) or fingerprint(src) != before:
        return False
    if trouble is not None:
        raise trouble
    return True


def _live(src: bytes, dst: Path, should_stop: disk.ShouldStop | None) -> None:
    with _connect(src, "mode=ro") as source:
        (mode,) = source.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal" and os.lstat(src).st_size > ONE_GO_BYTES:
            with contextlib.suppress(_Restless):
                _backup(source, dst, should_stop, restarts_max=RESTARTS_MAX)
                return
        source.execute("BEGIN")
        source.execute("PRAGMA schema_version").fetchone()  # reads, so the transaction begins here
        _backup(source, dst, should_stop)


def _from_copy(src: bytes, dst: Path, should_stop: disk.ShouldStop | None) -> None:
    work = dst.with_name(dst.name + ".src")
    try:
        before = _states(src)
        for suffix, state in before.items():
            if state is not None:
                _copy(src + suffix, os.fsencode(work) + suffix)
        if _states(src) != before:
            raise Locked("it changed while it was copied")
        with _connect(os.fsencode(work), "mode=rw") as source:
            source.execute("PRAGMA schema_version").fetchone()
            _backup(source, dst, should_stop)
    finally:
        _remove(work)


def _states(src: bytes) -> dict[bytes, disk.Fingerprint | None]:
    states: dict[bytes, disk.Fingerprint | None] = {}
    for suffix in (b"", WAL, JOURNAL):
        try:
            states[suffix] = disk.fingerprint(src + suffix)
        except SourceGone:
            if not suffix:
                raise
            states[suffix] = None
    for state in states.values():
        if state is not None:
            _leave_the_tick(state)
    return states


def _leave_the_tick(state: disk.Fingerprint) -> None:
    # A write within the clock tick of the last one leaves the mtime as it is, and would not be noticed.
    if abs(time.time_ns() - state.mtime_ns) <= disk.TICK_NS:
        time.sleep(2 * disk.TICK_NS / 1e9)


def _copy(src: bytes, dst: bytes) -> None:
    descriptor = os.open(src, disk.OPEN_FLAGS)
    with os.fdopen(descriptor, "rb", buffering=0) as source, open(dst, "wb", buffering=0) as copy:  # noqa: PTH123
        shutil.copyfileobj(source, copy, disk.BLOCK_BYTES)


@contextlib.contextmanager
def _connect(path: bytes, query: str) -> Iterator[sqlite3.Connection]:
    # The URI carries any byte that a name may have; a plain name could not carry `?` and `%`.
    uri = f"file:{quote(path)}?{query}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _backup(
    source: sqlite3.Connection, dst: Path, should_stop: disk.ShouldStop | None, restarts_max: int | None = None
) -> None:
    """Copies all pages. Raises _Restless when writers made it begin again more than `restarts_max` times."""
    least, restarts, patience_until = -1, 0, time.monotonic() + BUSY_S

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal least, restarts, patience_until
        if should_stop is not None and should_stop():
            raise disk.Stopped
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > patience_until:
                raise Locked
            return
        patience_until = time.monotonic() + BUSY_S
        if remaining > least >= 0:
            restarts += 1
            if restarts_max is not None and restarts > restarts_max:
                raise _Restless
        least = remaining

    _remove(dst)
    with contextlib.closing(sqlite3.connect(dst, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous=OFF")  # _sync makes it durable, once
        source.backup(copy, pages=STEP_PAGES, progress=progress, sleep=0.05)


def _make_single(path: Path) -> None:
    """Turns the copy into a database of one file and checks it. Raises Corrupt."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous=OFF")
        copy.execute("PRAGMA journal_mode=DELETE").fetchone()
        try:
            found = [str(row[0]) for row in copy.execute("PRAGMA quick_check(20)")]
        except sqlite3.OperationalError:
            return  # a module or collation that only its program has: the pages are right, but cannot be judged
    damage = [each for each in found if each != "ok" and not _CONTENT.match(each)]
    if damage:
        raise Corrupt("; ".join(damage)[:300])


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _header(path: bytes) -> bytes:
    descriptor, status = held.open_file(path, disk.OPEN_FLAGS)
    try:
        return os.read(descriptor, HEADER_BYTES) if stat.S_ISREG(status.st_mode) else b""
    finally:
        held.close_file(descriptor, (status.st_dev, status.st_ino))


def _raw_header(path: bytes) -> bytes:
    """The same while we hold it, before SQLite has opened it."""
    descriptor = os.open(path, disk.OPEN_FLAGS)
    try:
        return os.read(descriptor, HEADER_BYTES)
    finally:
        os.close(descriptor)


def _trouble(error: sqlite3.Error) -> PiSyncError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    detail = f"SQLite: {error}"
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return Locked(detail)
        case sqlite3.SQLITE_FULL:
            return StorageBusy(detail, code="storage-full")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Corrupt(detail)
        case sqlite3.SQLITE_IOERR:
            hint = "the card or disk gives errors: check it, then `pisyncctl retry`"
            return SourceUnreadable(detail, code="source-io-error", hint=hint)
    return SourceUnreadable(detail, code="sqlite-unreadable")
