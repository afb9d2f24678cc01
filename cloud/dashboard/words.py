"""Numbers and times as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from pisyncd.core import units, wire

_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def size(count: int | None) -> str:
    """1500 -> '1.5 KB', None -> 'unknown'."""
    return "unknown" if count is None else units.size(count)


def number(value: int) -> str:
    """1234567 -> '1 234 567', with narrow no-break spaces."""
    return f"{value:,}".replace(",", "\u202f")


def ago(at_ms: int | None, now_ms: int) -> str:
    """Three hours before now -> '3 hours ago'; None -> 'never'."""
    if at_ms is None:
        return "never"
    seconds = (now_ms - at_ms) // 1000
    for span, word in _SPANS:
        if seconds >= span:
            count = seconds // span
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return "just now" if seconds >= 0 else "in the future"


def clock(at_ms: int | None) -> str:
    """'2026-01-31 12:30 UTC'."""
    if at_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "out of range"


def percent(part: int, whole: int | None) -> int:
    """50 of 200 -> 25; an empty or unknown whole counts as done or not begun."""
    if whole is None:
        return 0
    return 100 if whole == 0 else min(100, part * 100 // whole)


def path_url(path: bytes) -> str:
    """Raw path bytes as they stand in an address; slashes stay."""
    return quote(path, safe="/")


def path_text(path: bytes) -> str:
    """A path as a person can read it; line breaks and other controls are shown, never made."""
    text = wire.display_path(path)
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
