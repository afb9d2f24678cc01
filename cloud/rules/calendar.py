"""When a school is open: terms, holidays, weekdays, and the local time in which that is meant.

The file that the setting `calendar_file` names:

    default:                       # for every group that names no other
      timezone: Africa/Kampala
      open_days: [mon, tue, wed, thu, fri]
      terms:
        - {from: 2026-02-02, to: 2026-05-01}
      holidays:
        - 2026-03-08
        - {from: 2026-04-03, to: 2026-04-06}

Everything may be left out: without terms it is always term, without open_days every day is open. Both ends of a span
belong to it. Days are counted from 1970-01-01, weekdays from Monday.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT = "default"
DAY_S = 86_400
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_KEYS = frozenset({"timezone", "open_days", "terms", "holidays"})
#: Clocks change on quarters of an hour.
_QUARTER_S = 900
_REMEMBERED_MAX = 100_000

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Spans are days, both ends included."""

    timezone: str = "UTC"
    open_days: frozenset[int] = frozenset(range(7))
    terms: tuple[Span, ...] = ()
    holidays: tuple[Span, ...] = ()
    _offsets: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    _open: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)

    def local_s(self, at_ms: int) -> int:
        """Seconds of local time since the epoch, as if it were UTC."""
        return at_ms // 1000 + self._offset(at_ms // 1000)

    def at_ms(self, local_s: int) -> int:
        """The moment of a local time; of one that a clock change skips or repeats, a moment beside it."""
        guess = local_s - self._offset(local_s)
        return (local_s - self._offset(guess)) * 1000

    def is_open(self, day: int) -> bool:
        """Whether a day belongs to school."""
        known = self._open.get(day)
        if known is None:
            known = self._open[day] = (
                weekday(day) in self.open_days
                and (not self.terms or any(first <= day <= last for first, last in self.terms))
                and not any(first <= day <= last for first, last in self.holidays)
            )
        return known

    def _offset(self, at_s: int) -> int:
        quarter = at_s // _QUARTER_S
        known = self._offsets.get(quarter)
        if known is None:
            if len(self._offsets) >= _REMEMBERED_MAX:
                self._offsets.clear()
            moment = datetime.fromtimestamp(min(max(quarter * _QUARTER_S, 0), 2**34), UTC)
            offset = moment.astimezone(ZoneInfo(self.timezone)).utcoffset()
            known = self._offsets[quarter] = 0 if offset is None else int(offset.total_seconds())
        return known


def weekday(day: int) -> int:
    """0 is Monday."""
    return (day + 3) % 7


def is_timezone(name: str) -> bool:
    """Whether there is such a timezone: 'Africa/Kampala'."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def parse(raw: Mapping[str, Any], timezone: str) -> tuple[dict[str, Calendar], list[str]]:
    """The calendars of a file by name, and every fault that was found. `timezone` is for those that name none."""
    found: dict[str, Calendar] = {}
    faults: list[str] = []
    for name, body in raw.items():
        if not isinstance(body, Mapping):
            faults.append(f"{name}: a calendar is `timezone`, `open_days`, `terms`, `holidays`")
            continue
        faults += [
            f"{name}: unknown key {key!r}; known: {', '.join(sorted(_KEYS))}" for key in body if key not in _KEYS
        ]
        zone = str(body.get("timezone", timezone))
        if not is_timezone(zone):
            faults.append(f"{name}.timezone: there is no {zone!r}; write it as Africa/Kampala")
            zone = "UTC"
        found[name] = Calendar(
            timezone=zone,
            open_days=_open_days(name, body.get("open_days"), faults),
            terms=_spans(f"{name}.terms", body.get("terms"), faults),
            holidays=_spans(f"{name}.holidays", body.get("holidays"), faults),
        )
    found.setdefault(DEFAULT, Calendar(timezone=timezone))
    return found, faults


def _open_days(name: str, raw: Any, faults: list[str]) -> frozenset[int]:
    if raw is None or raw == "":
        return frozenset(range(7))
    days = [str(each).lower()[:3] for each in raw] if isinstance(raw, list) else [""]
    if not days or any(day not in WEEKDAYS for day in days):
        faults.append(f"{name}.open_days: a list of {', '.join(WEEKDAYS)}")
        return frozenset(range(7))
    return frozenset(WEEKDAYS.index(day) for day in days)


def _spans(where: str, raw: Any, faults: list[str]) -> tuple[Span, ...]:
    if raw is None or raw == "":
        return ()
    if not isinstance(raw, list):
        faults.append(f"{where}: a list of days (2026-03-08) or spans ({{from: 2026-04-03, to: 2026-04-06}})")
        return ()
    found = []
    for each in raw:
        pair = (
            (each.get("from"), each.get("to"))
            if isinstance(each, Mapping) and set(each) == {"from", "to"}
            else (each, each)
        )
        first, last = (_day(value) for value in pair)
        if first is None or last is None or first > last:
            faults.append(
                f"{where}: {each!r} is no day (2026-03-08) and no span ({{from: 2026-04-03, to: 2026-04-06}})"
            )
        else:
            found.append((first, last))
    return tuple(found)


def _day(raw: Any) -> int | None:
    try:
        return date.fromisoformat(str(raw)).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None
