"""When a file that was seen is quiet enough to be offered.

Durations come from the monotonic clock. A file's mtime is wall time, so it is believed only as a distance from the
wall clock of the same moment: a writer that is writing now leaves an mtime close to now, whatever year the clock says.
An mtime far from now, past or future, was not left by such a writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Kind = Literal["file", "sqlite"]


class Sighting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One file as it was seen: its place, what it looked like, and how urgent it is.

    `path` is relative to the root, raw bytes, `/` separated. For a database (`sqlite`) the size is main plus -wal and
    mtime_ns the later of the two, so that a write that only reached the -wal is seen as a change.
    """

    root: str
    path: bytes
    size: int
    mtime_ns: int
    inode: int
    kind: Kind = "file"
    priority: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Offer it. `forced`: it is still being written but has waited for force_s."""

    forced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Look again in `seconds`."""

    seconds: float
    reason: str


def judge(
    *,
    now_s: float,
    first_s: float,
    last_s: float,
    mtime_age_s: float,
    debounce_s: float,
    force_s: float,
) -> Ready | Wait:
    """Whether a file that the watcher noticed at `first_s` and again at `last_s` (monotonic seconds) is quiet.

    mtime_age_s: wall clock minus mtime, both read now; negative when the mtime is in the future.

    quiet for debounce_s -> Ready; noticed force_s ago and never quiet -> Ready(forced); else Wait.
    """
    quiet_s = now_s - last_s
    if 0 <= mtime_age_s < quiet_s:
        quiet_s = mtime_age_s  # a writer that keeps the file open writes without telling
    if quiet_s >= debounce_s:
        return Ready()
    waited_s = now_s - first_s
    if waited_s >= force_s:
        return Ready(forced=True)
    return Wait(seconds=min(debounce_s - quiet_s, force_s - waited_s), reason="still being written")


def judge_found(*, mtime_age_s: float, debounce_s: float) -> Ready | Wait:
    """Whether a file that a scan came across is quiet; nothing is known of it but its mtime.

    An mtime within debounce_s of now, on either side, may belong to a writer at work; any other is old news.
    """
    if abs(mtime_age_s) >= debounce_s:
        return Ready()
    return Wait(seconds=debounce_s - max(mtime_age_s, 0.0), reason="written just now")


def judge_again(*, now_s: float, offered_s: float | None, interval_s: float) -> Ready | Wait:
    """Whether a file that is never closed (a live database, a log kept open) may be captured again.

    `offered_s` is when it was offered last (monotonic), None if never; it is offered at most once per `interval_s`.
    """
    if offered_s is None or now_s - offered_s >= interval_s:
        return Ready()
    return Wait(seconds=interval_s - (now_s - offered_s), reason="captured a moment ago")
