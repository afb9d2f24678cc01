"""The way to the cloud: what is known of the link, who may try when, and what was learned of the network."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pisyncd.core import backoff, link
from pisyncd.core.errors import CloudBusy, LinkDown, TransientError
from pisyncd.core.transfer import ChunkRule
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Wake

log = structlog.get_logger()

DESTINATION = "cloud"
PAUSED = "paused"


@dataclass(frozen=True, kw_only=True, slots=True)
class WayRules:
    """The settings of the way."""

    link: link.Rule
    backoff: backoff.Policy
    chunk: ChunkRule


class Way:
    """Shared by all that send. Listeners are woken when sending becomes possible or is asked for."""

    def __init__(self, outbox: Outbox, rules: WayRules, chance: Callable[[], float] = random.random) -> None:
        self.rules = rules
        self.link = link.Link()
        self.link_since_ms = outbox.db.now_ms()
        self.proven_at_ms: int | None = None
        self.probed_at_ms: int | None = None
        self.breaker = backoff.Breaker()
        self.breaker_error: TransientError | None = None
        self.paused = False
        self.network = ""
        self.chunk_bytes = rules.chunk.bytes_start
        self.prober_wake = Wake()
        self.chance = chance
        self._outbox = outbox
        self._listeners: list[Wake] = []
        self._trial: str | None = None

    async def load(self) -> None:
        """Goes on where the last run left off."""
        self.breaker = await self._outbox.memory.breaker(DESTINATION)
        self.paused = await self._outbox.memory.get(PAUSED) == "1"

    def listen(self, wake: Wake) -> None:
        self._listeners.append(wake)

    def rouse(self) -> None:
        """Everyone looks again."""
        for wake in self._listeners:
            wake.set()

    def observe(self, seen: link.Observation, reason: str, portal_url: str | None = None) -> None:
        """Takes one observation of the link; those that wait hear of a change."""
        before = self.link
        self.link = link.observe(before, seen, reason, self.rules.link, portal_url)
        if seen == "proven":
            self.proven_at_ms = self._outbox.db.now_ms()
        if self.link.state == "full" and self.link.doubts:
            self.prober_wake.set()
        elif self.link.state == "full" and before.doubts:
            self.rouse()
        if self.link.state != before.state:
            self.link_since_ms = self._outbox.db.now_ms()
            log.info("link.changed", old=before.state, new=self.link.state, reason=reason, portal_url=portal_url)
            self.rouse()
            if before.state == "full":
                self.prober_wake.set()

    def probed(self) -> None:
        """A look at the link has ended, whatever it saw."""
        self.probed_at_ms = self._outbox.db.now_ms()

    def obstacle(self) -> str:
        """Why nothing can be sent now: 'paused', 'offline', the code of what is waited for; '' when it can."""
        if self.paused:
            return PAUSED
        if self.link.state != "full":
            return "offline"
        if self.breaker.failures and self.breaker.due_at_ms > self._outbox.db.now_ms():
            return self.breaker_error.code if self.breaker_error else CloudBusy.code
        return ""

    def admit(self, who: str) -> backoff.Admit | backoff.Wait:
        """Whether `who` may try now; a trial belongs to `who` until `settle`."""
        if self.paused:
            return backoff.Wait(3600.0, "paused by a person")
        if self.link.state != "full":
            return backoff.Wait(3600.0, f"link is {self.link.state}")
        decision = backoff.admit(self.breaker, self._outbox.db.now_ms(), self._trial not in (None, who))
        if isinstance(decision, backoff.Admit) and decision.trial:
            self._trial = who
        return decision

    def settle(self, who: str) -> None:
        """The attempt of `who` has ended."""
        if self._trial == who:
            self._trial = None

    async def succeeded(self) -> None:
        """An attempt went well: the breaker closes."""
        if self.breaker.failures:
            log.info("breaker.closed", failures=self.breaker.failures)
            await self._set_breaker(backoff.Breaker(), None)
            self.rouse()

    async def failed(self, error: TransientError) -> None:
        """An attempt failed. A dead link is the prober's matter; anything else opens the breaker a little longer."""
        if isinstance(error, LinkDown):
            return
        after = backoff.after_failure(
            self.breaker, self.rules.backoff, self._outbox.db.now_ms(), self.chance(), error.retry_after_s
        )
        if after != self.breaker:
            wait_s = (after.due_at_ms - self._outbox.db.now_ms()) / 1000
            log.warning(
                "breaker.opened", code=error.code, detail=error.detail, failures=after.failures, wait_s=round(wait_s, 1)
            )
            await self._set_breaker(after, error)

    async def reset(self) -> None:
        """The link changed or a person asked: all waits towards the cloud are forgotten."""
        if self.breaker.failures:
            await self._set_breaker(backoff.Breaker(), None)
        self.rouse()

    async def set_paused(self, paused: bool) -> None:
        """Remembered across restarts."""
        self.paused = paused
        await self._outbox.memory.set(PAUSED, "1" if paused else "0")
        log.info("sending.paused" if paused else "sending.resumed")
        self.rouse()

    async def use_network(self, name: str, goodput: Callable[[float | None], None]) -> None:
        """Another network is in use: what was learned of it counts again."""
        if name == self.network:
            return
        self.network = name
        known = await self._outbox.memory.network(name)
        self.chunk_bytes = known[0] if known else self.rules.chunk.bytes_start
        goodput(known[1] if known else None)
        log.info("network.used", network=name, chunk_bytes=self.chunk_bytes)

    async def learn_network(self, goodput_bps: float | None) -> None:
        """Keeps what was learned of the network in use."""
        if self.network:
            await self._outbox.memory.set_network(self.network, self.chunk_bytes, goodput_bps)

    async def _set_breaker(self, breaker: backoff.Breaker, error: TransientError | None) -> None:
        self.breaker, self.breaker_error = breaker, error
        await self._outbox.memory.set_breaker(DESTINATION, breaker)
