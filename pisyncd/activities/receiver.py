"""Fetches what has changed of the records that this device is entitled to, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from pisyncd.activities.way import Way
from pisyncd.core import backoff, pull, recordwire
from pisyncd.core.errors import (
    CloudBusy,
    CursorExpired,
    LinkDown,
    PiSyncError,
    TokenRefused,
    TooLarge,
    TransientError,
    WaitCut,
)
from pisyncd.holding import READ_S_MAX
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Stop, Wake
from pisyncd.uplink import Uplink

log = structlog.get_logger()

ANSWER_INVALID = "answer-invalid"
STALLED = "link-stalled"
#: Of the outbox: what was written here has to be sent before this page can be applied.
OWN_FIRST, OWN_FIRST_S = "own-writes-first", 1.0
OTHERS_FIRST_S, OTHERS_FIRST_MAX_S = 2.0, 60.0


class Receiver:
    """One step is one request, held by the cloud while nothing changes, and what it brings in one transaction."""

    name = "receiver"

    def __init__(
        self,
        outbox: Outbox,
        uplink: Uplink,
        way: Way,
        stop: Stop,
        rule: pull.Rule,
        *,
        types: tuple[str, ...] = (),
        timeout_s: float = 30.0,
    ) -> None:
        self.wake = Wake()
        self.deadline_s = rule.wait_s + timeout_s + READ_S_MAX + 120.0
        self._outbox = outbox
        self._uplink = uplink
        self._way = way
        self._stop = stop
        self._rule = rule
        self._types = tuple(sorted(types))
        self._timeout_s = timeout_s
        self._past = pull.Past()
        self._asking: list[asyncio.Future[str]] = []
        self._served: list[asyncio.Future[str]] = []
        self._asked = False
        self._occasion = True
        self._more = False
        self._since_ms: int | None = None
        self._attentive = False
        self._held = False
        way.listen(self.wake)

    # what others ask

    def occasion(self) -> None:
        """Something is sent anyway: a good moment for who does not wait all the time."""
        self._occasion = True
        self.wake.set()

    def noticed(self) -> None:
        """There is a record here now."""
        if not self._attentive:
            self.wake.set()

    def expect(self) -> None:
        """The cloud has something for this device: fetch it, unless a request is being held for it already."""
        if not self._held:
            self.ask()

    def ask(self) -> None:
        """Fetch now, also when a request is being held already."""
        self._asked = True
        self.wake.set()

    async def fetch_all(self) -> str:
        """Fetches all there is, from now on; '' when it is here, else why it is not. Ends with the daemon."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asking.append(future)
        self.wake.set()
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((future, stopping), return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else "stopping"
        finally:
            stopping.cancel()
            future.cancel()

    # one step

    async def step(self) -> float:
        """Seconds until the next request may go; 0 while there is more."""
        decision = self._way.admit(self.name)
        if isinstance(decision, backoff.Wait):
            if obstacle := self._way.obstacle():
                self._answer(obstacle)
            return decision.seconds
        try:
            if decision.trial and await self._others_first():
                return OTHERS_FIRST_S
            return await self._receive(trial=decision.trial)
        finally:
            self._way.settle(self.name)

    async def _others_first(self) -> bool:
        """After trouble, what is owed shows whether the cloud is well again: a page of records does not."""
        overdue_ms = self._outbox.db.now_ms() - self._way.breaker.due_at_ms
        if overdue_ms > OTHERS_FIRST_MAX_S * 1000:
            return False
        messages, _, _ = await self._outbox.messages.owed()
        return messages > 0 or await self._outbox.queue.anything_owed()

    async def _receive(self, *, trial: bool) -> float:
        now_ms = self._outbox.db.now_ms()
        decision = pull.decide(self._rule, self._known_past(), await self._need(trial=trial), now_ms)
        if isinstance(decision, backoff.Wait):
            return decision.seconds
        self._served += self._asking
        self._asking.clear()
        self._asked = self._occasion = False
        self._past = pull.asked(self._past, now_ms)
        try:
            await self._fetch(decision.wait_s, trial=trial)
        except PiSyncError as error:
            if isinstance(error, TooLarge) and self._past.limit > pull.PAGE_MIN:
                self._past = pull.too_large(self._past)
                return 0.0
            if error.code == OWN_FIRST:
                self._asked = True
                return OWN_FIRST_S
            self._answer("offline" if isinstance(error, LinkDown) else error.code)
            if not isinstance(error, TransientError):
                self._refused(error)
            elif not await self._troubled(error, decision.wait_s):
                raise
        after = pull.decide(self._rule, self._past, await self._need(trial=False), self._outbox.db.now_ms())
        return after.seconds if isinstance(after, backoff.Wait) else 0.0

    def _known_past(self) -> pull.Past:
        if self._since_ms != self._way.link_since_ms:
            self._since_ms = self._way.link_since_ms
            self._past = pull.on_another_network(self._past)
            self._occasion = True
        return self._past

    async def _need(self, *, trial: bool) -> pull.Need:
        if not self._attentive:
            self._attentive = (await self._outbox.records.counts()).records > 0
        return pull.Need(
            asked=self._asked or bool(self._asking or self._served),
            more=self._more,
            trial=trial,
            occasion=self._occasion,
            records=self._attentive,
            online_s=(self._outbox.db.now_ms() - self._way.link_since_ms) / 1000,
        )

    async def _fetch(self, wait_s: float, *, trial: bool) -> None:
        """One page, and what it brings. Raises what the request raises, StorageBusy."""
        records, began_ms = self._outbox.records, self._outbox.db.now_ms()
        since = await records.cursor()
        if not since and not await records.sweeping():
            # the first time: whether the cloud that took what was written here is still the same, nobody can tell
            await records.repush()
        request = self._uplink.changes(
            since=since or None,
            types=self._types,
            wait_s=wait_s,
            limit=self._past.limit,
            rules_etag=await records.rules_etag(),
            writer=records.writer,
            timeout_s=self._timeout_s,
        )
        try:
            page = await self._unless_interrupted(request, held=wait_s > 0)
        except CursorExpired:
            if not since:
                raise
            # a cloud that was set back has lost what was written here since: it must not be taken for removed
            owed = await records.repush()
            await records.begin_sweep()
            log.info("records.fetched_anew", reason="the cursor has expired", owed=owed)
            self._more = True
            return
        if page is None:
            return
        now_ms = self._outbox.db.now_ms()
        self._past = pull.answered(
            self._past,
            now_ms,
            took_s=(now_ms - began_ms) / 1000,
            wait_s=wait_s,
            moved=page.cursor != since and (page.more or bool(page.changes)),
            more=page.more,
        )
        self._more = page.more
        applied = await records.apply(page, sweeping=await records.sweeping(), types=self._types)
        log.debug("records.received", count=applied.count, dropped=applied.dropped, more=page.more)
        if trial:
            await self._way.succeeded()
        if not page.more:
            self._answer("", served_only=True)

    async def _unless_interrupted(
        self, request: Coroutine[Any, Any, recordwire.Changes], *, held: bool
    ) -> recordwire.Changes | None:
        """The answer; None when the daemon stops, sending is paused, the link is gone, or somebody wants one now."""
        self._held = held
        asking = asyncio.create_task(request)
        waking = asyncio.create_task(self.wake.wait(self.deadline_s))
        try:
            while not asking.done():
                await asyncio.wait((asking, waking), return_when=asyncio.FIRST_COMPLETED)
                if asking.done() or self._interrupted(held=held):
                    break
                if waking.done():
                    waking = asyncio.create_task(self.wake.wait(self.deadline_s))
            return asking.result() if asking.done() else None
        finally:
            self._held = False
            asking.cancel()
            waking.cancel()
            await asyncio.gather(asking, waking, return_exceptions=True)

    def _interrupted(self, *, held: bool) -> bool:
        gone = bool(self._stop) or self._way.paused or self._way.link.state != "full"
        return gone or (held and (self._asked or bool(self._asking)))

    # what went wrong

    async def _troubled(self, error: TransientError, wait_s: float) -> bool:
        """Takes trouble that passes; False for trouble with this device's own storage."""
        now_ms = self._outbox.db.now_ms()
        if isinstance(error, WaitCut):
            took_s = (now_ms - (self._past.asked_at_ms or now_ms)) / 1000
            self._past = pull.cut(self._past, now_ms, took_s)
        elif isinstance(error, LinkDown) and wait_s and error.code == STALLED:
            # a router that forgets what is quiet tells nobody
            self._past = pull.cut(self._past, now_ms, wait_s / 2)
        elif isinstance(error, LinkDown):
            self._past = pull.broke(self._past, now_ms)
        elif isinstance(error, CloudBusy) and (wait_s or error.code == ANSWER_INVALID):
            # the cloud may have no room for another that waits, which is nothing to files and messages
            self._past = pull.refused(self._past, now_ms, self._way.chance(), error.retry_after_s)
        elif isinstance(error, CloudBusy | TokenRefused):
            await self._way.failed(error)
        else:
            return False
        log.info("records.postponed", code=error.code, detail=error.detail)
        return True

    def _refused(self, error: PiSyncError) -> None:
        self._past = pull.refused(self._past, self._outbox.db.now_ms(), self._way.chance())
        log.warning("records.refused", code=error.code, detail=error.detail, hint=error.hint)

    def _answer(self, code: str, *, served_only: bool = False) -> None:
        """Tells those who wait for a fetch; '' when all is here."""
        waiting = [*self._served, *([] if served_only else self._asking)]
        self._served.clear()
        if not served_only:
            self._asking.clear()
        for future in waiting:
            if not future.done():
                future.set_result(code)
