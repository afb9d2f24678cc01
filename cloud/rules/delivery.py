"""Webhooks out: who wants what, when an attempt is made again, and what its end means.

after attempt   1     2      3       4    5    6     7     8     9     10
next one in     5 s   5 min  30 min  2 h  5 h  10 h  14 h  20 h  24 h  never: failed
"""

from __future__ import annotations

from collections.abc import Iterable

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
