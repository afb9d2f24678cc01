"""Finds new and changed files and offers them to the outbox once they are quiet.

inotify tells at once; a scan of the whole root when it appears, and again every rescan_s, is what is relied on. Events
that were dropped, and more changes than are worth remembering, lead to a scan of the part they were in. A root that
the kernel will not watch is polled, and says so; a missing root is waited for. Only the scan finds what the kernel does
not tell: writes to a file under another of its names (hard links), and on a network file system those of others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from pisyncd.activities.place import Place, RootStatus
from pisyncd.config.schema import Settle, WatchRoot
from pisyncd.core import settle, wire
from pisyncd.core.errors import TransientError
from pisyncd.core.settle import Ready, Sighting
from pisyncd.core.unsettled import Entry
from pisyncd.runtime.activity import Wake
from pisyncd.sources.inotify import Notice
from pisyncd.sources.tree import BATCH_MAX, Report

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

COALESCE_S = 0.02
APPEARED_MAX = 128


class Clock(Protocol):
    """The two clocks that matter here; runtime.clock.Clock is one."""

    def boottime_ms(self) -> int: ...
    def wall_ms(self) -> int: ...


class Counted(Protocol):
    """What a batch came to."""

    @property
    def new(self) -> int: ...
    @property
    def changed(self) -> int: ...


class Files(Protocol):
    """Where sightings go; outbox.files.Files is one."""

    async def add(self, sightings: Sequence[Sighting]) -> Counted: ...


class Watcher:
    """An activity: step() reads what the kernel tells, scans what is due, offers what is quiet."""

    name = "watcher"

    def __init__(
        self,
        roots: Iterable[WatchRoot],
        settings: Settle,
        files: Files,
        clock: Clock,
        *,
        wake_uploader: Callable[[], None],
        avoid: Iterable[Path] = (),
        beat: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
        deadline_s: float = 60.0,
    ) -> None:
        """`avoid`: PiSync's own directories and files; `beat` tells of progress inside a long step."""
        self.wake = Wake()
        self.deadline_s = deadline_s
        self._files = files
        self._clock = clock
        self._wake_uploader = wake_uploader
        self._avoid = tuple(avoid)
        self._beat = beat
        self._chance = chance
        self._settings = settings
        self._places: dict[str, Place] = {}
        # A thread of its own: large files that are being hashed may occupy the shared ones for minutes.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="watcher")
        self.configure(roots, settings)

    def configure(self, roots: Iterable[WatchRoot], settings: Settle) -> None:
        """Takes new settings. Roots that stay as they were are not read anew."""
        wanted = {root.name: root for root in roots}
        for name, place in list(self._places.items()):
            if wanted.get(name) != place.root or settings != self._settings:
                self._places.pop(name).close()
        self._settings = settings
        for name, root in wanted.items():
            if name not in self._places:
                self._places[name] = Place(root, settings, self._avoid, self._chance)
        self._places = {name: self._places[name] for name in wanted}
        self.wake.set()

    def look_again(self) -> None:
        """Every root is read anew now."""
        for place in self._places.values():
            place.scan_due_s = self._now_s()
        self.wake.set()

    @property
    def status(self) -> list[RootStatus]:
        """How each root is watched, in the order of the configuration."""
        now_s = self._now_s()
        return [place.status(now_s) for place in self._places.values()]

    def settling_s(self, root: str, path: bytes) -> float | None:
        """Seconds until a changed file is looked at; None when it is not waiting to settle."""
        place = self._places.get(root)
        entry = place.unsettled.get(path) if place else None
        return None if entry is None else max(0.0, entry.due_s - self._now_s())

    def close(self) -> None:
        """Gives back all watches."""
        for place in self._places.values():
            place.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def step(self) -> float:
        """Seconds until the next look, at most 30."""
        pauses = [await self._tend(place) for place in list(self._places.values())]
        return max(0.001, min(pauses, default=3600.0))

    async def sweep(self) -> None:
        """Reads every root once and offers every file in it, quiet or not (`pisyncd once`)."""
        for place in list(self._places.values()):
            place.check(self._now_s())
            if place.present:
                await self._scan(place, b"", self._now_s(), forced=True)

    async def _tend(self, place: Place) -> float:
        try:
            if place.check_due_s <= self._now_s():
                place.check(self._now_s())
            heard = self._hear(place)
            if place.present:
                await self._scan_all(place)
                await self._scan_appeared(place)
                await self._look_at_due(place)
            self._listen(place, COALESCE_S if heard else 0.0)
        except OSError as error:
            place.stumble(error, self._now_s())
        return place.pause_s(self._now_s())

    def _hear(self, place: Place) -> int:
        """Notes what the kernel tells. Gives how many notices there were."""
        if place.watches is None:
            return 0
        now_s, count, lost = self._now_s(), 0, False
        for notice, path in place.watches.read():
            count += 1
            match notice:
                case Notice.FINISHED:
                    place.note(path, now_s, kept_open=False)
                case Notice.TOUCHED:
                    place.note(path, now_s, kept_open=True)
                case Notice.APPEARED:
                    place.appeared.append(path)
                case Notice.OVERFLOWED:
                    log.warning("watch.overflowed", root=place.name)
                    place.unsettled.note_whole(b"", now_s)
                case Notice.LOST:
                    lost = True
        if lost:
            place.lose(now_s)
        return count

    def _listen(self, place: Place, after_s: float) -> None:
        """Wakes this activity with the next event. Waiting a moment lets a burst be read in one go."""
        loop = asyncio.get_running_loop()
        if after_s:
            loop.call_later(after_s, place.listen, loop, self.wake.set)
        else:
            place.listen(loop, self.wake.set)

    async def _scan_all(self, place: Place) -> None:
        """The whole root, if it is time."""
        started_s = self._now_s()
        if place.scan_due_s > started_s:
            return
        place.attach(started_s)
        report = await self._scan(place, b"", started_s)
        place.scanned(report, started_s, self._now_s())

    async def _scan_appeared(self, place: Place) -> None:
        """New directories: whatever was made in them before they were watched is found by reading them."""
        appeared, place.appeared = sorted(set(place.appeared)), []
        if len(appeared) > APPEARED_MAX:
            appeared = [b""]
        inside: bytes | None = None
        for directory in appeared:
            if inside is not None and directory.startswith(inside):
                continue
            inside = directory + b"/"
            try:
                if place.enters(directory):
                    await self._scan(place, directory, self._now_s())
            except OSError as error:
                if not directory:
                    raise
                log.info("watch.passed_over", root=place.name, path=wire.display_path(directory), error=error.strerror)
            except TransientError:
                place.appeared = appeared
                raise

    async def _scan(self, place: Place, under: bytes, first_s: float, *, forced: bool = False) -> Report:
        """Offers what is quiet below a directory; remembers what is not. `forced` offers all of it."""
        report = Report()
        batches = place.tree.scan(under, enter=place.enter, report=report)
        while batch := await self._in_thread(_next, batches):
            ready = batch if forced else [each for each in batch if self._is_quiet(place, each, first_s)]
            await self._offer(place, ready)
            self._hear(place)
            self._beat()
        place.settle_limit(self._now_s())
        return report

    def _is_quiet(self, place: Place, sighting: Sighting, first_s: float) -> bool:
        now_s = self._now_s()
        verdict = settle.judge_found(mtime_age_s=self._age_s(sighting), debounce_s=self._settings.debounce_s)
        if isinstance(verdict, Ready) and sighting.kind == "sqlite":
            verdict = place.judge_again(sighting.path, now_s)
        if isinstance(verdict, Ready):
            return True
        place.unsettled.wait(sighting.path, first_s, now_s, verdict.seconds)
        return False

    async def _look_at_due(self, place: Place) -> None:
        """Directories that are quiet are read as a whole; files are looked at one by one."""
        due = place.unsettled.due(self._now_s())
        for path, entry in due:
            if entry.whole:
                await self._scan_whole(place, path, entry)
        files = [(path, entry, entry.last_s) for path, entry in due if not entry.whole]
        for start in range(0, len(files), BATCH_MAX):
            await self._offer_quiet(place, files[start : start + BATCH_MAX])

    async def _scan_whole(self, place: Place, directory: bytes, entry: Entry) -> None:
        place.unsettled.drop(directory, entry)  # what is noticed from now on is a new matter
        forced = self._now_s() - entry.first_s >= self._settings.force_s
        try:
            await self._scan(place, directory, entry.first_s, forced=forced)
        except OSError:
            if not directory:
                raise
        except BaseException:
            place.unsettled.note_whole(directory, self._now_s())
            raise

    async def _offer_quiet(self, place: Place, files: Sequence[tuple[bytes, Entry, float]]) -> None:
        found = await self._in_thread(place.look, [path for path, _, _ in files])
        now_s = self._now_s()
        ready: dict[bytes, Sighting] = {}
        for path, entry, _ in files:
            if path not in found:
                place.unsettled.drop(path, entry)
                continue
            verdict = settle.judge(
                now_s=now_s,
                first_s=entry.first_s,
                last_s=entry.last_s,
                mtime_age_s=self._age_s(found[path]),
                debounce_s=self._settings.debounce_s,
                force_s=self._settings.force_s,
            )
            if isinstance(verdict, Ready) and (entry.kept_open or found[path].kind == "sqlite"):
                verdict = place.judge_again(found[path].path, now_s)
            if isinstance(verdict, Ready):
                ready[path] = found[path]
            else:
                entry.due_s = now_s + verdict.seconds
        once = {sighting.path: sighting for sighting in ready.values()}  # a database and its -wal are one
        await self._offer(place, list(once.values()), [path for path, entry, _ in files if entry.kept_open])
        for path, entry, last_s in files:
            if path in ready and entry.last_s == last_s:
                place.unsettled.drop(path, entry)

    async def _offer(self, place: Place, sightings: Sequence[Sighting], kept_open: Iterable[bytes] = ()) -> None:
        if not sightings:
            return
        added = await self._files.add(sightings)
        place.offered(sightings, set(kept_open), self._now_s())
        if added.new or added.changed:
            self._wake_uploader()

    async def _in_thread(self, call: Callable[[T], R], argument: T) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, argument)

    def _now_s(self) -> float:
        return self._clock.boottime_ms() / 1000

    def _age_s(self, sighting: Sighting) -> float:
        return (self._clock.wall_ms() - sighting.mtime_ns // 1_000_000) / 1000


def _next(batches: Iterator[list[Sighting]]) -> list[Sighting] | None:
    return next(batches, None)
