"""Charts as plain figures for the templates, which draw them as SVG: no script, and the same as a table for readers.

Heights and widths are whole units of the drawing; what is not nothing is at least 1 high, so that it can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.flows.fleet import Hour
from cloud.rules.fleet import Bucket
from cloud.store.db import Row

HEIGHT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A rectangle of a bar: `kind` is its class."""

    kind: str
    y: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar. `at_ms`: its time; `text`: what it says to who cannot see it."""

    x: int
    parts: tuple[Part, ...]
    text: str
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Bars side by side in a drawing of `width` by HEIGHT; `most` is what the highest stands for."""

    bars: tuple[Bar, ...]
    width: int
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A bucket of the histogram; `percent` of the largest."""

    label: str
    devices: int
    percent: int


def _stack(values: Sequence[tuple[str, int]], most: int) -> tuple[Part, ...]:
    parts, y = [], HEIGHT
    for kind, value in values:
        if value:
            height = max(1, value * HEIGHT // max(most, 1))
            y = max(0, y - height)
            parts.append(Part(kind=kind, y=y, height=height))
    return tuple(parts)


def rate(hours: Sequence[Hour]) -> Chart:
    """Sync events per hour, by how they ended."""
    most = max((each.success + each.partial + each.failed for each in hours), default=0)
    bars = tuple(
        Bar(
            x=number * 10,
            parts=_stack((("good", each.success), ("fair", each.partial), ("bad", each.failed)), most),
            text=f"{each.success} succeeded, {each.partial} partly, {each.failed} failed",
            at_ms=each.hour_ms,
        )
        for number, each in enumerate(hours)
    )
    return Chart(bars=bars, width=max(10, len(hours) * 10), most=most)


def ages(buckets: Sequence[Bucket]) -> list[Share]:
    """How long ago devices last succeeded."""
    most = max((each.devices for each in buckets), default=0)
    return [
        Share(label=each.label, devices=each.devices, percent=each.devices * 100 // most if most else 0)
        for each in buckets
    ]


def history(events: Sequence[Row]) -> Chart:
    """The last syncs of a device, oldest first: files, and errors."""
    shown = list(reversed(events))
    most = max((row["files_synced"] + row["errors"] for row in shown), default=0)
    kinds = {"success": "good", "partial": "fair", "failed": "bad"}
    bars = tuple(
        Bar(
            x=number * 10,
            parts=_stack(
                ((kinds[row["status"]], max(row["files_synced"], row["status"] == "success")), ("bad", row["errors"])),
                most,
            ),
            text=f"{row['status']}: {row['files_synced']} files, {row['errors']} errors",
            at_ms=row["occurred_at_ms"],
        )
        for number, row in enumerate(shown)
    )
    return Chart(bars=bars, width=max(10, len(shown) * 10), most=most)
