"""Gets transfers going again after a short outage.

A connection that was silenced for ten seconds waits up to as long again for TCP's next retransmission. While anything
is being sent, this activity looks for connections without acknowledgements, knocks at the cloud by a small request,
and once that is answered, ends the silent connections: the lanes ask for the offset and go on at once.
"""

from __future__ import annotations

import structlog

from pisyncd.core.errors import PiSyncError
from pisyncd.runtime.activity import Wake
from pisyncd.uplink import Uplink

log = structlog.get_logger()

LOOK_S = 1.0
SILENT_S = 2.5
KNOCK_S, KNOCK_MAX_S = 2.0, 16.0


class Rescuer:
    """One step looks once. It sleeps while nothing is being sent."""

    name = "rescuer"
    deadline_s = 60.0

    def __init__(self, uplink: Uplink) -> None:
        self.wake = Wake()
        self._uplink = uplink
        self._knock_s = KNOCK_S
        uplink.began_sending = self.wake.set

    async def step(self) -> float:
        """Seconds until the next look."""
        if not self._uplink.goodput.is_sending:
            return 3600.0
        if self._uplink.connections.stalled_s() < SILENT_S:
            return LOOK_S
        try:
            await self._uplink.probe(self._knock_s)
        except PiSyncError:
            # a slow link with TLS needs several round trips of a second
            self._knock_s = min(self._knock_s * 1.5, KNOCK_MAX_S)
            return LOOK_S / 2
        self._knock_s = KNOCK_S
        cut = self._uplink.connections.cut_stalled(SILENT_S)
        if cut:
            log.info("transfers.rescued", connections=cut)
        return LOOK_S
