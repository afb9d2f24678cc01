"""Charts as whole numbers for the template, which draws them as SVG: bars with what they stand for as text.

A drawing is HEIGHT high; above the line stands what went well, below it what did not, so that colour alone tells
nothing. What is not nothing is at least LEAST high, so that it can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.dashboard import words
from cloud.flows.fleet import Hour
from cloud.rules import fleet as rules
from cloud.rules.fleet import Bucket
from cloud.store.db import Row

HEIGHT = 100
STEP = 10
LEAST = 2
#: Fewer bars do not become broader.
BARS_LEAST = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One value per bar, None: not known. `kind` is its class in style.css, `shown` its values as text."""

    kind: str
    label: str
    values: Sequence[float | None]
    shown: Sequence[str]
    below: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A rectangle of a bar."""

    kind: str
    y: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: where it is, what it is about, what it says in one line and value by value."""

    x: int
    label: str
    says: str
    parts: tuple[Part, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Bars side by side in a drawing of `width` by HEIGHT with a line at the height `line`."""

    title: str
    says: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    width: int
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A row of the histogram: `percent` of the largest, `kind` fresh, aging, stale or never."""

    label: str
    devices: int
    percent: int
    kind: str


def draw(title: str, says: str, labels: Sequence[str], series: Sequence[Series]) -> Chart | None:
    """Series as stacked bars, one per label; None when there is nothing to draw."""
    sides = [_highest([each for each in series if each.below is below], len(labels)) for below in (False, True)]
    scale = sum(sides)
    if not scale:
        return None
    below = sum(each.below for each in series)
    # Either side has room for the least of each series that it has.
    line = min(max(round(HEIGHT * sides[0] / scale), LEAST * (len(series) - below)), HEIGHT - LEAST * below)
    width = STEP * max(BARS_LEAST, len(labels))
    # The newest stands at the right edge.
    left = width - STEP * len(labels)
    bars = tuple(
        Bar(
            x=left + at * STEP,
            label=label,
            says=", ".join(f"{each.shown[at]} {each.label}" for each in series if each.values[at]) or "nothing",
            parts=tuple(_parts(series, at, scale, line)),
            values=tuple(each.shown[at] for each in series),
        )
        for at, label in enumerate(labels)
    )
    return Chart(title=title, says=says, series=tuple(series), bars=bars, width=width, line=line)


def _highest(series: Sequence[Series], count: int) -> float:
    return max((sum(each.values[at] or 0 for each in series) for at in range(count)), default=0)


def _parts(series: Sequence[Series], at: int, scale: float, line: int) -> list[Part]:
    """From the line upwards and downwards, within the drawing."""
    found, edges = [], {False: line, True: line}
    left = {side: sum(bool(each.values[at]) for each in series if each.below is side) for side in (False, True)}
    for each in series:
        value, edge = each.values[at], edges[each.below]
        if not value:
            continue
        left[each.below] -= 1
        room = (HEIGHT - edge if each.below else edge) - LEAST * left[each.below]
        height = min(max(LEAST, round(HEIGHT * value / scale)), room)
        y = edge if each.below else edge - height
        edges[each.below] = edge + height if each.below else y
        found.append(Part(kind=each.kind, y=y, height=height))
    return found


def _counts(kind: str, label: str, values: Sequence[int], *, below: bool = False) -> Series:
    return Series(kind=kind, label=label, values=values, shown=[words.number(value) for value in values], below=below)


def rate(hours: Sequence[Hour]) -> Chart | None:
    """Sync events per hour, by how they ended."""
    total = sum(each.success + each.partial + each.failed for each in hours)
    failed = sum(each.failed for each in hours)
    says = f"{words.number(total)} in {len(hours)} hours, {words.number(failed)} of them failed"
    return draw(
        "Syncs per hour",
        says,
        [words.clock(each.hour_ms) for each in hours],
        [
            _counts("good", "succeeded", [each.success for each in hours]),
            _counts("partly", "succeeded in part", [each.partial for each in hours]),
            _counts("bad", "failed", [each.failed for each in hours], below=True),
        ],
    )


def ages(buckets: Sequence[Bucket], *, fresh_s: int, stale_s: int) -> list[Share]:
    """How long ago devices last succeeded."""
    most = max((each.devices for each in buckets), default=0)
    return [
        Share(
            label=each.label,
            devices=each.devices,
            percent=max(LEAST, each.devices * 100 // most) if each.devices else 0,
            kind=rules.freshness(each.from_s, fresh_s=fresh_s, stale_s=stale_s),
        )
        for each in buckets
    ]


def history(events: Sequence[Row]) -> list[Chart]:
    """The last syncs of a device, given newest first: files with errors, and the speed where it is known."""
    shown = list(reversed(events))
    labels = [words.clock(row["occurred_at_ms"]) for row in shown]
    speeds = [row["speed_mbps"] for row in shown]
    known = [speed for speed in speeds if speed is not None]
    drawn = [
        draw(
            "Files and errors per sync",
            f"the last {len(shown)} syncs, {sum(row['status'] == 'failed' for row in shown)} of them failed",
            labels,
            [
                _counts("good", "files", [row["files_synced"] for row in shown]),
                _counts("bad", "errors", [row["errors"] for row in shown], below=True),
            ],
        ),
        draw(
            "Speed",
            f"at most {max(known, default=0):.1f} Mbps, at last {known[-1] if known else 0:.1f} Mbps",
            labels,
            [Series(kind="plain", label="Mbps", values=speeds, shown=[_speed(speed) for speed in speeds])],
        ),
    ]
    return [each for each in drawn if each is not None]


def _speed(mbps: float | None) -> str:
    return "" if mbps is None else f"{mbps:.1f}"
