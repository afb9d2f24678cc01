"""Sends batch after batch with several under way at once, so that a long round trip does not idle a slow link.

Batches may be taken in any order: the cloud's watermark tells what it has without a gap, and only that is let go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from pisyncd.core import wire
from pisyncd.core.errors import PermanentError, TransientError
from pisyncd.outbox import Outbox

DROPPED = "dropped"
WINDOW_MAX = 16
#: An answer that takes longer than this fills a queue somewhere: fewer at once arrive as fast.
SLOW_S = 5.0
QUICK_S = 2.0

Post = Callable[[list[wire.Item]], Awaitable[wire.BatchAnswer]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large batches are and how many are under way at once."""

    items: int
    bytes_max: int
    window: int


def next_window(window: int, slowest_s: float, *, backlog: bool) -> int:
    """1 2 4 ... 16 while answers come quickly and there is more to send; half when they are slow."""
    if slowest_s > SLOW_S:
        return max(1, window // 2)
    if backlog and slowest_s < QUICK_S:
        return min(WINDOW_MAX, window * 2)
    return window if backlog else 1


class Drain:
    """One run of batches. `marks` is what the cloud has of each stream, `firsts` what was first sent of it."""

    def __init__(self, outbox: Outbox, post: Post, size: Size) -> None:
        self._outbox = outbox
        self._post = post
        self._size = size
        self._sent_through: dict[str, int] = {}
        self._refused: dict[tuple[str, int], tuple[str, wire.Item]] = {}
        self.marks: dict[str, int] = {}
        self.firsts: dict[str, int] = {}
        self.accepted = 0
        self.lost = 0
        self.slowest_s = 0.0
        self.backlog = False
        self.next = wire.Pacing()
        self.trouble: TransientError | PermanentError | None = None
        self.offenders: list[wire.Item] = []

    async def run(self, first: list[wire.Item], batches_max: int) -> None:
        """Sends `first` and what follows it, at most so many batches; stops early at `trouble`, with all told."""
        under_way: set[asyncio.Task[None]] = set()
        batch, begun = first, 0
        try:
            while under_way or (batch and self.trouble is None):
                while batch and self.trouble is None and len(under_way) < self._size.window:
                    batch = self._fitting(batch)
                    under_way.add(asyncio.create_task(self._deliver(batch)))
                    begun += 1
                    batch = await self._following() if begun < batches_max else []
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _fitting(self, items: list[wire.Item]) -> list[wire.Item]:
        chosen = fitting(items, self._size.bytes_max)
        self.backlog = len(items) >= self._size.items
        for item in chosen:
            if item.stream is not None and item.seq is not None:
                self.firsts.setdefault(item.stream, item.seq)
                self._sent_through[item.stream] = item.seq
        return chosen

    async def _following(self) -> list[wire.Item]:
        return await self._outbox.messages.batch(self._size.items, after=self._sent_through)

    async def _deliver(self, items: list[wire.Item]) -> None:
        began_s = time.monotonic()
        try:
            answer = await self._post(items)
        except (TransientError, PermanentError) as error:
            # a refusal names its batch; trouble with the way comes first, it is nobody's fault
            if self.trouble is None or isinstance(error, TransientError):
                self.trouble = error
            if isinstance(error, PermanentError) and not self.offenders:
                self.offenders = items
            return
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.next = answer.next
        await self._account(items, answer.data)

    async def _account(self, items: list[wire.Item], answer: wire.BatchOutcome) -> None:
        for stream, mark in answer.receivedThrough.items():
            self.marks[stream] = max(mark, self.marks.get(stream, 0))
        codes = {each.itemId: each.code or each.status for each in answer.results if each.status in _REFUSED}
        for item in items:
            # a refused loss that became a loss would be refused again, for ever
            if item.id in codes and item.stream and item.seq and item.itemType not in (wire.STREAM_LOSS, DROPPED):
                self._refused[item.stream, item.seq] = (codes[item.id], item)
        lost = self._leaving()
        self.lost += sum(map(len, lost.values()))
        self.accepted += await self._outbox.messages.accept_through(dict(self.marks), lost, self._outbox.ledger)

    def _leaving(self) -> dict[str, list[wire.Item]]:
        """The messages that leave now although the cloud refused them, by code."""
        lost: dict[str, list[wire.Item]] = {}
        for place in [place for place in self._refused if place[1] <= self.marks.get(place[0], 0)]:
            code, item = self._refused.pop(place)
            lost.setdefault(code, []).append(item)
        return lost

    def gaps(self) -> Mapping[str, int]:
        """Streams of which the cloud misses numbers that this device no longer holds -> the first one it holds."""
        return {stream: seq for stream, seq in self.firsts.items() if self.marks.get(stream, seq) < seq - 1}


_REFUSED = ("failed", "conflict")


def fitting(items: Iterable[wire.Item], bytes_max: int) -> list[wire.Item]:
    """The first items that make a body of at most `bytes_max`, one of them at least."""
    chosen: list[wire.Item] = []
    total = 0
    for item in items:
        total += len(msgspec.json.encode(item)) + 1
        if total > bytes_max and chosen:
            return chosen
        chosen.append(item)
    return chosen
