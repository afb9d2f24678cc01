"""Reads for lists: one more row than asked for tells whether there is a next page."""

from __future__ import annotations

import string
from dataclasses import dataclass

from cloud.store.db import Row, Tx

INT64_MAX = 2**63 - 1
SEARCH_MAX = 128


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which events of a history: wall milliseconds from (with) and to (without), and a status or None for all."""

    from_ms: int = -(2**62)
    to_ms: int = 2**62
    status: str | None = None


ALWAYS = Span()


async def history(
    tx: Tx, dk: int, span: Span, *, before: tuple[int, int] | None, limit: int, offset: int
) -> tuple[list[Row], int]:
    """Up to limit + 1 events, newest first, and how many there are in the span."""
    before_ms, before_id = before or (INT64_MAX, INT64_MAX)
    rows = await tx.all(
        "history_page",
        dk=dk,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        before_ms=before_ms,
        before_id=before_id,
        status=span.status,
        row_limit=limit + 1,
        row_offset=offset,
    )
    if (span.from_ms, span.to_ms) != (ALWAYS.from_ms, ALWAYS.to_ms):
        total = await tx.value("history_count", dk=dk, from_ms=span.from_ms, to_ms=span.to_ms, status=span.status)
        return rows, total
    state = await tx.one("device_state_by_dk", dk=dk)
    return rows, state[f"{span.status or 'events'}_total"] if state else 0


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def like_pattern(search: str) -> str | None:
    """'Pi_1' -> '%pi\\_1%', to be matched in lower case; None for no search. SQLite lowers a-z only."""
    if not search:
        return None
    escaped = search[:SEARCH_MAX].translate(_LOWER).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


@dataclass(frozen=True, kw_only=True)
class Failing:
    """Which devices with repeated failures; None: any. `from_ms`: count what happened since then."""

    threshold: int
    consecutive: bool = False
    from_ms: int | None = None
    group: str | None = None
    acknowledged: bool | None = None


async def failures(tx: Tx, wanted: Failing, *, limit: int, offset: int) -> tuple[list[Row], int]:
    """Up to limit + 1 devices that failed more than `threshold` times, worst first, and how many there are."""
    name = "failures_by_streak" if wanted.consecutive else "failures_by_total"
    if wanted.from_ms is not None and not wanted.consecutive:
        name = "failures_in_window"
    chosen = {
        "threshold": wanted.threshold,
        "from_ms": wanted.from_ms,
        "group_name": wanted.group,
        "acknowledged": None if wanted.acknowledged is None else int(wanted.acknowledged),
    }
    rows = await tx.all(name, **chosen, row_limit=limit + 1, row_offset=offset)
    return rows, await tx.value(f"{name}_count", **chosen)


async def notifications(
    tx: Tx, *, dk: int | None, is_open: bool | None, before_id: int, limit: int, offset: int
) -> tuple[list[Row], int]:
    """Up to limit + 1 notifications, newest first, and how many there are."""
    flag = None if is_open is None else int(is_open)
    rows = await tx.all(
        "notifications_page", dk=dk, is_open=flag, before_id=before_id, row_limit=limit + 1, row_offset=offset
    )
    return rows, await tx.value("notifications_count", dk=dk, is_open=flag)
