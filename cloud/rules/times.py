"""Which time an event gets in the history. A wrong clock is flagged, never refused."""

from __future__ import annotations

CLOCK_SUSPECT = 1
FUTURE = 2
DERIVED = 4
LATE = 8
NAMES = ((CLOCK_SUSPECT, "clock_suspect"), (FUTURE, "future"), (DERIVED, "derived"), (LATE, "late"))

#: Earlier than PiSync exists: a board without a clock battery starts at the epoch or at its image's build date.
OLDEST_MS = 1_577_836_800_000
FUTURE_MS = 60_000
LATE_MS = 24 * 3600 * 1000


def judge(*, timestamp_ms: int, received_ms: int, sent_ms: int | None, trusted: bool | None) -> tuple[int, int]:
    """(when it happened, flags).

    A device that does not trust its clock, or one whose time cannot be right, but who says when it sent (by the same
    clock), gets `received - (sent - timestamp)`, flagged derived. Without that, an impossible time becomes the time of
    arrival; a possible one counts as it is, flagged late when it is a day old or more.
    """
    impossible = timestamp_ms < OLDEST_MS or timestamp_ms > received_ms + FUTURE_MS
    flags = 0
    if impossible or trusted is False:
        flags |= CLOCK_SUSPECT
    if timestamp_ms > received_ms + FUTURE_MS:
        flags |= FUTURE
    occurred = timestamp_ms
    if flags and sent_ms is not None and 0 <= sent_ms - timestamp_ms <= received_ms - OLDEST_MS:
        occurred = received_ms - (sent_ms - timestamp_ms)
        flags |= DERIVED
    elif impossible:
        occurred = received_ms
        flags |= DERIVED
    if received_ms - occurred >= LATE_MS:
        flags |= LATE
    return occurred, flags


def flag_names(flags: int) -> list[str]:
    """12 -> ['derived', 'late']."""
    return [name for bit, name in NAMES if flags & bit]
