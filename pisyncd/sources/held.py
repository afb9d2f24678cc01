"""Which files this process has open, by inode.

POSIX drops every lock that a process has on a file when the process closes *any* descriptor of it. If a probe or an
upload closed a database while a snapshot of it is being taken in another thread, SQLite's read lock would silently
be gone and the snapshot could be torn. So every open of a watched file goes through here: a close that would hurt a
snapshot is put off until the snapshot is done.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from pisyncd.core.errors import SourceUnreadable

Key = tuple[int, int]

PATIENCE_S = 5.0

_lock = threading.Condition()
_open: dict[Key, int] = {}
_held: dict[Key, list[int]] = {}


class Held(SourceUnreadable):
    """This database is being read already."""

    code = "source-held"
    hint = "nothing to do; it is read when the snapshot is done"


def open_file(path: bytes, flags: int) -> tuple[int, os.stat_result]:
    """Opens for reading. Returns the descriptor and its stat. Raises OSError, or Held during a snapshot of it."""
    with _lock:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        key = (status.st_dev, status.st_ino)
        if key in _held:
            _held[key].append(descriptor)
            raise Held
        _open[key] = _open.get(key, 0) + 1
        return descriptor, status


def close_file(descriptor: int, key: Key) -> None:
    """Closes what open_file returned; `key` is (st_dev, st_ino) of its stat."""
    with _lock:
        os.close(descriptor)
        left = _open[key] - 1
        if left:
            _open[key] = left
        else:
            del _open[key]
            _lock.notify_all()


@contextlib.contextmanager
def hold(path: bytes) -> Iterator[Key]:
    """Keeps everyone else in this process from opening `path`, once they have closed it.

    Raises OSError, or Held when somebody has not after 5 s.
    """
    with _lock:
        status = os.lstat(path)
        key = (status.st_dev, status.st_ino)
        if not _lock.wait_for(lambda: key not in _held and key not in _open, PATIENCE_S):
            raise Held
        _held[key] = []
    try:
        yield key
    finally:
        with _lock:
            for descriptor in _held.pop(key):
                os.close(descriptor)
            _lock.notify_all()
