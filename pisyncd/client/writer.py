"""The thread that puts captured events on disk, at once, so that the caller never waits for a disk."""

from __future__ import annotations

import itertools
import queue
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
        self._dropping = itertools.count(1)
        self._dropped = self._told = 0
        #: The disk is behind: callers do not wait for it.
        self.behind = False
        self.trouble: Problem | None = None

    @property
    def waiting(self) -> int:
        """Captures that are in memory only, for the moment."""
        return self._inbox.qsize()

    @property
    def dropped(self) -> int:
        """Events that found no room in memory, not yet counted in the queue."""
        return self._dropped - self._told

    def put(self, captured: Captured) -> None:
        """Hands over; never waits. What finds no room is counted and its future says False."""
        rank = max((event.rank for event in captured.events), default=BEHAVIOUR)
        if self._inbox.qsize() >= (INBOX_MAX // 2 if rank == BEHAVIOUR else INBOX_MAX):
            for _ in (*captured.events, *captured.spoiled):
                self._dropped = next(self._dropping)
            captured.kept.set_result(False)
            return
        self._inbox.put(captured)

    def mark(self, then: Callable[[], None]) -> None:
        """Calls `then` when all that was put before is kept."""
        self._inbox.put(Passed(then))

    def stop(self) -> None:
        """The thread ends when it has kept all that was put before."""
        self._inbox.put(None)

    def run(self) -> None:
        """The thread."""
        while self.step():
            pass

    def step(self, *, block: bool = True) -> bool:
        """Keeps what is there, in one transaction; False when it is to stop, or there is nothing and no `block`."""
        try:
            items = [self._inbox.get(block=block)]
        except queue.Empty:
            return False
        while len(items) < TOGETHER_MAX:
            try:
                items.append(self._inbox.get(block=False))
            except queue.Empty:
                break
        self._keep([item for item in items if isinstance(item, Captured)])
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
            if each.kept.set_running_or_notify_cancel():
                each.kept.set_result(on_disk)
        self._grown(sum(len(each.events) for each in captured))

    def _written(self, captured: Sequence[Captured]) -> bool:
        events = [event for each in captured for event in each.events]
        spoiled = [bad for each in captured for bad in each.spoiled]
        told, dropped = self._dropped, self._dropped - self._told
        # Twice: the first failure may have set a damaged file aside.
        for _ in range(2):
            try:
                self._disk.add(events, spoiled, dropped=dropped)
            except StoreTrouble as trouble:
                self.trouble = _problem(trouble.code, trouble.detail)
            else:
                self._told = told
                return True
        self._spare.add(events, spoiled, dropped=dropped)
        self._told = told
        return False


def _problem(code: str, detail: str) -> Problem:
    return Problem(code=code, detail=detail, hint=_HINT, at=now_rfc3339())


_HINT = "free some space, or let the application write there; until then events are kept in memory only"
