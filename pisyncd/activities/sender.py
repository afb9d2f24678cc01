"""Delivers messages in batches and lets go of what the cloud has acknowledged."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from pisyncd.activities.way import Way
from pisyncd.core import backoff, wire
from pisyncd.core.errors import LinkDown, Rejected, TooLarge, TransientError
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake
from pisyncd.uplink import Uplink

log = structlog.get_logger()

FLUSH_ITEMS = 10
FLUSH_S = 12.0
BATCH_ITEMS_MIN = 10
BATCH_BYTES_MIN, BATCH_BYTES_MAX = 64 * 1024, 4 * 1024 * 1024
URGENT = (wire.STREAM_LOSS, wire.STREAM_SYNC)
DROPPED = "dropped"


async def _nobody_cares() -> None:
    pass


class Sender:
    """One step delivers one batch. Messages wait for company: 10 of them, 12 s, or an urgent one among them."""

    name = "sender"

    def __init__(
        self, outbox: Outbox, uplink: Uplink, way: Way, *, batch_items: int, timeout_s: float, patient: bool = True
    ) -> None:
        self.wake = Wake()
        self.deadline_s = timeout_s + 120.0
        self._outbox = outbox
        self._uplink = uplink
        self._way = way
        self._timeout_s = timeout_s
        self._batch_items = batch_items
        self._items = batch_items
        self._bytes_max = BATCH_BYTES_MAX
        self._patient = patient
        self._misses = 0
        self.paced: Callable[[float], None] = lambda seconds: None
        self.forgotten: Callable[[], Awaitable[None]] = _nobody_cares
        way.listen(self.wake)

    async def step(self) -> float:
        """Seconds until messages may go; 0 while there are more."""
        decision = self._way.admit(self.name)
        if isinstance(decision, backoff.Wait):
            return decision.seconds
        try:
            pause_s = await self._deliver()
            self._misses = 0
            return pause_s
        except TransientError as error:
            self._misses += 1
            await self._way.failed(error)
            if not isinstance(error, LinkDown):
                log.info("messages.postponed", code=error.code, detail=error.detail)
            return min(60.0, 2.0 ** min(self._misses, 6))
        finally:
            self._way.settle(self.name)

    async def _deliver(self) -> float:
        items = await self._outbox.messages.batch(self._items)
        if not items:
            return 3600.0
        wait_s = await self._company_s(items)
        if wait_s > 0:
            return wait_s
        items = _fitting(items, self._bytes_max)
        try:
            answer = await self._uplink.batch(self._batch(items), self._timeout_s)
        except TooLarge:
            if len(items) == 1:
                return await self._drop(items[0], "message-too-large")
            self._items = max(1, len(items) // 2)
            return 0.0
        except Rejected as error:
            if len(items) == 1:
                return await self._drop(items[0], error.code)
            # one message that the cloud refuses must not hold up the others: find it
            self._items = max(1, len(items) // 2)
            return 0.0
        await self._way.succeeded()
        lost = _lost(items, answer.data)
        dropped = await self._outbox.messages.accept_through(answer.data.receivedThrough, lost, self._outbox.ledger)
        log.debug("messages.delivered", messages=len(items), accepted=dropped, failed=answer.data.failed)
        if lost:
            log.warning("messages.refused", count=sum(map(len, lost.values())), codes=sorted(lost))
        self._items = min(self._items * 2, self._batch_items)
        self._obey(answer.next)
        if not dropped and not await self._close_gaps(items, answer.data.receivedThrough):
            raise TransientError("the cloud acknowledged nothing", code="nothing-acknowledged", retry_after_s=60.0)
        return 0.0

    def _obey(self, asked: wire.Pacing) -> None:
        """The cloud's pace, within this device's own bounds."""
        if asked.batch_max_events is not None:
            self._items = min(self._items, max(asked.batch_max_events, BATCH_ITEMS_MIN))
        if asked.batch_max_bytes is not None:
            self._bytes_max = min(max(asked.batch_max_bytes, BATCH_BYTES_MIN), BATCH_BYTES_MAX)
        if asked.sync_in_s is not None:
            self.paced(asked.sync_in_s)

    async def _close_gaps(self, items: list[wire.Item], received: dict[str, int]) -> bool:
        """Restarts the streams of which the cloud misses numbers that this device no longer holds."""
        first: dict[str, int] = {}
        for item in items:
            if item.stream is not None and item.seq is not None:
                first.setdefault(item.stream, item.seq)
        gaps = {stream: seq for stream, seq in first.items() if received.get(stream, 0) < seq - 1}
        if gaps:
            # before the streams: after a power cut in between, the gap is still there to be found
            await self.forgotten()
        for stream, seq in gaps.items():
            log.warning("stream.restarted", stream=stream, held_from=seq, cloud_has=received.get(stream, 0))
            await self._outbox.messages.restart_stream(stream, seq)
        return bool(gaps)

    async def _company_s(self, items: list[wire.Item]) -> float:
        """Seconds to wait for more messages before it is worth a request."""
        if not self._patient or len(items) >= FLUSH_ITEMS:
            return 0.0
        if any((item.stream or "").startswith(URGENT) for item in items):
            return 0.0
        _, _, oldest_at_ms = await self._outbox.messages.owed()
        if oldest_at_ms is None:
            return 0.0
        return max(0.0, FLUSH_S - (self._outbox.db.now_ms() - oldest_at_ms) / 1000)

    def _batch(self, items: list[wire.Item]) -> wire.Batch:
        # stamped at every attempt: a stamp of the first attempt would make a late delivery look like a wrong clock
        sent_at = wire.rfc3339(self._outbox.db.clock.wall_ms())
        return wire.Batch(batchId=str(uuid.uuid4()), items=items, sentAt=sent_at)

    async def _drop(self, item: wire.Item, code: str) -> float:
        """A message that the cloud will never take makes way for the others; the ledger says so."""
        if not await self._outbox.messages.hollow_out(item, code, self._outbox.ledger):
            raise TransientError(f"the cloud refuses even an empty message: {code}", code=code, retry_after_s=3600.0)
        log.error("message.refused", stream=item.stream, seq=item.seq, code=code)
        return 0.0


def _fitting(items: list[wire.Item], bytes_max: int) -> list[wire.Item]:
    """The first items that make a body of at most `bytes_max`, one of them at least."""
    total = 0
    for count, item in enumerate(items):
        total += len(msgspec.json.encode(item)) + 1
        if total > bytes_max and count:
            return items[:count]
    return items


def _lost(items: list[wire.Item], answer: wire.BatchOutcome) -> dict[str, list[wire.Item]]:
    """The messages that leave now although the cloud refused them, by code; empties and losses were told before."""
    codes = {each.itemId: each.code or each.status for each in answer.results if each.status in ("failed", "conflict")}
    lost: dict[str, list[wire.Item]] = {}
    for item in items:
        leaves = (item.seq or 0) <= answer.receivedThrough.get(item.stream or "", 0)
        # a refused loss that became a loss would be refused again, for ever
        if item.id in codes and leaves and item.itemType not in (wire.STREAM_LOSS, DROPPED):
            lost.setdefault(codes[item.id], []).append(item)
    return lost
