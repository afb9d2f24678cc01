"""Sends batch after batch with several under way at once, so that a long round trip does not idle a slow link.

Batches may be taken in any order: the cloud's watermark tells what it has without a gap, and only that is let go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from pisyncd.core import window, wire
from pisyncd.core.errors import PermanentError, TransientError
from pisyncd.outbox import Outbox

DROPPED = "dropped"
SEQ_CONFLICT = "seq-conflict"
Post = Callable[[list[wire.Item]], Awaitable[wire.BatchAnswer]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large batches are."""

    items: int
    bytes_max: int


class Pace:
    """How many batches may be under way, by how long answers take."""

    def __init__(self) -> None:
        self.window = window.START
        self._quickest_s = float("inf")
        self._slowest_s = 0.0
        self._answers = 0

    def answered(self, took_s: float) -> None:
        """Adjusts the window after as many answers as it is large."""
        self._answers += 1
        self._quickest_s = min(self._quickest_s, took_s)
        self._slowest_s = max(self._slowest_s, took_s)
        if self._answers >= self.window:
            self.window = window.adjust(self.window, slowest_s=self._slowest_s, quickest_s=self._quickest_s)
            self._answers, self._slowest_s = 0, 0.0


class Drain:
    """One run of batches. `marks` is what the cloud has of each stream, `firsts` what was first sent of it.

    `met`: a record met another side's write; `renumbered`: streams with a number that was used before, by a copy of
    this database.
    """

    def __init__(
        self,
        outbox: Outbox,
        post: Post,
        size: Size,
        pace: Pace,
        delivered: Callable[[], None] = lambda: None,
        used: Callable[[list[wire.Item]], Awaitable[bool]] | None = None,
        sent: dict[str, int] | None = None,
    ) -> None:
        """`used` takes records whose numbers were used before; `sent` is what this run has sent of each stream."""
        self._outbox = outbox
        self._post = post
        self._delivered = delivered
        self._used = used
        self._sent = sent if sent is not None else {}
        self._size = size
        self._sent_through: dict[str, int] = {}
        self._refused: dict[tuple[str, int], tuple[str, wire.Item]] = {}
        self.pace = pace
        self.marks: dict[str, int] = {}
        self.firsts: dict[str, int] = {}
        self.accepted = 0
        self.lost = 0
        self.met = False
        self.renumbered: set[str] = set()
        self._records = False
        self.backlog = False
        self.next = wire.Pacing()
        self.trouble: TransientError | PermanentError | None = None
        self.offenders: list[wire.Item] = []

    async def run(self, first: list[wire.Item], enough: Callable[[], bool]) -> None:
        """Sends `first` and what follows it until `enough()`; ends early at `trouble`, with all told."""
        under_way: set[asyncio.Task[None]] = set()
        batch = first
        try:
            while under_way or (batch and self.trouble is None):
                while batch and self.trouble is None and len(under_way) < self._window(batch):
                    batch = self._fitting(batch)
                    under_way.add(asyncio.create_task(self._deliver(batch)))
                    batch = [] if enough() else await self._following()
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _window(self, batch: list[wire.Item]) -> int:
        """One batch after the other until a record was new to the cloud: of a database that was set back it would
        take what follows a used number when that came first."""
        self._records = self._records or any(map(_is_record, batch))
        return 1 if self._records and not self._outbox.records.confirmed else self.pace.window

    def _fitting(self, items: list[wire.Item]) -> list[wire.Item]:
        chosen = fitting(items, self._size.bytes_max)
        self.backlog = len(items) >= self._size.items
        for item in chosen:
            if item.stream is not None and item.seq is not None:
                self.firsts.setdefault(item.stream, item.seq)
                self._sent_through[item.stream] = item.seq
                self._sent[item.stream] = max(item.seq, self._sent.get(item.stream, 0))
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
        self.pace.answered(time.monotonic() - began_s)
        # Of batches side by side only one answer carries the token.
        token = answer.next.token or self.next.token
        self.next = answer.next if token == answer.next.token else msgspec.structs.replace(answer.next, token=token)
        await self._account(items, answer.data)

    async def _account(self, items: list[wire.Item], answer: wire.BatchOutcome) -> None:
        for stream, mark in answer.receivedThrough.items():
            self.marks[stream] = max(mark, self.marks.get(stream, 0))
        codes = {each.itemId: each.code or each.status for each in answer.results if _is_refused(each)}
        self.renumbered |= {item.stream for item in items if item.stream and codes.get(item.id or "") == SEQ_CONFLICT}
        renamed = await self._renamed(items, codes)
        self._confirm(items, answer, codes)
        self.met = self.met or any(each.resolution is not None for each in answer.results)
        for item in items:
            # a refused loss that became a loss would be refused again, for ever
            if (
                item.id in codes
                and item.id not in renamed
                and item.stream
                and item.seq
                and item.itemType not in (wire.STREAM_LOSS, DROPPED)
            ):
                self._refused[item.stream, item.seq] = (codes[item.id], item)
        lost = self._leaving()
        self.lost += sum(map(len, lost.values()))
        # added after the wait: two answers at once would count one from before the other
        accepted = await self._outbox.messages.accept_through(self._received(), lost, self._outbox.ledger)
        self.accepted += accepted
        self._delivered()

    def _received(self) -> dict[str, int]:
        """What may be let go. Numbers that were not sent from here were received from another copy of this database:
        what stands here under them has still to be sent."""
        return {stream: min(mark, self._sent.get(stream, 0)) for stream, mark in self.marks.items()}

    async def _renamed(self, items: list[wire.Item], codes: Mapping[str, str]) -> set[str | None]:
        """The records among them whose numbers another copy of this database has used: they are owed anew."""
        used = [item for item in items if _is_record(item) and codes.get(item.id or "") == SEQ_CONFLICT]
        return {item.id for item in used} if used and self._used is not None and await self._used(used) else set()

    def _confirm(self, items: list[wire.Item], answer: wire.BatchOutcome, codes: Mapping[str, str]) -> None:
        """A record that was new to the cloud says that no other copy of this database counts; a repeat says nothing."""
        if not answer.duplicates and any(_is_record(item) and item.id not in codes for item in items):
            self._outbox.records.confirm()

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


def _is_record(item: wire.Item) -> bool:
    return (item.stream or "").startswith(f"{wire.STREAM_RECORD}-") and item.itemType != DROPPED


def _is_refused(result: wire.ItemResult) -> bool:
    """A conflict with a resolution has been taken: both sides' writes are kept."""
    return result.status == "failed" or (result.status == "conflict" and result.resolution is None)


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
