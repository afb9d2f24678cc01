"""Delivers messages in batches and lets go of what the cloud has acknowledged."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection

import structlog

from pisyncd.activities.drain import SEQ_CONFLICT, Drain, Pace, Size
from pisyncd.activities.way import Way
from pisyncd.core import backoff, vitals, wire
from pisyncd.core.errors import LinkDown, TooLarge, TransientError
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake
from pisyncd.uplink import Uplink

log = structlog.get_logger()

FLUSH_ITEMS = 10
FLUSH_S = 12.0
BATCH_ITEMS_MIN = 10
BATCH_BYTES_MIN, BATCH_BYTES_MAX = 64 * 1024, 4 * 1024 * 1024
URGENT = (wire.STREAM_LOSS, wire.STREAM_SYNC, wire.STREAM_RECORD)
NO_PACE = wire.Pacing()
RENEWALS_MAX = 3
SHARED_BYTES_MAX = 256 * 1024


async def _nobody_cares() -> None:
    pass


async def _nobody_renews(token: str) -> None:
    pass


class Sender:
    """One step delivers what waits. Messages wait for company: 10 of them, 12 s, or an urgent one among them."""

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
        self._pace = Pace()
        self._obeyed = NO_PACE
        self._single = True
        self._seeking = False
        self._echo: tuple[int, int, int] | None = None
        self._bytes_max = BATCH_BYTES_MAX
        self._patient = patient
        self._misses = 0
        self._renewals = 0
        self._sent: dict[str, int] = {}
        self.stopping: Callable[[], bool] = lambda: False
        self.paced: Callable[[float], None] = lambda seconds: None
        #: The cloud gives a token to go on with.
        self.renewed: Callable[[str], Awaitable[None]] = _nobody_renews
        self.asked: Callable[[list[vitals.Command]], None] = lambda commands: None
        self.forgotten: Callable[[], Awaitable[None]] = _nobody_cares
        #: A delivery has ended, well or not.
        self.ended: Callable[[], None] = lambda: None
        self.met: Callable[[], None] = lambda: None
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
            self.ended()

    async def _deliver(self) -> float:
        items = await self._outbox.messages.batch(self._items)
        if not items:
            self._single = True
            return 3600.0
        wait_s = await self._company_s(items)
        if wait_s > 0:
            return wait_s
        size = Size(items=self._items, bytes_max=self._bytes_max if self._single else SHARED_BYTES_MAX)
        drain = Drain(self._outbox, self._post, size, self._pace, self.ended, self._used, self._sent)
        await drain.run(items, lambda: self._single or self.stopping() or drain.next not in (NO_PACE, self._obeyed))
        if drain.lost:
            log.warning("messages.refused", count=drain.lost)
        log.debug("messages.delivered", accepted=drain.accepted, window=self._pace.window, items=self._items)
        if drain.met:
            self.met()
        await self._renew(drain.renumbered)
        if drain.offenders and not isinstance(drain.trouble, TransientError):
            return await self._narrow(drain)
        if isinstance(drain.trouble, TransientError):
            self._single, self._pace = True, Pace()
            raise drain.trouble
        await self._way.succeeded()
        self._widen(drain)
        await self._obey(drain.next)
        if not drain.accepted and not await self._close_gaps(drain):
            raise TransientError("the cloud acknowledged nothing", code="nothing-acknowledged", retry_after_s=60.0)
        return 0.0

    async def _renew(self, renumbered: Collection[str]) -> bool:
        """A copy of this database counts, too: what is written from now on goes by another name. What waits in the old
        streams meets the same, and renews nothing. False: a cloud that says so of every number is not answered."""
        if self._renewals > RENEWALS_MAX:
            return False
        if any(self._outbox.instance.outbox_id in stream.split("-") for stream in renumbered):
            self._renewals += 1
            await self._outbox.instance.renew(SEQ_CONFLICT)
        return True

    async def _used(self, items: list[wire.Item]) -> bool:
        """What records said under numbers that another copy has used is owed again by another name; False: not."""
        if not await self._renew({item.stream for item in items if item.stream}):
            return False
        await self._outbox.records.stand_beside(items)
        return True

    async def _post(self, items: list[wire.Item]) -> wire.BatchAnswer:
        clock = self._outbox.db.clock
        sent_ms = clock.boottime_ms()
        answer = await self._uplink.batch(self._batch(items), self._timeout_s)
        answered_ms = clock.boottime_ms()
        cloud_ms = wire.from_rfc3339(answer.data.syncTime)
        # the quickest answer tells the cloud's time best
        if cloud_ms is not None and (self._echo is None or answered_ms - sent_ms < self._echo[1] - self._echo[0]):
            self._echo = (sent_ms, answered_ms, cloud_ms)
        return answer

    async def _narrow(self, drain: Drain) -> float:
        """One message that the cloud refuses must not hold up the others: find it."""
        self._single, self._seeking = True, True
        error, items = drain.trouble, drain.offenders
        assert error is not None
        if len(items) > 1:
            self._items = max(1, min(len(items), self._batch_items) // 2)
            return 0.0
        return await self._drop(items[0], "message-too-large" if isinstance(error, TooLarge) else error.code)

    def _widen(self, drain: Drain) -> None:
        """Larger batches, and more of them at once, while a backlog lasts."""
        backlog = drain.backlog and not self._seeking
        self._items = wire.BATCH_ITEMS_MAX if backlog else min(self._items * 2, self._batch_items)
        self._single = not backlog
        self._seeking = self._seeking and self._items < self._batch_items

    async def _obey(self, asked: wire.Pacing) -> None:
        """The cloud's pace, within this device's own bounds."""
        self._obeyed = asked
        if asked.batch_max_events is not None:
            self._items = min(self._items, max(asked.batch_max_events, BATCH_ITEMS_MIN))
        if asked.batch_max_bytes is not None:
            self._bytes_max = min(max(asked.batch_max_bytes, BATCH_BYTES_MIN), BATCH_BYTES_MAX)
        if asked.sync_in_s is not None:
            self.paced(asked.sync_in_s)
        self.asked(asked.commands)
        if asked.token is not None:
            await self.renewed(asked.token)

    async def _close_gaps(self, drain: Drain) -> bool:
        """Restarts the streams of which the cloud misses numbers that this device no longer holds."""
        gaps = drain.gaps()
        if gaps:
            # before the streams: after a power cut in between, the gap is still there to be found
            await self.forgotten()
        for stream, seq in gaps.items():
            log.warning("stream.restarted", stream=stream, held_from=seq, cloud_has=drain.marks.get(stream, 0))
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
        clock = self._outbox.db.clock
        return wire.Batch(
            batchId=str(uuid.uuid4()),
            items=items,
            sentAt=wire.rfc3339(clock.wall_ms()),
            sentBootId=clock.boot_id,
            sentBoottimeMs=clock.boottime_ms(),
            echo=self._echo,
            boots=self._outbox.boots.numbers({item.boot_id for item in items if item.boot_id}),
        )

    async def _drop(self, item: wire.Item, code: str) -> float:
        """A message that the cloud will never take makes way for the others; the ledger says so."""
        if not await self._outbox.messages.hollow_out(item, code, self._outbox.ledger):
            raise TransientError(f"the cloud refuses even an empty message: {code}", code=code, retry_after_s=3600.0)
        log.error("message.refused", stream=item.stream, seq=item.seq, code=code)
        return 0.0
