"""What a folder holds that should reach the cloud. Reads only; opens nothing but what it hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

SQLITE_MAGIC = b"SQLite format 3\0"
SIDECARS = (b"-wal", b"-shm", b"-journal")
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """One regular file: raw path below the root, bytes, and what tells one state of it from another."""

    path: bytes
    size: int
    mtime_ns: int
    inode: int

    @property
    def state(self) -> tuple[bytes, int, int, int]:
        return self.path, self.size, self.mtime_ns, self.inode


def walk(root: bytes, skip: bytes | None = None, closed: list[bytes] | None = None) -> Iterator[LocalFile]:
    """Every regular file below `root`; links are not followed, `skip` (an absolute path) is left out.

    Folders that cannot be read are added to `closed`, as paths below the root.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except PermissionError:
            if closed is not None:
                closed.append(os.path.relpath(folder, root) + b"/")
            continue
        except OSError:
            continue
        files: list[LocalFile] = []
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if entry.path != skip:
                        waiting.append(entry.path)
                elif stat.S_ISREG((seen := entry.stat(follow_symlinks=False)).st_mode):
                    files.append(
                        LocalFile(
                            path=os.path.relpath(entry.path, root),
                            size=seen.st_size,
                            mtime_ns=seen.st_mtime_ns,
                            inode=seen.st_ino,
                        )
                    )
        yield from _without_sidecars(root, files)


def _without_sidecars(root: bytes, files: list[LocalFile]) -> Iterator[LocalFile]:
    """A database's -wal, -shm and -journal are part of the database and travel in its snapshot."""
    names = {file.path for file in files}
    for file in files:
        mains = [file.path[: -len(end)] for end in SIDECARS if file.path.endswith(end)]
        if not any(main in names and is_database(os.path.join(root, main)) for main in mains):
            yield file


def is_database(path: bytes) -> bool:
    """Whether the file begins as SQLite databases do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False


@dataclass
class Hashes:
    """SHA-256 of local files, each state of a file read once. A file that cannot be read has none."""

    root: bytes
    known: dict[tuple[bytes, int, int, int], str | None] = field(default_factory=dict)

    def of(self, file: LocalFile) -> str | None:
        if file.state not in self.known:
            self.known[file.state] = self._read(file)
        return self.known[file.state]

    def _read(self, file: LocalFile) -> str | None:
        digest = hashlib.sha256()
        try:
            with open(os.path.join(self.root, file.path), "rb") as source:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError:
            return None
        return digest.hexdigest()
