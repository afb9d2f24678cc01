"""Whether everything of a folder is in the cloud, and whether what is there can be read back as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from cloudview import CloudView, Stored
from survey import Hashes, LocalFile, is_database

MIB = 1 << 20
READ_BACK_FILES_MAX = 5000
READ_BACK_BYTES_MAX = 4 << 30
DATABASE_COMPARE_BYTES_MAX = 512 * MIB
FRESH_S = 30.0


@dataclass(kw_only=True)
class Comparison:
    """Local files by what the cloud has of them. `fresh` ones changed within the last seconds and are on their way.

    `made` is False as long as the cloud could not be asked.
    """

    made: bool = False
    same: list[LocalFile] = field(default_factory=list)
    snapshots: list[LocalFile] = field(default_factory=list)
    missing: list[LocalFile] = field(default_factory=list)
    different: list[LocalFile] = field(default_factory=list)
    unreadable: list[LocalFile] = field(default_factory=list)
    fresh: list[LocalFile] = field(default_factory=list)
    closed: list[bytes] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.made and not self.open

    @property
    def open(self) -> int:
        """How many files and folders are not delivered."""
        return len(self.missing) + len(self.different) + len(self.fresh) + self.locked

    @property
    def locked(self) -> int:
        """How many of them are so because this user may not read them."""
        return len(self.unreadable) + len(self.closed)


class Prover:
    """Compares a folder with the cloud; remembers what it has already hashed and compared."""

    def __init__(self, root: bytes, root_name: bytes, cloud: CloudView, work: Path) -> None:
        self._root = root
        self._prefix = root_name + b"/"
        self._cloud = cloud
        self._work = work
        self._hashes = Hashes(root)
        self._equal_databases: set[tuple[object, ...]] = set()

    def wire_path(self, file: LocalFile) -> bytes:
        return self._prefix + file.path

    def compare(self, files: list[LocalFile], closed: list[bytes], stored: dict[bytes, Stored]) -> Comparison:
        """Sorts `files` by what `stored` holds of them; `closed` are folders that cannot be read."""
        result = Comparison(made=True, closed=closed)
        for file in files:
            self._sort(result, file, stored.get(self.wire_path(file)))
        return result

    def _sort(self, result: Comparison, file: LocalFile, stored: Stored | None) -> None:
        local = os.path.join(self._root, file.path)
        written_ns = max(file.mtime_ns, _state(local + b"-wal")[1])
        if stored is not None and stored.size == file.size and self._hashes.of(file) == stored.sha256:
            result.same.append(file)
        elif stored is not None and self._is_snapshot(file, stored):
            result.snapshots.append(file)
        elif not os.access(local, os.R_OK):
            result.unreadable.append(file)
        elif time.time() - written_ns / 1e9 < FRESH_S:
            result.fresh.append(file)
        else:
            (result.missing if stored is None else result.different).append(file)

    def _is_snapshot(self, file: LocalFile, stored: Stored) -> bool:
        """A database travels as a consistent snapshot: other bytes, but sound and with the same rows."""
        local = os.path.join(self._root, file.path)
        if not is_database(local):
            return False
        known = (file.state, _state(local + b"-wal"), stored.sha256)
        if known not in self._equal_databases:
            with tempfile.TemporaryDirectory(dir=self._work) as folder:
                if not self._same_rows(Path(folder), local, stored):
                    return False
            self._equal_databases.add(known)
        return True

    def _same_rows(self, folder: Path, local: bytes, stored: Stored) -> bool:
        theirs, ours = folder / "cloud.db", folder / "local.db"
        with theirs.open("wb") as out:
            self._cloud.read(stored.path, out.write)
        if stored.size > DATABASE_COMPARE_BYTES_MAX:
            return _is_sound(theirs)
        # Copied first: opening a database, even to read it, may leave files beside it.
        before = (_state(local), _state(local + b"-wal"))
        shutil.copyfile(local, ours)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(local + b"-wal", folder / "local.db-wal")
        if before != (_state(local), _state(local + b"-wal")):
            return False
        return _is_sound(theirs) and _rows_digest(theirs) == _rows_digest(ours)

    def read_back(self, files: list[LocalFile], stored: dict[bytes, Stored]) -> tuple[int, int, list[bytes]]:
        """Downloads what `files` are in the cloud and hashes it; of very many a random part.

        Answers how many files and bytes were read, and the paths whose content is not what the cloud says it is.
        """
        chosen = list(files)
        random.shuffle(chosen)
        count = size = 0
        wrong: list[bytes] = []
        for file in chosen:
            if count >= READ_BACK_FILES_MAX or size >= READ_BACK_BYTES_MAX:
                break
            there = stored[self.wire_path(file)]
            if self._cloud.read(there.path) != there.sha256:
                wrong.append(there.path)
            count += 1
            size += there.size
        return count, size, wrong


def _state(path: bytes) -> tuple[int, int, int]:
    try:
        seen = os.stat(path)
    except OSError:
        return 0, 0, 0
    return seen.st_size, seen.st_mtime_ns, seen.st_ino


def _is_sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
    except sqlite3.Error:
        return False


def _rows_digest(path: Path) -> str:
    """A digest of the schema and of every row of every table that this SQLite can read."""
    digest = hashlib.sha256()
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.text_factory = bytes
            for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name"):
                digest.update(repr((kind, name, sql)).encode())
                if kind != b"table":
                    continue
                with contextlib.suppress(sqlite3.Error):
                    quoted = name.decode().replace('"', '""')
                    for row in connection.execute(f'SELECT * FROM "{quoted}"'):
                        digest.update(repr(row).encode())
    except sqlite3.Error as error:
        return f"unreadable: {error}"
    return digest.hexdigest()
