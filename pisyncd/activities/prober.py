"""Finds out whether our cloud can be reached, and over which network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pisyncd import meters
from pisyncd.activities.way import Way
from pisyncd.core import link
from pisyncd.core.errors import CloudBusy, LinkDown, PiSyncError
from pisyncd.uplink import Uplink

log = structlog.get_logger()

QUICK_TIMEOUT_S = 3.0
MEASURE_BYTES = 32 * 1024


class Prober:
    """One step is one probe. Woken by a changed link, by doubt, and by a person.

    The speed of a network is learned from real transfers; where there were none yet and nothing is owed, from 32 KiB
    of noise, once per network.
    """

    name = "prober"

    def __init__(self, uplink: Uplink, way: Way, *, timeout_s: float, owed: Callable[[], Awaitable[bool]]) -> None:
        self.wake = way.prober_wake
        self.deadline_s = timeout_s + 120.0
        self._uplink = uplink
        self._way = way
        self._timeout_s = timeout_s
        self._owed = owed
        self._changed = False
        self._forget = False
        self._curious = False
        self.looked: Callable[[], None] = lambda: None

    def link_changed(self) -> None:
        """An interface, an address or a route changed."""
        self._changed = True
        self.wake.set()

    def asked(self, *, curious: bool) -> None:
        """A person wants all waits forgotten; a curious one wants to know the speed, too."""
        self._forget = True
        self._curious = self._curious or curious
        self.wake.set()

    async def step(self) -> float:
        """Probes once; gives the seconds until the next probe."""
        if self._changed or self._forget:
            await self._way.reset()
        if self._changed:
            self._way.observe("interface", "the network changed")
        self._changed = self._forget = False
        if not link.is_loopback(self._uplink.host) and not await asyncio.to_thread(meters.interface_is_up):
            self._way.observe("no-interface", "no network interface is up")
        else:
            # a link that has only just come up is about to show its speed by real transfers
            calm = self._way.link.state == "full" and not self._way.link.doubts
            await self._probe(may_measure=calm or self._curious)
        self._curious = False
        self._way.probed()
        self.looked()
        return link.next_probe_s(self._way.link, await self._owed(), self._way.rules.link, self._way.chance())

    async def _probe(self, *, may_measure: bool) -> None:
        await self._way.use_network(await asyncio.to_thread(meters.network_name), self._network_goodput)
        try:
            # patience grows: a packet lost on the way must not cost the ten seconds that a slow link may need
            patience_s = min(self._timeout_s, QUICK_TIMEOUT_S * 2.0 ** min(self._way.link.probes_since_change, 8))
            await self._uplink.probe(patience_s)
            if may_measure and self._uplink.goodput.known_bps is None and not await self._owed():
                await self._uplink.measure(MEASURE_BYTES)
                await self._way.learn_network(self._uplink.goodput.known_bps)
        except LinkDown as error:
            # a kept-alive connection that the network has forgotten would fail the next probes too
            log.info("probe.failed", code=error.code, detail=error.detail)
        except CloudBusy as error:
            await self._way.failed(error)
        except PiSyncError as error:
            log.warning("probe.refused", code=error.code, detail=error.detail, hint=error.hint)

    def _network_goodput(self, known_bps: float | None) -> None:
        self._uplink.goodput.known_bps = known_bps
