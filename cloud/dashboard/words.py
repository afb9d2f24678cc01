"""Numbers and times as a person reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from cloud.flows.fleet import Snapshot
from cloud.rules.faults import UNSPECIFIED
from pisyncd.core import units, wire
from pisyncd.core.vitals import Vitals

#: Joiners are not among them: scripts and emoji need them.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
#: A Raspberry Pi slows itself down from 80 °C on.
HOT_C = 80.0
DISK_LOW_PERCENT = 10
WORN_PERCENT = 80

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


def iso(at_ms: int | None) -> str:
    """'2026-01-31T12:30:00Z', for machines that read pages."""
    return clock(at_ms)[:16].replace(" ", "T") + ":00Z" if clock(at_ms)[:1].isdigit() else ""


def cell(name: str, value: Any) -> str:
    """A column of a row as it stands in a CSV file; what ends in _ms is a moment."""
    if value is None:
        return ""
    return iso(value) if name.endswith("_ms") else str(value)


def since(at_ms: int, now_ms: int) -> str:
    """As a person says it, in UTC: 'since 09:12', 'since yesterday', 'since Tuesday', 'since 3 May 2025'."""
    at, now = datetime.fromtimestamp(at_ms / 1000, UTC), datetime.fromtimestamp(now_ms / 1000, UTC)
    days = (now.date() - at.date()).days
    if days <= 0:
        return f"since {at:%H:%M}"
    if days == 1:
        return "since yesterday"
    if days < 7:
        return f"since {at:%A}"
    return f"since {at.day} {at:%B}" + (f" {at.year}" if at.year != now.year else "")


def ahead(at_ms: int | None, now_ms: int) -> str:
    """What is to come, roughly: 'in 3 hours', 'any moment'; '' without a time."""
    if at_ms is None:
        return ""
    return "any moment" if at_ms <= now_ms + 60_000 else "in " + ago(2 * now_ms - at_ms, now_ms).removesuffix(" ago")


def several(count: int, one: str, many: str = "") -> str:
    """'1 device', '3 devices'."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def attention(fleet: Snapshot, now_ms: int) -> str:
    """What needs a person, in a line: '3 devices fail, 2 are overdue; 212 devices: card full since Tuesday'."""
    failing, overdue = fleet.states.get("failing", 0), fleet.states.get("overdue", 0)
    parts = []
    if failing:
        parts.append(f"{several(failing, 'device fails', 'devices fail')}")
    if overdue:
        subject = number(overdue) if failing else several(overdue, "device")
        parts.append(f"{subject} {'is' if overdue == 1 else 'are'} overdue")
    found = [", ".join(parts)] if parts else []
    # A code says more than that something failed; the list has the one that most devices have first.
    named = [each for each in fleet.faults if each.code != UNSPECIFIED] or fleet.faults
    worst = named[0] if named else None
    if parts and worst is not None and worst.since_ms is not None:
        found.append(f"{several(worst.devices, 'device')}: {worst.title} {since(worst.since_ms, now_ms)}")
    return "; ".join(found)


def lasting(seconds: int) -> str:
    """What a device has been up for: '3 days', '5 hours'."""
    return ago(0, seconds * 1000).removesuffix(" ago").replace("just now", "under a minute")


def vitals(told: Vitals) -> list[tuple[str, str, bool]]:
    """What a device says of itself, as (name, value, whether it is bad); what it cannot tell is left out."""
    throttled = told.throttled
    trouble = [
        name.replace("_", " ") for name, on in (msgspec.structs.asdict(throttled) if throttled else {}).items() if on
    ]
    disk, memory = told.disk_total_bytes, told.memory_total_bytes
    hot, worn = told.temperature_c, told.card_wear_percent
    rows: list[tuple[str, str | None, bool]] = [
        ("Temperature", None if hot is None else f"{hot:.0f} °C", (hot or 0) >= HOT_C),
        ("Power and speed", ", ".join(trouble) or (None if throttled is None else "as they should be"), bool(trouble)),
        ("Card free", _part(told.disk_free_bytes, disk), _below(told.disk_free_bytes, disk, DISK_LOW_PERCENT)),
        ("Card wear", None if worn is None else f"{worn:.0f} %", (worn or 0) >= WORN_PERCENT),
        ("Memory available", _part(told.memory_available_bytes, memory), False),
        ("Processor", None if told.cpu_percent is None else f"{told.cpu_percent:.0f} %", False),
        ("Up for", None if told.uptime_s is None else lasting(told.uptime_s), False),
        (
            "Clock",
            None if told.clock_trusted is None else "trusted" if told.clock_trusted else "not trusted",
            told.clock_trusted is False,
        ),
        ("PiSync", told.version, False),
        ("System", ", ".join(filter(None, (told.os, told.kernel))) or None, False),
        ("Python", told.python, False),
        ("Board", told.model, False),
    ]
    return [(name, value, bad) for name, value, bad in rows if value is not None]


def _part(part: int | None, whole: int | None) -> str | None:
    if part is None:
        return None
    return size(part) + (f" of {size(whole)}" if whole else "")


def _below(part: int | None, whole: int | None, least_percent: int) -> bool:
    return part is not None and bool(whole) and part * 100 < least_percent * (whole or 0)


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
