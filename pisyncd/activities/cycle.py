"""The sync cycle: an account of what was attempted, delivered and refused, and the sync event that reports it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from pisyncd.activities.lanes import Counters
from pisyncd.activities.way import Way
from pisyncd.core import wire
from pisyncd.meters import Goodput, Totals
from pisyncd.outbox import Outbox
from pisyncd.outbox.books import Cycle, Outcome
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

REPORT_SPACING_S = 60.0
INTERVAL_MIN_S, INTERVAL_MAX_S = 60.0, 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """The difference between two readings of the counters."""

    attempted: int
    files_synced: int
    errors: int
    bytes_sent: int
    active_s: float
    error_code: str | None

    @property
    def speed_mbps(self) -> float | None:
        """Megabits per second while anything was being sent; None when too little was."""
        if self.active_s < 0.05 or self.bytes_sent < 1024:
            return None
        return round(self.bytes_sent * 8 / self.active_s / 1_000_000, 3)


def tally(before: Counters, after: Counters, sent_before: Totals, sent_after: Totals) -> Tally:
    """What happened in between."""
    errors = after.errors - before.errors
    return Tally(
        attempted=after.attempted - before.attempted,
        files_synced=after.files_synced - before.files_synced,
        errors=errors,
        bytes_sent=sent_after.sent_bytes - sent_before.sent_bytes,
        active_s=sent_after.active_s - sent_before.active_s,
        error_code=after.error_code if errors else None,
    )


def outcome(seen: Tally, *, online: bool) -> Outcome:
    """success: no errors; failed: errors and no file; partial: both. Being offline is not a failed sync."""
    if seen.errors:
        return "partial" if seen.files_synced else "failed"
    if seen.files_synced or seen.attempted:
        return "success" if online or seen.files_synced else "offline"
    return "idle" if online else "offline"


def reports(result: Outcome, *, asked: bool, since_event_s: float, heartbeat_s: float, drained: bool) -> bool:
    """Whether a cycle is told to the cloud: when something happened, when a person asked, else as a heartbeat."""
    if result == "offline":
        return False
    if asked:
        return True
    if result == "idle":
        return since_event_s >= heartbeat_s
    return drained or since_event_s >= REPORT_SPACING_S


class SyncCycle:
    """Ends a cycle every interval, when asked, and when the last file owed was delivered."""

    name = "cycle"
    deadline_s = 120.0

    def __init__(
        self,
        outbox: Outbox,
        way: Way,
        goodput: Goodput,
        counters: Counters,
        *,
        device_id: str,
        interval_s: float,
        heartbeat_s: float,
        scheduled: bool,
        reported: Callable[[], None],
        owed: Callable[[], Awaitable[bool]],
    ) -> None:
        self.wake = Wake()
        self.interval_s = interval_s
        self.heartbeat_s = heartbeat_s
        self.scheduled = scheduled
        self.asked = False
        self.last_outcome: Outcome | None = None
        self._outbox = outbox
        self._way = way
        self._goodput = goodput
        self._counters = counters
        self._device_id = device_id
        self._reported = reported
        self._owed = owed
        self._seen = replace(counters)
        self._sent = goodput.totals()
        self._began_ms = outbox.db.now_ms()
        self._event_at_ms: int | None = None
        # two ends side by side would tell the same work twice
        self._one_at_a_time = asyncio.Lock()

    def pace(self, sync_in_s: float) -> None:
        """The cloud asks for another interval; it is kept within 1 to 60 min."""
        self.interval_s = min(max(sync_in_s, INTERVAL_MIN_S), INTERVAL_MAX_S)

    def ask(self) -> None:
        """A person wants a cycle now."""
        self.asked = True
        self.wake.set()

    async def step(self) -> float:
        """Ends the cycle if it is time; gives the seconds until it may be."""
        async with self._one_at_a_time:
            return await self._look()

    async def _look(self) -> float:
        now_ms = self._outbox.db.now_ms()
        age_s = (now_ms - self._began_ms) / 1000
        since_event_s = self._since_event_s(now_ms)
        drained = self._counters.attempted > self._seen.attempted and not await self._owed()
        due = self.asked or (self.scheduled and age_s >= self.interval_s)
        if not due and not (drained and since_event_s >= REPORT_SPACING_S):
            wait_s = self.interval_s - age_s if self.scheduled else 3600.0
            return max(1.0, min(wait_s, REPORT_SPACING_S - since_event_s) if drained else wait_s)
        await self._end(now_ms, since_event_s, drained)
        return self.interval_s

    async def conclude(self) -> None:
        """Ends the running cycle because the work ends: what happened since the last event is told."""
        async with self._one_at_a_time:
            if self._counters != self._seen or self._event_at_ms is None:
                self.asked = True
                await self._end(self._outbox.db.now_ms(), 0.0, drained=True)

    async def close(self) -> None:
        """Ends the running cycle because the process ends; nothing that happened stays untold."""
        if self._counters != self._seen:
            await self.conclude()

    def _since_event_s(self, now_ms: int) -> float:
        return float("inf") if self._event_at_ms is None else (now_ms - self._event_at_ms) / 1000

    async def _end(self, now_ms: int, since_event_s: float, drained: bool) -> None:
        after, sent = replace(self._counters), self._goodput.totals()
        seen = tally(self._seen, after, self._sent, sent)
        result = outcome(seen, online=self._way.link.state == "full")
        event = None
        told = reports(
            result,
            asked=self.asked,
            since_event_s=since_event_s,
            heartbeat_s=self.heartbeat_s,
            drained=drained,
        )
        duration_ms = now_ms - self._began_ms
        if told:
            event = await self._event(seen, duration_ms)
        if told or result != self.last_outcome:
            # a card wears out: weeks offline or idle are one row, not one every five minutes
            await self._outbox.cycles.record(_cycle(seen, result, duration_ms), event)
            log.info("sync.ended", outcome=result, files=seen.files_synced, errors=seen.errors, told=told)
        if told:
            self._event_at_ms = now_ms
            self._reported()
        if told or result in ("idle", "offline"):
            self._seen, self._sent, self._began_ms = after, sent, now_ms
        self.last_outcome = result
        self.asked = False
        # this write also moves outbox time on: else a daily power cut would keep a postponed file waiting for ever
        await self._way.learn_network(self._goodput.known_bps)

    async def _event(self, seen: Tally, duration_ms: int) -> dict[str, object]:
        stamp = self._outbox.db.clock.stamp()
        files, _, _ = await self._outbox.queue.owed()
        return {
            "device_id": self._device_id,
            "timestamp": wire.rfc3339(stamp.wall_ms),
            "total_files_synced": seen.files_synced,
            "total_errors": seen.errors,
            "internet_speed": seen.speed_mbps,
            "boot_id": stamp.boot_id,
            "boottime_ms": stamp.boottime_ms,
            "error_code": seen.error_code,
            "bytes_sent": seen.bytes_sent,
            "duration_ms": duration_ms,
            "queue_depth": files,
        }


def _cycle(seen: Tally, result: Outcome, duration_ms: int) -> Cycle:
    return Cycle(
        outcome=result,
        attempted=seen.attempted,
        files_synced=seen.files_synced,
        errors=seen.errors,
        bytes_sent=seen.bytes_sent,
        speed_mbps=seen.speed_mbps,
        duration_ms=duration_ms,
        error_code=seen.error_code,
    )
