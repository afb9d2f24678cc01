"""Takes in JSON lines files that are moved into the spool directory, each line once, and removes them.

What was moved here is whole; what was written here has to be quiet first. A file that cannot be taken in for want of
room stays where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask

from pisyncd.core import wire
from pisyncd.core.errors import StorageBusy
from pisyncd.outbox import Outbox
from pisyncd.outbox.spooled import Line, Progress, judge
from pisyncd.runtime.activity import Wake, beat
from pisyncd.sources import lines, refused
from pisyncd.sources.lines import NotRead, Piece

log = structlog.get_logger()

SUFFIX = b".jsonl"
REFUSED = "rejected"
RESCAN_S = 60.0
QUIET_S = 10.0
PAUSE_S = 30.0
PIECES_MAX = 10
FILES_MAX = 1000

_Print = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolStatus:
    """`files` wait; `paused` says why nothing is taken in, '' when it is; `refused` lines since the start."""

    files: int = 0
    paused: str = ""
    refused: int = 0


class Spool:
    """One step takes in a bounded number of pieces."""

    name = "spool"
    deadline_s = 300.0

    def __init__(self, outbox: Outbox, directory: Path) -> None:
        self.wake = Wake()
        self.status = SpoolStatus()
        self._outbox = outbox
        self._directory = directory
        self._ear = _Ear(directory)
        self._seen: dict[bytes, tuple[_Print, float]] = {}
        self._moved: set[bytes] = set()
        self._passed_over: set[bytes] = set()
        self._refused = 0
        self._paused = ""

    async def step(self) -> float:
        """Seconds until the next look; 0 while there is more to take in."""
        self._moved |= set(self._ear.heard())
        try:
            await asyncio.to_thread(make, self._directory)
            self._ear.attach()
            names, wait_s = await asyncio.to_thread(self._look)
            more = await self._work(names)
        except OSError as error:
            self._pause(f"{self._directory}: {(error.strerror or str(error)).lower()}", files=0)
            return PAUSE_S
        self._ear.listen(self.wake)
        if self._paused:
            return PAUSE_S
        return 0.0 if more else wait_s

    async def sweep(self) -> None:
        """Takes in all that is there, quiet or not (`pisyncd once`)."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(make, self._directory)
            names, _ = await asyncio.to_thread(self._look)
            waiting = [*names, *self._seen]
            while await self._work(waiting) and not self._paused:
                beat()

    def close(self) -> None:
        """Gives back the watch."""
        self._ear.close()

    def _look(self) -> tuple[list[bytes], float]:
        """The files whose turn it is, and the seconds until another one may be quiet."""
        now_s = self._outbox.db.now_ms() / 1000
        found = dict(self._files())
        self._seen = {name: self._since(name, print_, now_s) for name, print_ in found.items()}
        self._moved &= found.keys()
        quiet_in = {name: since + QUIET_S - now_s for name, (_, since) in self._seen.items()}
        ready = sorted(name for name, wait_s in quiet_in.items() if wait_s <= 0 or name in self._moved)
        waits = [wait_s for wait_s in quiet_in.values() if wait_s > 0]
        return ready, min([RESCAN_S, *waits])

    def _since(self, name: bytes, print_: _Print, now_s: float) -> tuple[_Print, float]:
        before = self._seen.get(name)
        return before if before is not None and before[0] == print_ else (print_, now_s)

    def _files(self) -> Iterator[tuple[bytes, _Print]]:
        passed_over: set[bytes] = set()
        count = 0
        with os.scandir(os.fsencode(self._directory)) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX) or entry.name.startswith(b"."):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if reason := lines.fault(status):
                    passed_over.add(entry.name)
                    if entry.name not in self._passed_over:
                        log.warning("spool.passed_over", file=wire.display_path(entry.name), reason=reason)
                    continue
                yield entry.name, (status.st_ino, status.st_size, status.st_mtime_ns)
                count += 1
                if count >= FILES_MAX:
                    break
        self._passed_over = passed_over

    async def _work(self, names: list[bytes]) -> bool:
        """Whether there is more to do at once."""
        self._paused = ""
        left = PIECES_MAX
        for index, name in enumerate(names):
            while left > 0 and not self._paused and await self._advance(name):
                left -= 1
                beat()
            if left <= 0 or self._paused:
                self._note(len(names) - index)
                return not self._paused
        self._note(len(self._seen))
        await self._forget_gone()
        return False

    async def _advance(self, name: bytes) -> bool:
        """Takes in one piece of a file; whether there is another."""
        known = await self._outbox.spooled.progress(name)
        with opened(self._directory) as directory:
            try:
                descriptor = await asyncio.to_thread(lines.open_file, directory, name)
            except (NotRead, FileNotFoundError):
                self._seen.pop(name, None)
                return False
            except OSError as error:
                # One file that cannot be read must not hold up the others.
                log.warning("spool.unreadable", file=wire.display_path(name), error=error.strerror)
                return False
            try:
                before = await asyncio.to_thread(_resume, descriptor, name, known)
                if before.done and before.mark.offset >= os.fstat(descriptor).st_size:
                    return await self._finish(directory, before)
                return await self._take(directory, descriptor, before)
            finally:
                os.close(descriptor)

    async def _take(self, directory: int, descriptor: int, before: Progress) -> bool:
        piece, judged = await asyncio.to_thread(_read, descriptor, before)
        try:
            with opened(self._directory / REFUSED, os.O_NOFOLLOW) as for_refused:
                # Members of the group may write here: a link that took its place would lead elsewhere.
                after = await self._outbox_takes(for_refused, descriptor, before, piece, judged)
        except StorageBusy as error:
            self._pause(error.detail, files=len(self._seen))
            return False
        if isinstance(after, str):
            self._pause(f"there is no room ({after})", files=len(self._seen))
            return False
        self._refused += after.refused - before.refused
        return await self._finish(directory, after) if after.done else True

    async def _outbox_takes(
        self, directory: int, descriptor: int, before: Progress, piece: Piece, judged: list[Line]
    ) -> Progress | str:
        if piece.too_long:
            return await self._refuse(directory, descriptor, before, piece)
        return await self._outbox.spooled.take(before, judged, piece.after, directory, at_end=piece.at_end)

    async def _refuse(self, directory: int, descriptor: int, before: Progress, piece: Piece) -> Progress:
        """A line that is too long for memory is copied on its own, before it is counted."""
        detail = f"at most {lines.LINE_BYTES_MAX} bytes in a line"
        reason = refused.Reason(line=piece.after.lines, code="line-too-long", detail=detail)
        names = refused.names(before.name, before.mark.base)

        def copy() -> tuple[int, int]:
            blocks = _blocks(descriptor, before.mark.offset, piece.after.offset, self._check_room)
            length = refused.append(directory, names[0], before.refused_bytes, blocks)
            return length, refused.append(directory, names[1], before.reasons_bytes, refused.told([reason]))

        lengths = await asyncio.to_thread(copy)
        return await self._outbox.spooled.refuse(before, reason, lengths, piece.after, at_end=piece.at_end)

    def _check_room(self) -> None:
        beat()
        if not self._outbox.intake.has_room():
            raise StorageBusy("the disk is below its floor", code="storage-full")

    async def _finish(self, directory: int, progress: Progress) -> bool:
        """All lines are committed: the file goes. Whether more was written to it meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            if not await asyncio.to_thread(lines.remove, directory, progress.name, progress.mark):
                return True
        await self._outbox.spooled.forget(progress.name)
        self._seen.pop(progress.name, None)
        self._moved.discard(progress.name)
        taken = progress.mark.lines - progress.refused
        log.info("spool.taken", file=wire.display_path(progress.name), lines=taken, refused=progress.refused)
        return False

    async def _forget_gone(self) -> None:
        """Files that were begun and that somebody took away."""
        for name in await self._outbox.spooled.names():
            if name not in self._seen:
                await self._outbox.spooled.forget(name)

    def _pause(self, reason: str, *, files: int) -> None:
        if reason != self.status.paused:
            log.warning("spool.paused", reason=reason)
        self._paused = reason
        self._note(files)

    def _note(self, files: int) -> None:
        self.status = SpoolStatus(files=files, paused=self._paused, refused=self._refused)


class _Ear:
    """Hears what is moved into the directory. Where the kernel grants no watch, looking again finds it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._inotify: Inotify | None = None
        self._identity: tuple[int, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Watches the directory that is there now. Raises OSError."""
        status = self._directory.stat()
        if self._inotify is not None and self._identity == (status.st_dev, status.st_ino):
            return
        self.close()
        try:
            inotify = Inotify(cache_size=16)
            os.set_blocking(inotify.fd, False)
            inotify.add_watch(self._directory, Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.ONLYDIR)
        except OSError as error:
            log.warning("spool.unwatched", error=error.strerror)
            return
        self._inotify, self._identity = inotify, (status.st_dev, status.st_ino)

    def heard(self) -> list[bytes]:
        """The names that were moved here since the last time."""
        moved: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while self._inotify is not None and (event := self._inotify.sync_get()) is not None:
                if event.mask & Mask.IGNORED:
                    # The directory is gone; another one in its place may well have its inode.
                    self.close()
                elif event.name is not None and event.mask & Mask.MOVED_TO:
                    moved.append(os.fsencode(event.name))
        return moved

    def listen(self, wake: Wake) -> None:
        """Sets `wake` once when there is something to hear."""
        if self._inotify is None or self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fd, self._told, wake)

    def _told(self, wake: Wake) -> None:
        self._silence()
        wake.set()

    def _silence(self) -> None:
        if self._loop is not None and self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
        self._loop = None

    def close(self) -> None:
        """Gives the watch back."""
        self._silence()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None


def make(directory: Path) -> None:
    """The directory and the one for refused lines, open to the group. Raises OSError."""
    for each in (directory, directory / REFUSED):
        if not each.is_dir():
            each.mkdir(parents=True, exist_ok=True)
            # Whatever the umask is: members of the group move files in.
            each.chmod(0o770)


@contextlib.contextmanager
def opened(directory: Path, more: int = 0) -> Iterator[int]:
    """A descriptor of a directory. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | more)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _resume(descriptor: int, name: bytes, known: Progress | None) -> Progress:
    if known is not None and lines.goes_on(descriptor, known.mark):
        return known
    return Progress(name=name, mark=lines.begin(descriptor, beat))


def _read(descriptor: int, before: Progress) -> tuple[Piece, list[Line]]:
    piece = lines.read(descriptor, before.mark, beat)
    first = before.mark.lines + 1
    judged = [judge(raw, before.mark.base, number) for number, raw in enumerate(piece.lines, first)]
    return piece, [line for line in judged if line is not None]


def _blocks(descriptor: int, begin: int, end: int, check: Callable[[], None]) -> Iterator[bytes]:
    while begin < end and (block := os.pread(descriptor, min(lines.BLOCK_BYTES, end - begin), begin)):
        check()
        yield block
        begin += len(block)
