"""Keeps the lines that could not be taken in, and beside them why: two files that are only ever appended to.

What stands behind the length that is committed is of a run that was cut off: it is written anew.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pisyncd.sources import lines

NAME_BYTES_MAX = 200
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line, counted from 1, was refused."""

    line: int
    code: str
    detail: str


def names(name: bytes, base: bytes) -> tuple[bytes, bytes]:
    """(file of the lines, file of the reasons) for a spooled file; the same for the same name and content."""
    stem = name.removesuffix(b".jsonl")[:NAME_BYTES_MAX] + b"-" + base.hex()[:8].encode()
    return stem + b".jsonl", stem + b".reasons"


def append(directory: int, name: bytes, length: int, data: Iterable[bytes]) -> int:
    """Cuts the file to `length`, appends, and makes it durable; gives the new length. Raises OSError."""
    descriptor = os.open(name, _FLAGS, 0o640, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or lines.fault(status):
            raise OSError(f"{os.fsdecode(name)!r} in the directory for refused lines is not a file of its own")
        # Somebody may have tidied up: no hole is made where the lines before were.
        length = min(length, status.st_size)
        os.ftruncate(descriptor, length)
        for block in data:
            view = memoryview(block)
            while view:
                written = os.pwrite(descriptor, view, length)
                view = view[written:]
                length += written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # A new name is durable only with its directory.
    os.fsync(directory)
    return length


def trim(directory: Path, bytes_max: int) -> int:
    """Removes the oldest files until the others have at most so many bytes together; gives how many went."""
    with contextlib.suppress(FileNotFoundError):
        found = [(path.lstat(), path) for path in directory.iterdir()]
        newest = sorted(((status.st_mtime_ns, status.st_size, path) for status, path in found), reverse=True)
        total = itertools.accumulate(size for _, size, _ in newest)
        old = [path for (_, _, path), through in zip(newest, total, strict=True) if through > bytes_max]
        for path in old:
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)
        return len(old)
    return 0


def told(reasons: Iterable[Reason]) -> Iterable[bytes]:
    """The reasons as lines of their own."""
    return (msgspec.json.encode(reason) + b"\n" for reason in reasons)
