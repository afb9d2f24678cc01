"""One watched root as the watcher keeps it: what is known of it, and when to look again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from pisyncd.config.schema import Settle, WatchRoot
from pisyncd.core import settle, wire
from pisyncd.core.settle import Ready, Sighting, Wait
from pisyncd.core.unsettled import Unsettled
from pisyncd.sources.inotify import LimitReached, Watches
from pisyncd.sources.tree import Identity, Report, Tree

log = structlog.get_logger()

MISSING_CHECK_S = 10.0
PRESENT_CHECK_S = 30.0
POLL_LEAST_S = 60.0
POLL_SHARE = 20
RETRY_BASE_S = 60.0
RETRY_CAP_S = 3600.0
OFFERED_MAX = 1024

Mode = Literal["starting", "inotify", "polling", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RootStatus:
    """How a root is watched. `warning` and `hint` are for a person, empty when all is well.

    watches: directories watched; settling: files and directories that are not quiet yet; scanned_ago_s: None before
    the first whole scan.
    """

    name: str
    path: Path
    mode: Mode
    watches: int
    warning: str
    hint: str
    settling: int
    scanned_ago_s: float | None


class Place:
    """A root, its watches, and its unsettled files. Times are monotonic seconds."""

    def __init__(self, root: WatchRoot, settings: Settle, avoid: Iterable[Path], chance: Callable[[], float]) -> None:
        self.root = root
        self.name = root.name
        self.tree = Tree(root, avoid)
        self.unsettled = Unsettled(debounce_s=settings.debounce_s, force_s=settings.force_s)
        self.watches: Watches | None = None
        self.appeared: list[bytes] = []
        self.check_due_s = 0.0
        self.scan_due_s = 0.0
        self._settings = settings
        self._chance = chance
        self._identity: Identity | None = None
        self._mode: Mode = "starting"
        self._limit: LimitReached | None = None
        self._watch_due_s = 0.0
        self._failures = 0
        self._warning = ""
        self._hint = ""
        self._scanned_s: float | None = None
        self._offered_s: dict[bytes, float] = {}
        self._listening: asyncio.AbstractEventLoop | None = None

    @property
    def present(self) -> bool:
        return self._identity is not None

    def status(self, now_s: float) -> RootStatus:
        return RootStatus(
            name=self.name,
            path=self.root.path,
            mode=self._mode,
            watches=len(self.watches) if self.watches else 0,
            warning=self._warning,
            hint=self._hint,
            settling=len(self.unsettled),
            scanned_ago_s=None if self._scanned_s is None else now_s - self._scanned_s,
        )

    def pause_s(self, now_s: float) -> float:
        """Seconds until something is due here."""
        pauses = [self.check_due_s - now_s]
        if self.present:
            pauses.append(self.scan_due_s - now_s)
            if (settling_s := self.unsettled.next_s(now_s)) is not None:
                pauses.append(settling_s)
            if self.appeared:
                pauses.append(0.0)
        return max(0.0, min(pauses))

    def check(self, now_s: float) -> None:
        """Is the root there, and is it still the same directory? A disk that was unplugged, plugged in or mounted
        over it makes it another one, whose watches and files are not those that are known."""
        identity = self.tree.identity()
        self.check_due_s = now_s + (MISSING_CHECK_S if identity is None else PRESENT_CHECK_S)
        if identity == self._identity and (identity is not None or self._mode == "missing"):
            return
        self._detach()
        self._identity = identity
        self.scan_due_s = now_s
        if identity is None:
            self._mode = "missing"
            self._warn(f"{self.root.path} is not there", "nothing to do if it is unplugged; it is waited for")
            log.info("watch.waited", root=self.name, path=str(self.root.path))
        else:
            self._mode = "starting"
            self._warn("", "")

    def lose(self, now_s: float) -> None:
        """The watched directory is gone. A new one in its place may well have its inode."""
        self._detach()
        self._identity = None
        self.check(now_s)

    def attach(self, now_s: float) -> None:
        """Begins to watch, unless the kernel refused a short while ago. Raises OSError."""
        if self.watches is not None or now_s < self._watch_due_s:
            return
        try:
            self.watches = Watches(self.tree.path)
        except LimitReached as limit:
            self._limit = limit
            self.settle_limit(now_s)

    def enter(self, directory: bytes) -> None:
        """Watches a directory that is about to be read; called in the scanning thread."""
        if self.watches is None or self._limit is not None:
            return
        try:
            self.watches.add(directory)
        except LimitReached as limit:
            self._limit = limit

    def settle_limit(self, now_s: float) -> None:
        """Falls back to polling if the kernel granted no more watches."""
        limit, self._limit = self._limit, None
        if limit is None:
            return
        self._detach()
        self._watch_due_s = now_s + self._rescan_s()
        self._warn(f"the kernel grants no more inotify watches ({limit.strerror}); it is polled", limit.hint)
        log.warning("watch.limited", root=self.name, error=limit.strerror, hint=limit.hint)

    def scanned(self, report: Report, started_s: float, now_s: float) -> None:
        """A scan of the whole root has ended."""
        self._scanned_s = now_s
        self._failures = 0
        self._mode = "inotify" if self.watches is not None else "polling"
        pause_s = self._rescan_s()
        if self.watches is None:
            pause_s = min(pause_s, max(POLL_LEAST_S, POLL_SHARE * (now_s - started_s)))
        self.scan_due_s = now_s + pause_s
        if self.watches is not None:
            self._warn_unreadable(report)
        log.info(
            "scan.completed",
            root=self.name,
            mode=self._mode,
            files=report.files,
            directories=report.directories,
            unreadable=report.unreadable_count,
            duration_s=round(now_s - started_s, 3),
        )

    def stumble(self, error: OSError, now_s: float) -> None:
        """Watching failed: try again after 1 min, 2 min ... 1 h, each time with a scan."""
        self._detach()
        self.check(now_s)
        if not self.present:
            return
        self._failures += 1
        pause_s = min(RETRY_BASE_S * 2 ** min(self._failures - 1, 10), RETRY_CAP_S)
        self.scan_due_s = now_s + pause_s
        self._mode = "polling"
        hint = "let the user pisync read it" if isinstance(error, PermissionError) else "check the disk"
        self._warn(f"{self.root.path} cannot be read: {error.strerror}", hint)
        log.warning("watch.failed", root=self.name, error=str(error), retry_s=pause_s)

    def note(self, path: bytes, now_s: float, *, kept_open: bool) -> None:
        """A file was written to."""
        if self.tree.filter.takes(path):
            self.unsettled.note(path, now_s, kept_open=kept_open)

    def enters(self, directory: bytes) -> bool:
        """Whether a directory that appeared in a watched one is to be read."""
        return not directory or self.tree.filter.enters(directory)

    def look(self, paths: Iterable[bytes]) -> dict[bytes, Sighting]:
        """What these files are now; for a thread. Missing from the answer: gone, or not to be sent."""
        names: dict[bytes, list[bytes]] = {}
        for path in paths:
            directory, _, name = path.rpartition(b"/")
            names.setdefault(directory, []).append(name)
        found: dict[bytes, Sighting] = {}
        for directory, inside in names.items():
            try:
                sightings = self.tree.look(directory, inside)
            except OSError:
                continue  # gone with its directory
            prefix = directory + b"/" if directory else b""
            found.update({prefix + name: sighting for name, sighting in sightings.items()})
        return found

    def judge_again(self, path: bytes, now_s: float) -> Ready | Wait:
        """A database, or a file that is kept open, is captured once per force_s at most."""
        return settle.judge_again(now_s=now_s, offered_s=self._offered_s.get(path), interval_s=self._settings.force_s)

    def offered(self, sightings: Sequence[Sighting], kept_open: set[bytes], now_s: float) -> None:
        """These were offered; remembers those that must not be offered again too soon."""
        for sighting in sightings:
            if sighting.kind == "sqlite" or sighting.path in kept_open:
                self._offered_s[sighting.path] = now_s
        if len(self._offered_s) > OFFERED_MAX:
            recent = {path: at for path, at in self._offered_s.items() if now_s - at < self._settings.force_s}
            self._offered_s = dict(list(recent.items())[-OFFERED_MAX:])

    def listen(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Calls `wake` once when the kernel has something to tell."""
        if self.watches is None or self._listening is not None:
            return
        descriptor = self.watches.fd

        def heard() -> None:
            loop.remove_reader(descriptor)
            self._listening = None
            wake()

        loop.add_reader(descriptor, heard)
        self._listening = loop

    def close(self) -> None:
        self._detach()

    def _detach(self) -> None:
        if self.watches is None:
            return
        if self._listening is not None:
            self._listening.remove_reader(self.watches.fd)
            self._listening = None
        self.watches.close()
        self.watches = None
        self.appeared = []

    def _rescan_s(self) -> float:
        return self._settings.rescan_s * (0.75 + 0.5 * self._chance())

    def _warn(self, warning: str, hint: str) -> None:
        self._warning, self._hint = warning, hint

    def _warn_unreadable(self, report: Report) -> None:
        if not report.unreadable:
            self._warn("", "")
            return
        path, reason = report.unreadable[0]
        self._warn(
            f"{report.unreadable_count} places cannot be read, the first is {wire.display_path(path)}: {reason}",
            "let the user pisync read them, or exclude them",
        )
