"""The queue's file: opening it, sharing it, and surviving what happens to it.

WAL with synchronous=NORMAL: what is committed survives the end of the process, however it comes; a power cut may take
the last seconds, and never damages what was there. Several processes may have it open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pisyncd.client import salvage

VERSION = 1
#: How long a statement waits for another process's transaction before it is StoreTrouble `queue-busy`.
BUSY_S = 5.0
REOPEN_S = 5.0
HOLD_S = 5.0
DAMAGED_KEPT = 3
_SCHEMA = Path(__file__).with_name("schema.sql")
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# The sender writes back in its own time, every few seconds: that waits for the disk, and capturing must not.
_WAL_PAGES_MAX = 4000


class StoreTrouble(Exception):
    """The queue's file cannot be used now."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class QueueFile:
    """One connection, for one thread at a time. `path` None keeps everything in memory."""

    def __init__(self, path: Path | None, *, busy_s: float = BUSY_S) -> None:
        self.path = path
        self._busy_s = busy_s
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._fault: StoreTrouble | None = None
        self._fault_until = 0.0

    @contextlib.contextmanager
    def using(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """A transaction, committed at the end. Raises StoreTrouble; nothing has changed then."""
        with self._lock:
            try:
                db = self._opened()
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise self._trouble(error) from error
            if write and self.path is not None and self._identity != _identity(self.path):
                # Set aside in this very moment: perhaps too late to be read from there.
                raise StoreTrouble("queue-moved", f"{self.path} is another file now")

    def checkpoint(self) -> None:
        """Writes back what is in the log. Waits for the disk; other connections go on."""
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            if self.path is not None and self._db is not None:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """It is opened again when it is needed again."""
        with self._lock:
            self._close()

    def hold_for_fork(self) -> bool:
        """Closes, and keeps everybody out until `release`: SQLite must not be carried into another process.

        False when a transaction hangs on its disk; the child must then leave this file alone.
        """
        if not self._lock.acquire(timeout=HOLD_S):
            return False
        if self.path is not None:
            self._close()
        return True

    def release(self) -> None:
        """After `hold_for_fork`, in the parent."""
        self._lock.release()

    def _close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = self._identity = None

    def _opened(self) -> sqlite3.Connection:
        if self.path is None:
            self._db = self._db or _connected(":memory:", self._busy_s)
            return self._db
        if self._db is not None and self._identity != _identity(self.path):
            # Removed or set aside by somebody; what is written to the old one is seen by nobody.
            self._close()
        if self._db is None:
            self._open(self.path)
        assert self._db is not None
        return self._db

    def _open(self, path: Path) -> None:
        # A disk that is full or gone is not asked at every event.
        if self._fault is not None and time.monotonic() < self._fault_until:
            raise OSError(self._fault.detail)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.parent):
            self._make(path)
        self._fault = None

    def _make(self, path: Path) -> None:
        # Made here, and only when missing: it holds what learners do, and closing another descriptor of a file that
        # is open in this process would drop SQLite's locks on it.
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._identity = _identity(path)
        self._db = _connected(os.fspath(path), self._busy_s)

    def _trouble(self, error: Exception) -> StoreTrouble:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            return StoreTrouble("queue-busy", f"{self.path}: another process is writing")
        trouble = StoreTrouble("queue-unusable", f"{self.path}: {error}")
        if code in _DAMAGED and self.path is not None:
            trouble = StoreTrouble("queue-damaged", f"{self.path}: {error}; {self._set_aside(self.path)}")
        elif self._db is None and self._fault is None:
            self._fault, self._fault_until = trouble, time.monotonic() + REOPEN_S
        return trouble

    def _set_aside(self, path: Path) -> str:
        """A damaged file is kept under another name, once: another process may have set it aside already."""
        mine = self._identity
        self._close()
        with _alone(path.parent):
            if mine is None or mine != _identity(path):
                return "it is set aside already"
            kept = path.with_name(f"{path.name}.damaged-{mine[1]}")
            for ending in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.replace(f"{path}{ending}", f"{kept}{ending}")  # noqa: PTH105
            _forget_oldest(path)
            rows = salvage.readable(kept)
            with contextlib.suppress(sqlite3.Error, OSError):
                self._make(path)
                assert self._db is not None
                salvage.put(self._db, rows)
                return f"{len(rows)} events could be read and go on; it is kept as {kept.name}"
        return f"it is kept as {kept.name}"


def _forget_oldest(path: Path) -> None:
    """A card that damages its files again and again must not fill itself with them."""
    found = [each for each in path.parent.glob(f"{path.name}.damaged-*") if each.name.rpartition("-")[2].isdigit()]
    for old in sorted(found, key=lambda each: each.stat().st_ctime)[:-DAMAGED_KEPT]:
        for ending in ("", "-wal", "-shm"):
            Path(f"{old}{ending}").unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps others from opening a queue whose three files are being renamed: they would mix old and new.

    Nobody is waited for longer than BUSY_S.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + BUSY_S
        while time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:
                break
        yield
    finally:
        os.close(fd)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  (a call per event: no detours)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connected(name: str, busy_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(name, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if (version := _version(db)) > VERSION:
            raise sqlite3.OperationalError(f"written by a newer version of the client ({version})")
        # A queue that is being made holds nothing yet, and waiting for the disk several times would be long.
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES_MAX}").fetchall()
        db.execute("PRAGMA journal_size_limit = 1048576").fetchall()
        _migrate(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    if _version(db) == 0:
        db.execute("BEGIN IMMEDIATE")
        # Again, now that no other process can be doing the same.
        if _version(db) == 0:
            for statement in _statements(_SCHEMA.read_text(encoding="utf-8")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """One at a time: executescript() would commit in between, and half a schema could stay."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
