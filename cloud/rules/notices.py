"""When a channel may be used, and what is said there. Times are wall milliseconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cloud.rules.calendar import DAY_S, Calendar

NoticeKind = Literal["opened", "recovered", "escalated", "test"]
NAMED_MAX = 20
#: After a failure; then it is given up, and shown as failed.
RETRY_S = (60, 300, 1800)
#: Schemes that act on the machine itself instead of sending anything away.
LOCAL_SCHEMES = frozenset({
    "dbus", "qt", "kde", "glib", "gnome", "macosx", "windows", "syslog", "file", "exec", "enigma2", "aprs", "serial",
})  # fmt: skip

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, kw_only=True)
class Hours:
    """When a channel is used: not from `quiet[0]` to `quiet[1]`, and all at once at `digest` (minutes of the day)."""

    calendar: Calendar
    quiet: tuple[int, int] | None = None
    digest: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that is told."""

    kind: NoticeKind
    subject: str
    about: str
    detail: str
    at_ms: int
    devices: int = 1
    left: Sequence[str] = ()


def minutes(text: str) -> int | None:
    """'22:30' -> 1350; None for what is no time of day."""
    found = _CLOCK.fullmatch(text.strip())
    return int(found[1]) * 60 + int(found[2]) if found else None


def span(text: str) -> tuple[int, int] | None:
    """'22:00-06:00' -> (1320, 360); None for what is no span."""
    first, dash, last = text.partition("-")
    begins, ends = minutes(first), minutes(last)
    return (begins, ends) if dash and begins is not None and ends is not None and begins != ends else None


def usable_at(hours: Hours, at_ms: int) -> int:
    """The first moment from `at_ms` on at which the channel may be used."""
    local_s = hours.calendar.local_s(at_ms)
    day, minute = local_s // DAY_S, local_s % DAY_S / 60
    if hours.digest is not None:
        return hours.calendar.at_ms((day if minute <= hours.digest else day + 1) * DAY_S + hours.digest * 60)
    if hours.quiet is None:
        return at_ms
    begins, ends = hours.quiet
    if begins < ends:
        quiet, day_of_end = begins <= minute < ends, day
    else:
        quiet, day_of_end = minute >= begins or minute < ends, day + (minute >= begins)
    return hours.calendar.at_ms(day_of_end * DAY_S + ends * 60) if quiet else at_ms


def subject(lines: Sequence[Line]) -> str:
    """One line that says what it is about."""
    if len(lines) == 1:
        return f"PiSync: {sentence(lines[0])}"
    opened = sum(line.devices for line in lines if line.kind in ("opened", "escalated"))
    recovered = sum(line.devices for line in lines if line.kind == "recovered")
    parts = [f"{opened} devices need a person"] if opened else []
    parts += [f"{recovered} recovered"] if recovered else []
    return f"PiSync: {', '.join(parts)}" if parts else "PiSync: a test"


def sentence(line: Line) -> str:
    """'pi-1 is failing: card full'."""
    if line.kind == "test":
        return "this is a test"
    if line.kind == "recovered":
        if line.left:
            rest = f"; {len(line.left)} did not: {', '.join(line.left[:NAMED_MAX])}"
            return f"{line.subject}: {line.devices - len(line.left)} of {line.devices} devices recovered{rest}"
        many = f"{line.devices} devices of " if line.devices > 1 else ""
        return f"{many}{line.subject} recovered"
    still = "nobody has taken this on: " if line.kind == "escalated" else ""
    many = f"{line.devices} devices of " if line.devices > 1 else ""
    return f"{still}{many}{line.subject} {'are' if many else 'is'} {line.about}" + (
        f": {line.detail}" if line.detail else ""
    )


def body(lines: Sequence[Line], when: Sequence[str], url: str) -> str:
    """The message itself: a line for each, at most NAMED_MAX of them. `when` are their times, as people read them."""
    shown = [f"- {sentence(line)} (since {at})" for line, at in zip(lines[:NAMED_MAX], when, strict=False)]
    more = len(lines) - NAMED_MAX
    shown += [f"- and {more} more"] if more > 0 else []
    return "\n".join([*shown, "", url or "The page Incidents shows all of it."])
