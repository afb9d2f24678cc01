"""What a fleet looks like at a glance: how fresh data is, how long a backlog takes. Seconds are ages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cloud.rules.standing import StateName

Freshness = Literal["fresh", "aging", "stale", "never"]
FRESHNESS: tuple[Freshness, ...] = get_args(Freshness)
Sort = Literal["attention", "device_id", "last_seen", "since"]
SORTS: tuple[Sort, ...] = get_args(Sort)

#: The order of states by how soon a person should look.
ATTENTION: tuple[StateName, ...] = (
    "failing", "overdue", "recovering", "new", "healthy", "expected-quiet", "muted", "retired",
)  # fmt: skip

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
_EDGES: tuple[tuple[str, int], ...] = (
    ("15 min", 15 * MINUTE_S), ("1 h", HOUR_S), ("3 h", 3 * HOUR_S), ("1 day", DAY_S), ("7 days", 7 * DAY_S),
    ("30 days", 30 * DAY_S),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """How many devices last succeeded between `from_s` and `to_s` seconds ago; None: without end."""

    label: str
    from_s: int | None
    to_s: int | None
    devices: int


def freshness(age_s: float | None, *, fresh_s: float, stale_s: float) -> Freshness:
    """How fresh data is that is so old: below `fresh_s` fresh, below `stale_s` aging, else stale; None: never."""
    if age_s is None:
        return "never"
    return "fresh" if age_s < fresh_s else "aging" if age_s < stale_s else "stale"


def edges_s() -> list[int]:
    """Where the buckets of the histogram end."""
    return [edge for _, edge in _EDGES]


def histogram(counts: Sequence[int], never: int) -> list[Bucket]:
    """`counts` has one more entry than there are edges: the last is for all that is older."""
    found, before, name = [], 0, "0"
    for (label, edge), count in zip(_EDGES, counts, strict=False):
        shown = f"under {label}" if not before else f"{name} to {label}"
        found.append(Bucket(label=shown, from_s=before, to_s=edge, devices=count))
        before, name = edge, label
    found.append(Bucket(label=f"over {name}", from_s=before, to_s=None, devices=counts[len(_EDGES)]))
    found.append(Bucket(label="never", from_s=None, to_s=None, devices=never))
    return found
