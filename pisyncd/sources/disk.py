"""Reading files honestly: what is handed on is what the file was, all of one moment, or an error.

A file is opened once, without following a symbolic link, and its size, mtime and inode are compared before and after
the reading, all through the same descriptor. Names are raw bytes throughout.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from pisyncd.core import wire
from pisyncd.core.errors import PiSyncError, SourceChanged, SourceGone, SourceUnreadable, StorageBusy, TransientError
from pisyncd.sources import held

BLOCK_BYTES = 1 << 20
TICK_NS = 10_000_000
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

ShouldStop = Callable[[], bool]


class Fingerprint(msgspec.Struct, frozen=True, gc=False):
    """What tells one state of a file from another without reading it. size in bytes."""

    size: int
    mtime_ns: int
    inode: int


class Stopped(TransientError):
    """Reading was stopped before its end."""

    code = "stopped"


def trouble(error: OSError, path: bytes) -> PiSyncError:
    """What an OSError on a source means for the upload of it."""
    detail = f"{wire.display_path(path)}: {error.strerror}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE | errno.ENODEV:
            return SourceGone(detail)
        case errno.ELOOP | errno.EISDIR | errno.ENXIO:
            return SourceChanged(detail)
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            return StorageBusy(detail, code="too-many-open-files", hint="raise LimitNOFILE of the service")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageBusy(detail, code="storage-full")
        case errno.EIO | errno.EUCLEAN | errno.EBADMSG:
            hint = "the card or disk gives read errors: check it, then `pisyncctl retry`"
            return SourceUnreadable(detail, code="source-io-error", hint=hint)
    return SourceUnreadable(detail)


def of_stat(status: os.stat_result) -> Fingerprint:
    """The fingerprint in a stat."""
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)


def fingerprint(path: bytes | Path) -> Fingerprint:
    """The fingerprint of the regular file at `path`, not following a link.

    Raises SourceGone, SourceUnreadable, or SourceChanged when it is something else than a regular file.
    """
    raw = os.fsencode(path)
    try:
        status = os.lstat(raw)
    except OSError as error:
        raise trouble(error, raw) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceChanged("it is no longer a regular file")
    return of_stat(status)


class Source:
    """A file opened for reading that is proven to be what was expected. Close it, or use it in a `with`."""

    def __init__(self, path: bytes | Path, expected: Fingerprint) -> None:
        """Raises SourceGone, SourceChanged, SourceUnreadable, StorageBusy."""
        self.path = os.fsencode(path)
        self.expected = expected
        try:
            self.fd, status = held.open_file(self.path, OPEN_FLAGS)
        except OSError as error:
            raise trouble(error, self.path) from error
        self._key = (status.st_dev, status.st_ino)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise SourceChanged("it is no longer a regular file")
            self._prove(status)
            self._leave_the_tick()
        except BaseException:
            self.close()
            raise

    def _prove(self, status: os.stat_result) -> None:
        expected = self.expected
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (expected.size, expected.mtime_ns, expected.inode):
            raise SourceChanged

    def _leave_the_tick(self) -> None:
        # The kernel stamps mtime by a clock that ticks every 1-10 ms: a write right after our stat could carry the
        # same mtime and pass for unchanged. Once the tick is over, it cannot.
        age_ns = time.time_ns() - self.expected.mtime_ns
        if -TICK_NS < age_ns <= TICK_NS:
            time.sleep((TICK_NS - age_ns + 1_000_000) / 1e9)
            self.check()

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the expected length. Raises SourceChanged."""
        return read_range(self.fd, offset, min(size, self.expected.size - offset), self.path)

    def check(self) -> None:
        """Raises SourceChanged if it is not what it was when it was opened. Ask before the last byte is sent."""
        self._prove(os.fstat(self.fd))

    def close(self) -> None:
        held.close_file(self.fd, self._key)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_range(descriptor: int, offset: int, size: int, path: bytes = b"") -> bytes:
    """Exactly `size` bytes from `offset`. Raises SourceChanged when they are not there, SourceUnreadable."""
    try:
        data = os.pread(descriptor, size, offset)
        while len(data) < size:
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                raise SourceChanged("it is shorter than it was")
            data += more
    except OSError as error:
        raise trouble(error, path) from error
    return data


def hash_file(path: bytes | Path, expected: Fingerprint, should_stop: ShouldStop | None = None) -> bytes:
    """SHA-256 (32 bytes) of the whole file, in blocks of 1 MiB; runs in a thread, hashing without the GIL.

    Raises SourceGone, SourceChanged, SourceUnreadable, StorageBusy, and Stopped when should_stop() says so.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(BLOCK_BYTES, expected.size) or 1))
    with Source(path, expected) as source:
        offset = 0
        while offset < expected.size:
            if should_stop is not None and should_stop():
                raise Stopped
            try:
                count = os.preadv(source.fd, [block[: expected.size - offset]], offset)
            except OSError as error:
                raise trouble(error, source.path) from error
            if not count:
                raise SourceChanged("it is shorter than it was")
            digest.update(block[:count])
            offset += count
            source.check()  # at once: the rest of a large file need not be read then
        source.check()
    return digest.digest()


def read_small(path: bytes | Path, expected: Fingerprint) -> tuple[bytes, bytes]:
    """The whole content and its SHA-256 (32 bytes), both of the state `expected`. Keep it to files of some MiB.

    Raises SourceGone, SourceChanged, SourceUnreadable, StorageBusy.
    """
    with Source(path, expected) as source:
        data = source.read(0, expected.size)
        source.check()
    return data, hashlib.sha256(data).digest()


def sync_dir(path: bytes | Path) -> None:
    """Makes a rename or a new name in this directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
