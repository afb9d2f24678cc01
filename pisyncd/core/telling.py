"""When a report of vitals is worth a message on a metered link."""

from __future__ import annotations

from pisyncd.core.vitals import Vitals

SPACING_S = 3600.0
DAILY_S = 86_400.0
#: Free space, in percent, at whose crossing people should know.
DISK_MARKS = (20.0, 10.0, 5.0, 2.0, 1.0)
HOT_C = (85.0, 80.0)
_NAMES = ("version", "python", "os", "kernel", "model", "throttled", "card_wear_percent", "clock_trusted")


def worth_telling(before: Vitals | None, now: Vitals, age_s: float) -> bool:
    """Whether to send `now`, `age_s` after `before` was sent: at once when it is the first or says how a command ended,
    every DAILY_S, and after SPACING_S when something has changed that a person would act upon."""
    if before is None or now.commands or age_s >= DAILY_S:
        return True
    return age_s >= SPACING_S and _matters(before, now)


def _matters(before: Vitals, now: Vitals) -> bool:
    if any(getattr(before, name) != getattr(now, name) for name in _NAMES):
        return True
    if bool(before.failed_files) != bool(now.failed_files):
        return True
    return _hot(before) != _hot(now) or _marks(before) != _marks(now)


def _hot(told: Vitals) -> int:
    """How many of the marks of heat are passed."""
    return sum((told.temperature_c or 0.0) >= mark for mark in HOT_C)


def _marks(told: Vitals) -> int:
    """How many of the marks of little room are passed."""
    if told.disk_free_bytes is None or not told.disk_total_bytes:
        return 0
    return sum(100 * told.disk_free_bytes / told.disk_total_bytes < mark for mark in DISK_MARKS)
