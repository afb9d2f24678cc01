"""Where bytes are kept: a directory of unfinished uploads and a directory of published contents.

    <root>/uploads/ab/<id>        what has arrived of an upload; its size is the upload's offset
    <root>/uploads/ab/<id>.pack   the contents of a bundle while they are unpacked
    <root>/contents/ab/<id>       published and never changed again: one file, or the packed contents of a bundle

Names are ids that the cloud made itself. Every function blocks and is meant for a thread. Nothing here knows HTTP,
devices or paths of devices.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from pisyncd.core.errors import TransientError

FREE_CHECK_BYTES = 1 << 20
COPY_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class StorageFull(TransientError):
    """The cloud has no room for this now."""

    code = "storage-full"
    hint = "the operator of the cloud must make room; sending goes on by itself when there is"


def _no_room(error: OSError) -> OSError | StorageFull:
    return StorageFull(retry_after_s=60) if error.errno in _NO_ROOM else error


@contextlib.contextmanager
def full_means_busy() -> Iterator[None]:
    """Turns "no space left" of the file system into StorageFull, and leaves every other error as it is."""
    try:
        yield
    except OSError as error:
        raise _no_room(error) from error


def sync_directory(path: Path) -> None:
    """Makes the names in `path` durable. Without it a renamed file can be gone after a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class BlobStore:
    """Blobs on a file system. `free_floor_bytes` is left free for the database and everything else."""

    def __init__(self, root: Path, *, free_floor_bytes: int = 0) -> None:
        self.uploads = root / "uploads"
        self.contents = root / "contents"
        self._floor = free_floor_bytes
        for base in (self.uploads, self.contents):
            if (base / "ff").exists():
                continue
            base.mkdir(parents=True, exist_ok=True)
            for shard in range(256):
                (base / f"{shard:02x}").mkdir(exist_ok=True)
            sync_directory(base)
        sync_directory(root)

    def upload_path(self, upload: str) -> Path:
        return self.uploads / upload[:2] / upload

    def pack_path(self, upload: str) -> Path:
        return self.uploads / upload[:2] / f"{upload}.pack"

    def content_path(self, blob: str) -> Path:
        return self.contents / blob[:2] / blob

    def require_room(self, wanted: int = 0) -> None:
        """Raises StorageFull when `wanted` bytes would go below the free floor."""
        status = os.statvfs(self.uploads)
        if status.f_bavail * status.f_frsize - wanted < self._floor:
            raise StorageFull(retry_after_s=60)

    def offset(self, upload: str) -> int:
        """How many bytes of an upload are durable. A blob that is not there has none."""
        try:
            fd = os.open(self.upload_path(upload), os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            # What a killed process wrote may still be in memory only; an offset is promised to the client.
            os.fdatasync(fd)
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def moved_bytes(self, upload: str) -> int | None:
        """The size of an upload that was moved to the contents; None when it was not."""
        try:
            return self.content_path(upload).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, upload: str) -> tuple[int, int | None]:
        """The sizes of what is written of an upload, durable or not, and of what was moved to the contents."""
        try:
            written = self.upload_path(upload).stat().st_size
        except FileNotFoundError:
            written = 0
        return written, self.moved_bytes(upload)

    def append(self, upload: str, offset: int) -> Appender:
        """Opens an upload for writing at `offset`; what lies beyond it is forgotten."""
        return Appender(self, self.upload_path(upload), offset)

    def pack(self, upload: str) -> Appender:
        """Opens an empty pack for the contents of a bundle."""
        return Appender(self, self.pack_path(upload), 0)

    def spool(self) -> IO[bytes]:
        """A nameless file for bytes that may not count yet; it is gone with the process."""
        return tempfile.TemporaryFile(dir=self.uploads)

    def open_upload(self, upload: str, *, moved: bool = False) -> IO[bytes]:
        """The bytes of an upload for reading; `moved` looks where a finish that was cut short may have left them."""
        paths = (self.upload_path(upload), self.content_path(upload)) if moved else (self.upload_path(upload),)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                return path.open("rb", buffering=0)
        # An upload of no bytes was never written.
        return Path(os.devnull).open("rb", buffering=0)

    def open_content(self, blob: str) -> IO[bytes]:
        """A published blob for reading. Raises FileNotFoundError."""
        return self.content_path(blob).open("rb")

    def publish(self, upload: str) -> None:
        """Moves a whole upload to the contents. Doing it again does nothing, so a crash in between is harmless."""
        self._move(self.upload_path(upload), upload)

    def publish_pack(self, upload: str) -> None:
        """Moves a committed pack to the contents, in place of one that a crash left there."""
        self._move(self.pack_path(upload), upload)

    def _move(self, source: Path, blob: str) -> None:
        target = self.content_path(blob)
        try:
            source.rename(target)
        except FileNotFoundError:
            if not target.exists():
                raise
        sync_directory(target.parent)

    def concatenate(self, upload: str, parts: Iterable[str]) -> int:
        """Writes the parts one after the other into `upload`, durably, and returns its length."""
        with self.append(upload, 0) as whole:
            for part in parts:
                with self.open_upload(part) as source:
                    whole.copy(source)
            whole.commit()
            return whole.offset

    def discard(self, upload: str) -> None:
        """Forgets an upload's bytes. What is published stays."""
        for path in (self.upload_path(upload), self.pack_path(upload)):
            path.unlink(missing_ok=True)

    def names(self, base: Path, older_than_s: float) -> Iterator[list[Path]]:
        """The files below `uploads` or `contents` that were last written before `older_than_s`, a folder at a time."""
        for shard in sorted(base.iterdir()):
            found = []
            for path in shard.iterdir() if shard.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < older_than_s:
                        found.append(path)
            if found:
                yield found


class Appender:
    """One open blob. `offset` counts what was written, `committed` what is durable."""

    def __init__(self, store: BlobStore, path: Path, offset: int) -> None:
        self._store = store
        self._path = path
        self._unchecked = FREE_CHECK_BYTES
        self._new = False
        flags = os.O_RDWR | os.O_CLOEXEC
        with full_means_busy():
            try:
                self._fd = os.open(path, flags)
            except FileNotFoundError:
                self._fd = os.open(path, flags | os.O_CREAT, 0o640)
                self._new = True
            size = os.fstat(self._fd).st_size
            if size < offset:
                os.close(self._fd)
                raise FileNotFoundError(errno.ENOENT, f"holds {size} bytes, not {offset}", str(path))
            if size > offset:
                os.ftruncate(self._fd, offset)
        self.offset = self.committed = offset

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes | bytearray) -> None:
        """Appends `data`. On StorageFull what did fit counts in `offset` and can be committed."""
        view = memoryview(data)
        with full_means_busy():
            while view:
                if self._unchecked >= FREE_CHECK_BYTES:
                    self._store.require_room(min(len(view), FREE_CHECK_BYTES))
                    self._unchecked = 0
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                self._unchecked += written
                view = view[written:]

    def copy(self, source: IO[bytes]) -> None:
        """Appends everything that `source` holds from its position on."""
        while data := source.read(COPY_BYTES):
            self.write(data)

    def rewind(self, offset: int) -> None:
        """Forgets what was written beyond `offset`."""
        os.ftruncate(self._fd, offset)
        self.offset = offset
        self.committed = min(self.committed, offset)

    def commit(self) -> int:
        """Makes everything written so far durable and returns the offset."""
        with full_means_busy():
            # Without the file's times, but with its size: that is all it takes to read the bytes back.
            os.fdatasync(self._fd)
            if self._new:
                sync_directory(self._path.parent)
                self._new = False
        self.committed = self.offset
        return self.offset

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
