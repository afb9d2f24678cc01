"""Reads a JSON lines file piece by piece, in bounded memory, so that it can go on where it was after a power cut.

Only regular files with one name are read: what a link, a pipe or a second name leads to is not what was put here.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

PIECE_BYTES = 256 * 1024
PIECE_LINES = 100
LINE_BYTES_MAX = 64 * 1024
TAIL_BYTES = 4096
BLOCK_BYTES = 1024 * 1024

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRead(Exception):
    """This is not a file that is read; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """How far a file is read. `base` stands for its content at first sight, `tail` for what is before offset."""

    inode: int
    size: int
    base: bytes
    tail: bytes
    offset: int = 0
    lines: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The next lines without their ends, the mark after them, and whether that is the end of the file.

    A line that is too long stands in no piece with others: `lines` is empty, it lies between the two marks.
    """

    lines: list[bytes]
    after: Mark
    too_long: bool = False

    @property
    def at_end(self) -> bool:
        """Whether nothing follows."""
        return self.after.offset >= self.after.size


def open_file(directory: int, name: bytes) -> int:
    """A descriptor. Raises NotRead, OSError."""
    descriptor = os.open(name, _FLAGS, dir_fd=directory)
    try:
        if reason := fault(os.fstat(descriptor)):
            raise NotRead(reason)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def fault(status: os.stat_result) -> str:
    """Why this is not read, '' when it is."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    # Somebody who may not read a file can still give it a second name here.
    return "" if status.st_nlink == 1 else "it has a second name elsewhere (a hard link)"


def begin(descriptor: int, beat: Callable[[], None]) -> Mark:
    """The mark before the first line. Reads the file once; `beat` is called for each MiB."""
    whole = hashlib.blake2b(digest_size=16)
    offset = 0
    while block := os.pread(descriptor, BLOCK_BYTES, offset):
        whole.update(block)
        offset += len(block)
        beat()
    status = os.fstat(descriptor)
    return Mark(inode=status.st_ino, size=status.st_size, base=whole.digest(), tail=_tail(descriptor, 0))


def goes_on(descriptor: int, mark: Mark) -> bool:
    """Whether this is the file of the mark, unchanged up to there; it may have grown."""
    status = os.fstat(descriptor)
    same = status.st_ino == mark.inode and status.st_size >= mark.offset
    return same and _tail(descriptor, mark.offset) == mark.tail


def read(descriptor: int, mark: Mark, beat: Callable[[], None]) -> Piece:
    """What follows the mark: some whole lines, one that is too long, or nothing. Raises OSError."""
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, PIECE_BYTES, mark.offset)
    last = mark.offset + len(data) >= size
    lines: list[bytes] = []
    used = 0
    while used < len(data) and len(lines) < PIECE_LINES:
        end = data.find(b"\n", used)
        if end < 0 and not last:
            break
        end = len(data) if end < 0 else end
        if end - used > LINE_BYTES_MAX:
            break
        lines.append(data[used:end].removesuffix(b"\r"))
        used = end + 1
    if not lines and data:
        return _too_long(descriptor, mark, size, beat)
    return Piece(lines=lines, after=_after(descriptor, mark, min(mark.offset + used, size), len(lines), size))


def _too_long(descriptor: int, mark: Mark, size: int, beat: Callable[[], None]) -> Piece:
    offset, end = mark.offset, -1
    while end < 0 and (block := os.pread(descriptor, BLOCK_BYTES, offset)):
        beat()
        if (found := block.find(b"\n")) >= 0:
            end = offset + found + 1
        offset += len(block)
    return Piece(lines=[], too_long=True, after=_after(descriptor, mark, end if end >= 0 else offset, 1, size))


def _after(descriptor: int, mark: Mark, offset: int, lines: int, size: int) -> Mark:
    return Mark(
        inode=mark.inode,
        size=max(size, offset),
        base=mark.base,
        tail=_tail(descriptor, offset),
        offset=offset,
        lines=mark.lines + lines,
    )


def _tail(descriptor: int, offset: int) -> bytes:
    begin_at = max(0, offset - TAIL_BYTES)
    return hashlib.blake2b(os.pread(descriptor, offset - begin_at, begin_at), digest_size=16).digest()


def remove(directory: int, name: bytes, mark: Mark) -> bool:
    """Removes a file that is read to its end; False when more was written to it meanwhile. Raises OSError."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if status.st_ino != mark.inode or status.st_size != mark.offset:
        return False
    os.unlink(name, dir_fd=directory)
    return True
