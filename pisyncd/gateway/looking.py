"""What the disk says of a path. A disk that does not answer must not hold up the technician."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pisyncd.config import WatchRoot

_T = TypeVar("_T")

LOOK_S = 3.0
_COMPANIONS = (b"-wal", b"-shm", b"-journal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the disk says. `kind`: file, directory, special, symlink, missing, or unreadable with a `fault`."""

    kind: str
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    link: bytes = b""
    fault: str = ""
    beside_database: bool = False
    root_there: bool = True


async def root_above(roots: Sequence[WatchRoot], path: bytes) -> tuple[WatchRoot, bytes] | None:
    """The root that an absolute path lies below, and the path below it; None when it lies below none."""
    plain = os.path.normpath(path).replace(b"//", b"/")
    found = _below(roots, [os.fsencode(root.path) for root in roots], plain)
    return found or await _in_time(_below_really, roots, plain)


def _below(roots: Sequence[WatchRoot], bases: Sequence[bytes], path: bytes) -> tuple[WatchRoot, bytes] | None:
    for root, base in zip(roots, bases, strict=True):
        plain = base.rstrip(b"/")
        if path == plain or path.startswith(plain + b"/"):
            return root, path[len(plain) + 1 :]
    return None


def _below_really(roots: Sequence[WatchRoot], path: bytes) -> tuple[WatchRoot, bytes] | None:
    """The same when the root or the path is written through a link, such as /home -> /data/home."""
    above, _, name = path.rpartition(b"/")
    bases = [os.path.realpath(os.fsencode(root.path)) for root in roots]
    return _below(roots, bases, os.path.realpath(above) + b"/" + name)


async def look(root: WatchRoot, relative: bytes) -> Found:
    """What is at `relative` below the root."""
    found = await _in_time(_look_now, os.fsencode(root.path), relative)
    return found or Found(kind="unreadable", fault="the disk does not answer")


async def _in_time(look: Callable[..., _T], *args: object) -> _T | None:
    try:
        return await asyncio.wait_for(asyncio.to_thread(look, *args), LOOK_S)
    except TimeoutError:
        return None


def _look_now(base: bytes, relative: bytes) -> Found:
    if not _is(base, stat.S_ISDIR):
        return Found(kind="missing", root_there=False)
    if not relative:
        return Found(kind="directory")
    parts = relative.split(b"/")
    try:
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            if stat.S_ISLNK(os.lstat(base + b"/" + above).st_mode):
                return Found(kind="symlink", link=above)
        status = os.lstat(base + b"/" + relative)
    except (FileNotFoundError, NotADirectoryError):
        return Found(kind="missing")
    except (OSError, ValueError) as error:
        return Found(kind="unreadable", fault=(getattr(error, "strerror", None) or "not a possible name").lower())
    if stat.S_ISLNK(status.st_mode):
        return Found(kind="symlink", link=relative)
    if stat.S_ISDIR(status.st_mode):
        return Found(kind="directory")
    return Found(
        kind="file" if stat.S_ISREG(status.st_mode) else "special",
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        beside_database=any(
            relative.endswith(end) and _is(base + b"/" + relative.removesuffix(end), stat.S_ISREG)
            for end in _COMPANIONS
        ),
    )


def _is(path: bytes, test: Callable[[int], bool]) -> bool:
    try:
        return test(Path(os.fsdecode(path)).stat().st_mode)
    except (OSError, ValueError):
        return False
