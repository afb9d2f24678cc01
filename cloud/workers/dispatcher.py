"""Sends what is due, each endpoint at its own pace: a hanging one holds its own deliveries and no others.

Lanes are claimed under a lease, sent side by side, and what became of them is written in groups: those that ended while
the group before was committed. Any number of services may do this over one database.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog

from cloud import tracing
from cloud.flows import deliveries
from cloud.flows.deliveries import Claim, Ended, Item
from cloud.rules import delivery
from cloud.rules.delivery import Attempted
from cloud.store.db import Database
from cloud.store.webhooks import Endpoint
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

POLL_S = 0.5
#: Lanes under way at one endpoint; while it does not answer at all, only a few find out whether it does again.
IN_FLIGHT = 32
IN_FLIGHT_FAILING = 2
MISSES_UNTIL_FEW = 8
RETRY_WRITE_S = 0.5
FAILED_LOG_S = 30.0

Post = Callable[..., Awaitable[Attempted]]
State = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Processed:
    """What became of a delivery that had its turn."""

    endpoint_id: str
    event_id: str
    state: State
    status_code: int | None
    error: str | None


@dataclass(kw_only=True, slots=True, eq=False)
class _Watch:
    """Somebody who waits for deliveries of a resource, or for all."""

    resource: str | None
    seen: set[int] = field(default_factory=set)
    found: list[Processed] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, ended: Sequence[Ended]) -> None:
        for each in ended:
            if self.resource in (None, each.item.resource):
                self.seen.add(each.item.id)
                self.found.append(
                    Processed(
                        endpoint_id=each.item.endpoint_id,
                        event_id=each.item.event_id,
                        state=each.verdict.state,
                        status_code=each.attempted.status_code,
                        error=each.attempted.error,
                    )
                )
        self.changed.set()


class Dispatcher:
    """See above. `post` makes one attempt: `post(endpoint, event_id=, body=, attempt=)`."""

    def __init__(
        self,
        db: Database,
        post: Post,
        now_ms: Callable[[], int],
        *,
        timeout_s: float = 10.0,
        drain_s: float = 30.0,
        chance: Callable[[], float] = random.random,
        count: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._db = db
        self._post = post
        self._now_ms = now_ms
        self._timeout_ms = round(timeout_s * 1000)
        # Long enough for an attempt and for writing it; what is killed with it comes back after that.
        self._lease_ms = 2 * self._timeout_ms + 3000
        self._drain_s = drain_s
        self._chance = chance
        self._count = count
        self._claiming = asyncio.Lock()
        self._more = asyncio.Event()
        self._lanes: set[asyncio.Task[None]] = set()
        self._in_hand: Counter[str] = Counter()
        self._waiting: set[str] = set()
        self._misses: Counter[str] = Counter()
        self._ended: list[Ended] = []
        self._released: list[Item] = []
        self._writer: asyncio.Task[None] | None = None
        self._watches: set[_Watch] = set()
        self._quiet_until: dict[str, float] = {}
        self._turns_quiet_until: dict[str, float] = {}
        self._untold: set[str] = set()
        self._stopping = False
        self._last_reclaim_s = float("-inf")

    def wake(self) -> None:
        """Something new may be due; without it, it is seen within POLL_S."""
        self._more.set()

    async def step(self) -> float:
        """Starts what is due; gives the seconds until it wants to be called again."""
        if time.monotonic() - self._last_reclaim_s >= POLL_S:
            self._last_reclaim_s = time.monotonic()
            if count := await deliveries.reclaim(self._db, self._now_ms()):
                log.warning("delivery.reclaimed", count=count)
        await self._start()
        return POLL_S

    async def settled(self) -> None:
        """Waits until everything that was started has ended and is written."""
        while self._lanes or self._writer is not None:
            await asyncio.wait({*self._lanes, *([self._writer] if self._writer else [])})

    async def process(self, resource: str | None = None, timeout_s: float = 25.0) -> list[Processed]:
        """Gives what is due its turn now and waits for it; of a `resource` ('profile/u1') also what is not due yet."""
        watch = _Watch(resource=resource)
        self._watches.add(watch)
        cut_ms = self._now_ms()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    watch.changed.clear()
                    # What is claimed has to be started, whoever stops waiting for it.
                    await asyncio.shield(self._start(resource, watch.seen))
                    if not await self._is_open(watch, cut_ms):
                        break
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await watch.changed.wait()
        except TimeoutError:
            log.info("delivery.process_cut_short", resource=resource, done=len(watch.found))
        finally:
            self._watches.discard(watch)
        return watch.found

    async def _is_open(self, watch: _Watch, cut_ms: int) -> bool:
        if watch.resource is not None:
            return bool(await deliveries.open_heads(self._db, watch.resource) - watch.seen)
        return await deliveries.is_open(self._db, cut_ms, self._now_ms())

    async def _start(self, resource: str | None = None, seen: set[int] | None = None) -> None:
        async with self._claiming:
            if self._stopping:
                return
            now_ms = self._now_ms()
            found = await deliveries.ready(self._db, now_ms, resource)
            wanted = [(each, room) for each in found if (room := self._room(each.id)) > 0]
            if not wanted:
                return
            claims = await deliveries.claim(
                self._db,
                wanted,
                now_ms=now_ms,
                lease_ms=self._lease_ms,
                resource=resource,
                seen=frozenset(seen or ()),
            )
            for claim in claims:
                self._run(claim)

    def _room(self, endpoint_id: str) -> int:
        most = IN_FLIGHT_FAILING if self._misses[endpoint_id] >= MISSES_UNTIL_FEW else IN_FLIGHT
        return most - self._in_hand[endpoint_id]

    def _run(self, claim: Claim) -> None:
        endpoint_id = claim.endpoint.id
        (self._waiting.add if claim.more else self._waiting.discard)(endpoint_id)
        for lane in claim.lanes:
            if not lane:
                continue
            self._in_hand[endpoint_id] += 1
            task = asyncio.create_task(self._lane(claim.endpoint, lane), name=f"webhook {endpoint_id}")
            self._lanes.add(task)
            task.add_done_callback(self._lanes.discard)

    async def _lane(self, endpoint: Endpoint, lane: list[Item]) -> None:
        """One after the other, until one does not come through."""
        done = 0
        try:
            for item in lane:
                if done and item.lease_until_ms - self._now_ms() < self._timeout_ms:
                    break
                ended = await self._attempt(endpoint, item)
                done += 1
                self._ended.append(ended)
                verdict = ended.verdict
                if verdict.state == "pending" or verdict.disable or verdict.held_until_ms or self._stopping:
                    break
        finally:
            self._released += lane[done:]
            self._in_hand[endpoint.id] -= 1
            self._write_soon()
            self._wake_for({endpoint.id} & self._waiting)

    async def _attempt(self, endpoint: Endpoint, item: Item) -> Ended:
        attempt = item.attempts + 1
        if item.body is None:
            # A purge took it: there is nothing left to tell.
            attempted = Attempted(at_ms=self._now_ms(), duration_ms=0, error="event-removed")
            verdict = delivery.Verdict(state="failed", due_at_ms=attempted.at_ms)
            return Ended(item=item, attempted=attempted, verdict=verdict)
        with tracing.span("webhook.post", attempt=attempt):
            attempted = await self._post(endpoint, event_id=item.event_id, body=item.body, attempt=attempt)
        answered = attempted.status_code is not None and attempted.status_code not in delivery.BUSY
        self._misses[endpoint.id] = 0 if answered else self._misses[endpoint.id] + 1
        verdict = delivery.judge(
            attempted,
            attempt=attempt,
            failing_since_ms=endpoint.failing_since_ms,
            chance=self._chance(),
            early_for_ms=item.early_for_ms,
        )
        return Ended(item=item, attempted=attempted, verdict=verdict)

    def _wake_for(self, endpoint_ids: set[str]) -> None:
        """More is claimed while half of what an endpoint may have is still under way."""
        if any(self._in_hand[each] <= IN_FLIGHT // 2 for each in endpoint_ids):
            self._more.set()

    def _write_soon(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="webhook results")

    async def _write(self) -> None:
        try:
            while self._ended or self._released:
                # Once round the loop: what ends at the same moment joins this group.
                await asyncio.sleep(0)
                ended, self._ended = self._ended, []
                released, self._released = self._released, []
                await self._settle(ended, released)
        finally:
            self._writer = None

    async def _settle(self, ended: list[Ended], released: list[Item]) -> None:
        while True:
            try:
                settled = await deliveries.settle(self._db, ended, released, self._now_ms())
                break
            except TransientError as error:
                log.warning("delivery.postponed", code=error.code, detail=error.detail, results=len(ended))
                await asyncio.sleep(RETRY_WRITE_S)
            except Exception:
                # Their leases end and they are sent once more, which receivers tell by the id.
                log.exception("delivery.not_written", results=len(ended))
                return
        for each in ended:
            self._count("retry" if each.verdict.state == "pending" else each.verdict.state)
        self._tell(ended, settled)
        for watch in self._watches:
            watch.tell(ended)
        # What follows in these resources could not be claimed before.
        self._wake_for(self._waiting)

    def _tell(self, ended: Sequence[Ended], settled: deliveries.Settled) -> None:
        counts = Counter(each.item.endpoint_id for each in ended if each.attempted.error is not None)
        for each in ended:
            endpoint_id = each.item.endpoint_id
            if each.attempted.error is None:
                continue
            final = each.verdict.state == "failed"
            if not final and self._quiet_until.get(endpoint_id, 0.0) > time.monotonic():
                continue
            self._quiet_until[endpoint_id] = time.monotonic() + FAILED_LOG_S
            log.warning(
                "delivery.failed",
                endpoint=endpoint_id,
                webhook=each.item.event_id,
                type=each.item.type,
                resource=each.item.resource,
                attempt=each.item.attempts + 1,
                status=each.attempted.status_code,
                error=each.attempted.error,
                final=final,
                alike=counts[endpoint_id],
            )
        self._tell_turns(counts, settled)
        for endpoint_id, reason in settled.disabled.items():
            log.error("endpoint.disabled", endpoint=endpoint_id, reason=reason)

    def _tell_turns(self, failures: Counter[str], settled: deliveries.Settled) -> None:
        """One that fails and recovers all the time is told of once in FAILED_LOG_S."""
        now_s = time.monotonic()
        self._untold.update(settled.failing)
        for endpoint_id in sorted(self._untold & failures.keys()):
            if self._turns_quiet_until.get(endpoint_id, 0.0) <= now_s:
                self._turns_quiet_until[endpoint_id] = now_s + FAILED_LOG_S
                self._untold.discard(endpoint_id)
                log.warning("endpoint.failing", endpoint=endpoint_id)
        for endpoint_id in settled.recovered:
            if endpoint_id not in self._untold:
                self._quiet_until.pop(endpoint_id, None)
                log.info("endpoint.recovered", endpoint=endpoint_id)
        self._untold.difference_update(settled.recovered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside; at the end what is being sent may end, at most for `drain_s`."""
        task = asyncio.create_task(self._work(), name="dispatcher")
        try:
            yield
        finally:
            self._stopping = True
            async with self._claiming:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._lanes:
                await asyncio.wait(self._lanes, timeout=self._drain_s)
            for lane in self._lanes:
                lane.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(1.0, self._drain_s)):
                    await self.settled()

    async def _work(self) -> None:
        while True:
            self._more.clear()
            try:
                pause_s = await self.step()
            except TransientError as error:
                log.warning("dispatcher.postponed", code=error.code, detail=error.detail)
                pause_s = 5.0
            except Exception:
                log.exception("dispatcher.failed")
                pause_s = 5.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._more.wait()
