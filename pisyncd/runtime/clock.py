"""Time on a computer without a clock battery.

Durations come from CLOCK_BOOTTIME, which no clock step moves. Wall time is a label with a trust flag: it is trusted
once systemd-timesyncd has set the clock (it then keeps /run/systemd/timesync/synchronized, systemd-timesyncd(8)), or
once a proven answer of our cloud agreed with it to two minutes in this boot.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
AGREEMENT_MS = 120_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """When something happened, as well as this device can say. Times in milliseconds."""

    boot_id: str
    boottime_ms: int
    wall_ms: int
    clock_trusted: bool


class Clock:
    """The device's clocks. A test passes its own object with the same methods."""

    def __init__(self) -> None:
        self.boot_id = BOOT_ID.read_text(encoding="ascii").strip()
        self._offset_ms: int | None = None

    def boottime_ms(self) -> int:
        """Milliseconds since this boot, sleep included; no clock step moves it."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, as wrong as the system clock is."""
        return time.time_ns() // 1_000_000

    def trusted(self) -> bool:
        """Whether wall_ms can be believed."""
        agreed = self._offset_ms is not None and abs(self._offset_ms) <= AGREEMENT_MS
        return agreed or SYNCHRONIZED.exists()

    def confirm(self, cloud_wall_ms: int) -> None:
        """Takes the time of a proven answer of our cloud."""
        self._offset_ms = cloud_wall_ms - self.wall_ms()

    @property
    def offset_ms(self) -> int | None:
        """The cloud's time minus ours when it last answered, or None before it did."""
        return self._offset_ms

    def stamp(self) -> Stamp:
        """Now, on all clocks."""
        return Stamp(
            boot_id=self.boot_id,
            boottime_ms=self.boottime_ms(),
            wall_ms=self.wall_ms(),
            clock_trusted=self.trusted(),
        )
