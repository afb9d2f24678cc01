"""Puts captured events on disk at once: in the caller's thread while the disk is quick, in one of its own otherwise.

A thread of its own never makes the caller wait for a disk, but being waited for by the caller it costs two changes of
thread, which on a busy device are most of the time that a capture takes.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from pisyncd.client.events import Event, Spoiled, now_rfc3339
from pisyncd.client.queuefile import StoreTrouble
from pisyncd.client.rules import BEHAVIOUR
from pisyncd.client.store import Store
from pisyncd.client.views import Problem

TOGETHER_MAX = 200
#: So many captures may wait in memory while the disk does not answer; behavioural events up to half of it.
INBOX_MAX = 2000
#: The caller waits so long for another process's transaction; the thread tries again until BUSY_GIVE_UP_S.
BUSY_S = 0.01
BUSY_GIVE_UP_S = 5.0
#: A write that took longer than SLOW_S: no caller does it itself for CALM_S.
SLOW_S = 0.02
CALM_S = 10.0
DISK_HINT = "free some space, or let the application write there; until then events are kept in memory only"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Captured:
    """What one call captured. `kept` is set when it is on disk: True, or False when it is in memory only."""

    events: Sequence[Event]
    spoiled: Sequence[Spoiled]
    kept: Future[bool]


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """A mark in the stream of captures: `then` is called when all before it is kept."""

    then: Callable[[], None]


class Writer:
    """Takes from `put`, writes to `disk`, to `spare` (memory) when the disk fails; `grown(events)` after each write."""

    def __init__(self, disk: Store, spare: Store, grown: Callable[[int], None]) -> None:
        self._disk = disk
        self._spare = spare
        self._grown = grown
        # Its put() takes no lock that a signal handler or another thread could be holding.
        self._inbox: queue.SimpleQueue[Captured | Passed | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._putting, self._dropping = itertools.count(1), itertools.count(1)
        self._put = self._taken = self._dropped = self._told = 0
        # Not before the thread has opened the file, which may take a while.
        self._quick_from: float | None = None
        #: The thread has opened the queue, or has found that it cannot.
        self.opened = threading.Event()
        #: The disk is behind: callers do not wait for it.
        self.behind = False
        self.trouble: Problem | None = None

    @property
    def waiting(self) -> int:
        """Calls whose captures are in memory only, for the moment."""
        return self._put - self._taken

    @property
    def dropped(self) -> int:
        """Events that found no room in memory, not yet counted in the queue."""
        return self._dropped - self._told

    def keep_now(self, captured: Captured) -> bool:
        """Writes in the caller's thread; False, and nothing done, when that could take long or others come first."""
        began = time.monotonic()
        if self._quick_from is None or began < self._quick_from or self._put != self._taken:
            return False
        if not self._writing.acquire(blocking=False):
            return False
        try:
            self._disk.add(captured.events, captured.spoiled)
        except StoreTrouble:
            self._quick_from = began + CALM_S
            return False
        finally:
            self._writing.release()
            if time.monotonic() - began > SLOW_S:
                self._quick_from = began + CALM_S
        captured.kept.set_result(True)
        self._grown(len(captured.events))
        return True

    def put(self, captured: Captured) -> None:
        """Hands over to the thread; never waits. What finds no room is counted and its future says False."""
        rank = max((event.rank for event in captured.events), default=BEHAVIOUR)
        if self._inbox.qsize() >= (INBOX_MAX // 2 if rank == BEHAVIOUR else INBOX_MAX):
            for _ in (*captured.events, *captured.spoiled):
                self._dropped = next(self._dropping)
            captured.kept.set_result(False)
            return
        self._hand(captured)

    def mark(self, then: Callable[[], None]) -> None:
        """Calls `then` when all that was put before is kept."""
        self._hand(Passed(then))

    def stop(self) -> None:
        """The thread ends when it has kept all that was put before."""
        self._hand(None)

    def _hand(self, item: Captured | Passed | None) -> None:
        self._put = next(self._putting)
        self._inbox.put(item)

    def run(self) -> None:
        """The thread."""
        self._open()
        while self.step():
            pass

    def _open(self) -> None:
        try:
            # An empty transaction, since another process may be making the file at this moment.
            if self._added((), (), 0):
                self._quick_from = time.monotonic()
        except Exception as error:
            self.trouble = _problem("queue-unusable", repr(error)[:500])
        self.opened.set()

    def step(self, *, block: bool = True) -> bool:
        """Keeps what is there, in one transaction; False when it is to stop, or there is nothing and no `block`."""
        try:
            items = [self._inbox.get(block=block)]
        except queue.Empty:
            return False
        with self._writing:
            while len(items) < TOGETHER_MAX:
                try:
                    items.append(self._inbox.get(block=False))
                except queue.Empty:
                    break
            self._keep([item for item in items if isinstance(item, Captured)])
            self._taken += len(items)
        for item in items:
            if isinstance(item, Passed):
                item.then()
        if self._inbox.empty():
            self.behind = False
        return None not in items

    def _keep(self, captured: Sequence[Captured]) -> None:
        if not captured:
            return
        on_disk = False
        try:
            on_disk = self._written(captured)
        except Exception as error:
            # A thread that ends would lose everything that follows.
            self.trouble = _problem("queue-unusable", repr(error)[:500])
        for each in captured:
            each.kept.set_result(on_disk)
        self._grown(sum(len(each.events) for each in captured))

    def _written(self, captured: Sequence[Captured]) -> bool:
        events = [event for each in captured for event in each.events]
        spoiled = [bad for each in captured for bad in each.spoiled]
        told, dropped = self._dropped, self._dropped - self._told
        on_disk = self._added(events, spoiled, dropped)
        if not on_disk:
            self._spare.add(events, spoiled, dropped=dropped)
        self._told = told
        return on_disk

    def _added(self, events: Sequence[Event], spoiled: Sequence[Spoiled], dropped: int) -> bool:
        began, tries = time.monotonic(), 2
        while tries:
            try:
                self._disk.add(events, spoiled, dropped=dropped)
            except StoreTrouble as trouble:
                self.trouble = _problem(trouble.code, trouble.detail)
                # Twice: the first failure may have set a damaged file aside. While others write it is only a wait.
                if trouble.code != "queue-busy" or time.monotonic() - began > BUSY_GIVE_UP_S:
                    tries -= 1
            else:
                return True
        return False


def _problem(code: str, detail: str) -> Problem:
    return Problem(code=code, detail=detail, hint=DISK_HINT, at=now_rfc3339())
