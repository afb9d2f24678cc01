"""Webhooks out: who wants what, when an attempt is made again, and what its end means.

after attempt   1     2      3       4    5    6     7     8     9     10
next one in     5 s   5 min  30 min  2 h  5 h  10 h  14 h  20 h  24 h  never: failed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

RECORD_FAMILIES = ("enrollment", "profile", "progress", "assessment", "record")
TYPES = frozenset(
    {
        *(f"{family}.{verb}" for family in RECORD_FAMILIES for verb in ("created", "updated", "deleted")),
        "device.enrolled",
        "device.revoked",
        "device.failing",
        "device.recovered",
        "upload.completed",
        "conflict.detected",
    }
)
TEST_TYPE = "webhook.test"


def is_filter(text: str) -> bool:
    """'profile.updated', 'profile.*' and '*' choose something that can happen; 'profle.*' does not."""
    family, _, rest = text.partition(".")
    return text == "*" or text in TYPES or (rest == "*" and any(each.startswith(f"{family}.") for each in TYPES))


def wants(filters: Iterable[str], kind: str) -> bool:
    """Whether an endpoint with these filters gets happenings of this type."""
    family = f"{kind.partition('.')[0]}.*"
    return any(each in ("*", kind, family) for each in filters)


SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
DELAYS_MS = (
    5 * SECOND_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS, 5 * HOUR_MS, 10 * HOUR_MS, 14 * HOUR_MS, 20 * HOUR_MS,
    24 * HOUR_MS,
)  # fmt: skip
ATTEMPTS_MAX = len(DELAYS_MS) + 1
#: An endpoint of which nothing came through for so long is disabled.
PATIENCE_MS = 5 * DAY_MS
#: Longer than that nobody is held back, whatever Retry-After says.
HOLD_MS_MAX = DAY_MS
BUSY = frozenset({429, 502, 503, 504})
GONE = 410
LANE_MAX = 10

State = Literal["pending", "processing", "delivered", "failed"]
STATES: tuple[State, ...] = ("pending", "processing", "delivered", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempted:
    """How one attempt ended. `error` is None when it was delivered; `answer` is how the answer's body begins."""

    at_ms: int
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    retry_after: str = ""
    answer: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What becomes of the delivery and of its endpoint; `held_until_ms`: nothing is sent there before."""

    state: Literal["pending", "delivered", "failed"]
    due_at_ms: int
    held_until_ms: int | None = None
    disable: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A delivery that is due; `earlier`: the unfinished one of the same resource right before it."""

    id: int
    resource: str
    earlier: int | None


def error_of(status: int) -> str | None:
    """What an answer's status says: None is delivered. Redirects are never followed."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return "redirect"
    return "endpoint-gone" if status == GONE else "http-status"


def judge(
    attempted: Attempted, *, attempt: int, failing_since_ms: int | None, chance: float, early_for_ms: int = 0
) -> Verdict:
    """What attempt number `attempt` (from 1) means; `chance` is 0-1.

    `early_for_ms`: somebody asked for it before it was due; when it fails, the attempt that was to come still comes
    then, else asking often would use the schedule up.
    """
    ended_ms = attempted.at_ms + attempted.duration_ms
    if attempted.error is None:
        return Verdict(state="delivered", due_at_ms=ended_ms)
    if attempted.status_code == GONE:
        return Verdict(state="failed", due_at_ms=ended_ms, disable="it answered 410: gone for good")
    disable = ""
    if failing_since_ms is not None and ended_ms - failing_since_ms >= PATIENCE_MS:
        disable = f"nothing came through for {PATIENCE_MS // DAY_MS} days; last: {attempted.error}"
    held = None
    if attempted.status_code in BUSY and (wait_ms := retry_after_ms(attempted.retry_after, ended_ms)):
        held = ended_ms + wait_ms
    if disable or (attempt >= ATTEMPTS_MAX and not early_for_ms):
        return Verdict(state="failed", due_at_ms=ended_ms, held_until_ms=held, disable=disable)
    due = early_for_ms or ended_ms + delay_ms(attempt, chance)
    return Verdict(state="pending", due_at_ms=max(due, held or 0), held_until_ms=held)


def delay_ms(attempt: int, chance: float) -> int:
    """How long after attempt number `attempt` the next one is made, 10 % more or less."""
    return round(DELAYS_MS[min(attempt, len(DELAYS_MS)) - 1] * (0.9 + chance / 5))


def retry_after_ms(text: str, now_ms: int) -> int:
    """'120' or 'Wed, 21 Oct 2026 07:28:00 GMT' as milliseconds from now, at most a day; 0 when it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * SECOND_MS, HOLD_MS_MAX)
    try:
        at_ms = round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
    return min(max(0, at_ms - now_ms), HOLD_MS_MAX)


def lanes(rows: Sequence[Candidate], *, room: int, lane_max: int = LANE_MAX) -> tuple[list[list[int]], list[Candidate]]:
    """Up to `room` lanes (deliveries of one resource, one after the other), and what waits for something else.

    A delivery is taken only when the one before it is taken too, or ended.
    """
    found: dict[str, list[int]] = {}
    taken: set[int] = set()
    blocked: list[Candidate] = []
    for row in sorted(rows, key=lambda row: row.id):
        lane = found.get(row.resource)
        if row.earlier is not None and row.earlier not in taken:
            if lane is None:
                blocked.append(row)
            continue
        if lane is None and len(found) < room:
            lane = found[row.resource] = []
        if lane is not None and len(lane) < lane_max:
            lane.append(row.id)
            taken.add(row.id)
    return list(found.values()), blocked


UNHEALTHY_RATE = 0.1
UNHEALTHY_WAIT_MS = 15 * MINUTE_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """How the queue fares: `failure_rate` of attempts is 0-1."""

    healthy: bool
    failure_rate: float
    message: str


def health(*, attempts: int, failures: int, oldest_wait_ms: int, disabled: int) -> Health:
    """At most one attempt in ten failed, and nothing that is due has waited for a quarter of an hour."""
    rate = failures / attempts if attempts else 0.0
    troubles = []
    if rate > UNHEALTHY_RATE:
        troubles.append(f"{failures} of {attempts} attempts failed within a day")
    if oldest_wait_ms > UNHEALTHY_WAIT_MS:
        troubles.append(f"the oldest delivery waits for {oldest_wait_ms // MINUTE_MS} minutes")
    healthy = not troubles
    if disabled:
        troubles.append("1 endpoint is disabled" if disabled == 1 else f"{disabled} endpoints are disabled")
    message = "; ".join(troubles) or ("deliveries come through" if attempts else "nothing was to be delivered")
    return Health(healthy=healthy, failure_rate=round(rate, 4), message=message)
