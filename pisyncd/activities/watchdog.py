"""Feeds systemd's watchdog as long as every activity shows progress within its own deadline.

Waiting as planned is progress, so weeks offline feed it; a step that neither ends nor beats starves it, and systemd
restarts the daemon.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from pisyncd.runtime.activity import Pulse, Wake
from pisyncd.runtime.notify import Notifier

log = structlog.get_logger()

STATUS_INTERVAL_S = 15.0


class Watchdog:
    """`status` gives the line that `systemctl status` shows; it must be cheap."""

    name = "watchdog"

    def __init__(
        self, pulse: Pulse, notifier: Notifier, status: Callable[[], str], *, deadline_s: float = 60.0
    ) -> None:
        self.deadline_s = deadline_s
        self.wake = Wake()
        self._pulse = pulse
        self._notifier = notifier
        self._status = status
        self._shown = ""
        self._late: list[str] = []

    async def step(self) -> float:
        """Feed or starve; half of systemd's interval until the next look."""
        late = [name for name in self._pulse.late() if name != self.name]
        if late:
            self._show("stuck: " + ", ".join(late))
        else:
            self._notifier.watchdog()
            self._show(self._status())
        if late != self._late:
            self._tell(late)
        self._late = late
        return min(self._notifier.watchdog_interval_s or STATUS_INTERVAL_S, STATUS_INTERVAL_S)

    def _show(self, text: str) -> None:
        # Unchanged status lines would wake systemd for nothing, all day long.
        if text != self._shown:
            self._notifier.status(text)
            self._shown = text

    def _tell(self, late: list[str]) -> None:
        if late:
            log.error("watchdog.starved", activities=late, hint="systemd restarts the daemon if this goes on")
        else:
            log.info("watchdog.recovered")
