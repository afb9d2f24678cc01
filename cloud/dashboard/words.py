"""Numbers and times as a person reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote

from pisyncd.core import units, wire

#: Joiners are not among them: scripts and emoji need them.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))

#: What a page says after a form has done its work; the address carries only the code.
DONE = {
    "acknowledged": "Acknowledged: nobody else is told of it.",
    "bulk": "Done.",
    "channel-removed": "The channel is removed.",
    "channel-saved": "The channel is saved.",
    "channel-tested": "A test is on its way.",
    "code-removed": "The code is removed.",
    "conflict-resolved": "The conflict is resolved.",
    "described": "Saved.",
    "device-accepted": "The device is let in.",
    "device-rejected": "The device is rejected.",
    "device-retired": "The device is retired: its tokens hold no more.",
    "export-started": "The export has begun.",
    "fleet-key-revoked": "The fleet key is revoked.",
    "group-removed": "The group is removed.",
    "group-saved": "The group is saved.",
    "grouped": "The devices belong to the group now.",
    "key-revoked": "The key is revoked.",
    "muted": "Muted: nobody is told until the time is over.",
    "password-set": "The password is set.",
    "person-added": "The person may sign in now.",
    "person-changed": "The grants are changed.",
    "person-disabled": "The person is shut out.",
    "person-enabled": "The person may sign in again.",
    "person-removed": "The person is removed.",
    "rule-removed": "The rule is removed.",
    "rule-saved": "The rule is saved.",
    "silence-added": "The silence is set.",
    "silence-removed": "The silence is ended.",
    "support-bundle-asked": "A support bundle is asked for with the next contact.",
    "sync-asked": "A sync is asked for with the next contact.",
    "tagged": "The tag is set.",
    "token-rotates": "The next batch is answered with a new token.",
    "ungrouped": "The devices belong to the group no more.",
    "unmuted": "Unmuted.",
    "untagged": "The tag is taken away.",
    "webhook-changed": "The webhook is changed.",
    "webhook-disabled": "The webhook is switched off.",
    "webhook-enabled": "The webhook is switched on.",
    "webhook-removed": "The webhook is removed.",
    "webhook-replayed": "What was asked for is being sent again.",
    "webhook-test-failed": "The test failed; the delivery log says why.",
    "webhook-tested": "The test was delivered.",
}

_STATES = {
    "new": "let in, never heard of",
    "healthy": "heard of lately, and its syncs do not fail again and again",
    "expected-quiet": "silent, and by its own rhythm and calendar that is normal",
    "overdue": "silent for longer than its rhythm makes likely",
    "failing": "reachable, but its syncs fail again and again",
    "recovering": "back, with a backlog that it works off",
    "muted": "somebody wants to hear nothing of it for a while",
    "retired": "shut out for good",
}


def about_state(state: str) -> str:
    """What a state means, in one line."""
    return _STATES.get(state, "")


def visible(text: str) -> str:
    """Controls, and what turns the direction of writing, are shown, never made; line breaks and tabs stay."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
