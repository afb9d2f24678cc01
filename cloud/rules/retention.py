"""What the store may forget, and when."""

from __future__ import annotations

DAY_MS = 86_400_000
INT64_MAX = 2**63 - 1
#: How long decisions about records that are settled can be looked at.
CONFLICTS_KEEP_DAYS = 180


def forget_before_ms(now_ms: int, keep_days: int) -> int:
    """What is older than this has had its time."""
    return now_ms - keep_days * DAY_MS


def forget_through(*, export_on: bool, watermark: int) -> int:
    """The highest ord that may be forgotten: what the export still owes is kept, however old it is."""
    return watermark if export_on else INT64_MAX
