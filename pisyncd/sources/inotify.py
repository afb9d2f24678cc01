"""What the kernel tells of one watched root, as plain notices.

inotify watches one directory at a time, so every directory below the root gets a watch of its own, set before the
directory is read. One instance per root: its queue overflows alone, and closing it forgets all its watches.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from asyncinotify import Event, Inotify, Mask

CACHED_EVENTS = 64

_MASK = (
    Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.CREATE
    | Mask.MODIFY  # a log or a -wal that its program keeps open is never closed
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
    | Mask.EXCL_UNLINK
)
_ISDIR = int(Mask.ISDIR)
_APPEARED = int(Mask.CREATE | Mask.MOVED_TO)
_FINISHED = int(Mask.CLOSE_WRITE | Mask.MOVED_TO)
_TOUCHED = int(Mask.MODIFY | Mask.CREATE)
_MOVED_FROM = int(Mask.MOVED_FROM)
_OVERFLOW = int(Mask.Q_OVERFLOW)
_LOST = int(Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED)


class Notice(Enum):
    """What happened to the path of a notice."""

    FINISHED = "a file was closed after writing, or moved here"
    TOUCHED = "a file was written to and is still open, or was linked here"
    APPEARED = "a directory was made or moved here"
    LOST = "the root itself was deleted, moved or unmounted"
    OVERFLOWED = "events were dropped: anything may have changed"


class LimitReached(OSError):
    """The kernel grants no more watches or instances. `hint` names the setting."""

    def __init__(self, error: OSError, hint: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.hint = hint


class Watches:
    """The watches of one root. Paths are relative to it, raw bytes; b"" is the root itself."""

    def __init__(self, root: bytes) -> None:
        """Raises LimitReached, OSError."""
        self._root = root
        try:
            self._inotify = Inotify(cache_size=CACHED_EVENTS)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise LimitReached(error, "raise fs.inotify.max_user_instances with sysctl") from error
            raise
        os.set_blocking(self._inotify.fd, False)

    def __len__(self) -> int:
        return len(self._inotify.watches)

    @property
    def fd(self) -> int:
        """Readable when there are notices."""
        return self._inotify.fd

    def add(self, directory: bytes) -> None:
        """Watches one directory, also again. One that has just gone is passed over. Raises LimitReached, OSError."""
        path = self._root + b"/" + directory if directory else self._root
        mask = _MASK | Mask.DONT_FOLLOW if directory else _MASK
        try:
            watch = self._inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise LimitReached(error, "raise fs.inotify.max_user_watches with sysctl") from error
            if directory and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        # The same directory under a new name keeps its watch, which would go on telling the old name.
        watch.path = Path(os.fsdecode(path))

    def read(self) -> Iterator[tuple[Notice, bytes]]:
        """All notices that wait, without blocking."""
        last: tuple[int, bytes | None, str] | None = None
        while True:
            try:
                event = self._inotify.sync_get()
            except BlockingIOError:
                return
            if event is None:
                return
            key = (int(event.mask), self._directory(event), str(event.name))
            if key != last:
                last = key
                yield from self._notices(event, *key[:2])

    def close(self) -> None:
        self._inotify.close()

    def _directory(self, event: Event) -> bytes | None:
        watch = event.watch
        if watch is None:
            return None
        return os.fsencode(watch.path)[len(self._root) + 1 :]

    def _notices(self, event: Event, mask: int, directory: bytes | None) -> Iterator[tuple[Notice, bytes]]:
        if mask & _OVERFLOW:
            yield Notice.OVERFLOWED, b""
        if directory is None:
            return
        if event.name is None:
            if mask & _LOST and not directory:
                yield Notice.LOST, b""
            return
        name = os.fsencode(event.name)
        path = directory + b"/" + name if directory else name
        if mask & _ISDIR:
            if mask & _MOVED_FROM:
                self._forget(path)
            elif mask & _APPEARED:
                yield Notice.APPEARED, path
        elif mask & _FINISHED:
            yield Notice.FINISHED, path
        elif mask & _TOUCHED:
            yield Notice.TOUCHED, path

    def _forget(self, directory: bytes) -> None:
        """A directory that was moved away would report its files under a name that is no longer theirs."""
        gone = str(Path(os.fsdecode(self._root + b"/" + directory))) + "/"
        for watch in self._inotify.watches:
            if f"{watch.path}/".startswith(gone):
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(watch)
