"""Walking a watched root: every regular file in it, in bounded memory, never outside it.

Symbolic links are not followed, whether they lead out of the root or not; the root itself may be one. Directories are
opened part by part with O_NOFOLLOW, so that a directory that is exchanged for a link while it is walked leads nowhere.
FIFOs, sockets and devices are passed over, and so are PiSync's own files, known by inode. File systems mounted below
the root belong to it.

A SQLite database is recognised by its first 16 bytes. They are read only of files whose size is a multiple of 512, as
that of every database is, or whose name says so; of ordinary files that is one in 512, so a rescan of 50,000 files
opens about a hundred of them and nothing has to be remembered. The -wal, -shm and journal beside a database are never
offered: the database is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pisyncd.config.schema import WatchRoot
from pisyncd.core.errors import PiSyncError, SourceChanged
from pisyncd.core.settle import Sighting
from pisyncd.sources import disk, sqlite
from pisyncd.sources.globs import Filter

BATCH_MAX = 500
NAMED_MAX = 20
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
COMPANION_ENDS = (b"-wal", b"-shm", b"-journal")
DATABASE_ENDS = (b".db", b".db3", b".sqlite", b".sqlite3")

Identity = tuple[int, int]


@dataclass(kw_only=True, slots=True)
class Report:
    """What a scan came across. `unreadable` names the first places that could not be read, and why."""

    directories: int = 0
    files: int = 0
    unreadable_count: int = 0
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)

    def refuse(self, path: bytes, error: OSError) -> None:
        if error.errno in VANISHED:
            return
        self.unreadable_count += 1
        if len(self.unreadable) < NAMED_MAX:
            self.unreadable.append((path, error.strerror or str(error)))


def _no_watch(_directory: bytes) -> None:
    pass


class Tree:
    """A watched root on disk. Paths are relative to it, raw bytes; b"" is the root itself."""

    def __init__(self, root: WatchRoot, avoid: Iterable[Path] = ()) -> None:
        """`avoid`: files and directories that are never looked at (PiSync's own)."""
        self.name = root.name
        self.priority = root.priority
        self.path = os.fsencode(root.path)
        self.filter = Filter(root.include, root.exclude)
        self._avoid_paths = tuple(avoid)
        self._avoid: set[Identity] = set()

    def identity(self) -> Identity | None:
        """Which directory the root is now; None while there is none. Raises nothing."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - names are bytes
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None

    def full_path(self, path: bytes) -> bytes:
        """Where a file of this root is."""
        return self.path + b"/" + path if path else self.path

    def scan(
        self, under: bytes = b"", *, enter: Callable[[bytes], None] = _no_watch, report: Report | None = None
    ) -> Iterator[list[Sighting]]:
        """Every file below `under`, in batches of at most 500; for a thread.

        `enter` is called with each directory before it is read, so that a watch set there misses nothing.
        Directories that cannot be read are in the report. Raises OSError when `under` itself cannot be read.
        """
        report = report if report is not None else Report()
        self._learn_own()
        batch: list[Sighting] = []
        waiting = [under]
        while waiting:
            directory = waiting.pop()
            try:
                for found in self._read(directory, enter, report):
                    if isinstance(found, bytes):
                        waiting.append(found)
                        continue
                    batch.append(found)
                    if len(batch) >= BATCH_MAX:
                        yield batch
                        batch = []
            except OSError as error:
                if directory == under:
                    raise
                report.refuse(directory, error)
        if batch:
            yield batch

    def look(self, directory: bytes, names: Iterable[bytes]) -> dict[bytes, Sighting]:
        """What these names in one directory are now. Missing from the answer: gone, not to be sent, not a file.

        For the -wal or journal of a database the answer is the database. Raises OSError for the directory.
        """
        found: dict[bytes, Sighting] = {}
        self._learn_own()
        with self._open(directory) as descriptor:
            for name in names:
                with contextlib.suppress(OSError):
                    sighting = self._look(directory, descriptor, name)
                    if sighting is not None:
                        found[name] = sighting
        return found

    def _look(self, directory: bytes, descriptor: int, name: bytes) -> Sighting | None:
        main = sqlite.main_of(name)
        if main is not None and self._is_database(directory, main):
            name = main
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        path = directory + b"/" + name if directory else name
        if not stat.S_ISREG(status.st_mode) or not self.filter.reaches(path):
            return None
        return None if (status.st_dev, status.st_ino) in self._avoid else self._sighting(path, status)

    def _read(self, directory: bytes, enter: Callable[[bytes], None], report: Report) -> Iterator[Sighting | bytes]:
        """The files of one directory as sightings, and the directories in it as paths."""
        prefix = directory + b"/" if directory else b""
        with self._open(directory) as descriptor:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) in self._avoid:
                return
            enter(directory)
            report.directories += 1
            companions: list[bytes] = []
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    path = prefix + os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if self.filter.enters(path):
                            yield path
                    elif entry.is_file(follow_symlinks=False) and self.filter.takes(path):
                        if path.endswith(COMPANION_ENDS) or b"-mj" in path:
                            companions.append(path[len(prefix) :])
                        elif (sighting := self._of_entry(path, entry, report)) is not None:
                            report.files += 1
                            yield sighting
            for name, sighting in self._leftover(directory, descriptor, companions):
                if sighting.path == prefix + name:
                    report.files += 1
                    yield sighting

    def _leftover(self, directory: bytes, descriptor: int, names: list[bytes]) -> Iterator[tuple[bytes, Sighting]]:
        """Files that are named like the companion of a database, but are not."""
        for name in names:
            with contextlib.suppress(OSError):
                sighting = self._look(directory, descriptor, name)
                if sighting is not None:
                    yield name, sighting

    def _of_entry(self, path: bytes, entry: os.DirEntry[str], report: Report) -> Sighting | None:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            report.refuse(path, error)
            return None
        if self._avoid and (status.st_dev, status.st_ino) in self._avoid:
            return None
        return self._sighting(path, status) if stat.S_ISREG(status.st_mode) else None

    def _sighting(self, path: bytes, status: os.stat_result) -> Sighting:
        return _sighting(self.name, path, self.full_path(path), status, self.priority)

    def _is_database(self, directory: bytes, name: bytes) -> bool:
        return sqlite.is_database(self.full_path(directory + b"/" + name if directory else name))

    def _learn_own(self) -> None:
        self._avoid = set()
        for path in self._avoid_paths:
            with contextlib.suppress(OSError):
                status = path.stat()
                self._avoid.add((status.st_dev, status.st_ino))

    @contextlib.contextmanager
    def _open(self, directory: bytes) -> Iterator[int]:
        """A descriptor of the directory, reached without any symbolic link below the root."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in directory.split(b"/") if directory else ():
                above = descriptor
                descriptor = os.open(part, DIRECTORY_FLAGS, dir_fd=above)
                os.close(above)
            yield descriptor
        finally:
            os.close(descriptor)


def sight(root: str, path: bytes, full_path: bytes, priority: int) -> Sighting:
    """What one file is now, `path` below its root and `full_path` on disk, file or database.

    Raises SourceGone, SourceUnreadable, or SourceChanged when it is something else than a regular file.
    """
    try:
        status = os.lstat(full_path)
    except OSError as error:
        raise disk.trouble(error, full_path) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceChanged("it is no longer a regular file")
    return _sighting(root, path, full_path, status, priority)


def _sighting(root: str, path: bytes, full_path: bytes, status: os.stat_result, priority: int) -> Sighting:
    size, mtime_ns, inode = status.st_size, status.st_mtime_ns, status.st_ino
    suspect = size >= 512 and (size % 512 == 0 or path.endswith(DATABASE_ENDS))
    database = suspect and sqlite.is_database(full_path)
    if database:
        with contextlib.suppress(PiSyncError):
            seen = sqlite.fingerprint(full_path)
            size, mtime_ns, inode = seen.size, seen.mtime_ns, seen.inode
    return Sighting(
        root=root,
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        inode=inode,
        kind="sqlite" if database else "file",
        priority=priority,
    )
