"""What the warehouse gets: the datasets and their columns, and what is to be done with a range of them.

    range       planned --written--> published --a user is purged--> stale --taken up--> planned ...
                planned --a user is purged--> stale        (what is being written may hold the user's rows: again)

A range (from_ord, to_ord] always becomes the same file names, so that doing it again replaces and never adds. A range
that was published before is rewritten from its own files and not from the store, which may have forgotten old rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from pisyncd.core import timeline

Kind = Literal["text", "int", "time", "flag"]
State = Literal["planned", "published", "stale"]
Columns = dict[str, Sequence[Any]]

DAY_MS = 86_400_000
WAIT_LEAST_S = 30.0
FAILED_MAX = 20
FORMAT = 1

_TIME_LEAST_MS = -62_135_596_800_000  # the years 1 to 9999: what a warehouse can hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One folder of the export. `day`: the column whose date (UTC) names the partition; '' for a snapshot."""

    name: str
    columns: tuple[tuple[str, Kind], ...]
    day: str = ""


_DEVICE: tuple[tuple[str, Kind], ...] = (
    ("device_id", "text"),
    ("stream", "text"),
    ("device_seq", "int"),
    ("boot_id", "text"),
    ("boottime_ms", "int"),
    ("device_ts", "time"),
    ("clock_trusted", "flag"),
    ("occurred_at", "time"),
    ("occurred_error_ms", "int"),
    ("time_kind", "text"),
)
ATTEMPT_EVENTS = Dataset(
    name="attempt_events",
    day="event_ts",
    columns=(
        ("ord", "int"),
        ("id", "text"),
        ("event_version", "int"),
        ("event_type", "text"),
        ("event_ts", "time"),
        ("client_ts", "time"),
        ("seq", "int"),
        ("session_id", "text"),
        ("user_id", "text"),
        ("question_id", "text"),
        ("source", "text"),
        ("payload_json", "text"),
        *_DEVICE,
    ),
)
TELEMETRY = Dataset(
    name="telemetry",
    day="received_at",
    columns=(
        ("ord", "int"),
        ("event_id", "text"),
        ("event_type", "text"),
        ("received_at", "time"),
        ("client_ts", "time"),
        ("user_id", "text"),
        ("batch_id", "text"),
        ("payload_json", "text"),
        *_DEVICE,
    ),
)
BOOTS = Dataset(
    name="boots",
    columns=(
        ("device_id", "text"),
        ("boot_id", "text"),
        ("number", "int"),
        ("last_boottime_ms", "int"),
        ("low_ms", "int"),
        ("high_ms", "int"),
        ("time_kind", "text"),
        ("contradicted", "flag"),
        ("updated_at", "time"),
    ),
)
SESSIONS = Dataset(
    name="sessions",
    columns=(
        ("session_id", "text"),
        ("user_id", "text"),
        ("device_id", "text"),
        ("mode", "text"),
        ("filters_json", "text"),
        ("question_ids_json", "text"),
        ("state", "text"),
        ("rev", "int"),
        ("created_at", "time"),
        ("expires_at", "time"),
        ("ended_at", "time"),
        ("updated_at", "time"),
    ),
)
GROWING = (ATTEMPT_EVENTS, TELEMETRY)
SNAPSHOTS = (BOOTS, SESSIONS)
ALL = (*GROWING, *SNAPSHOTS)


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A published file; `path` is relative to the dataset's folder, `event_date` is '' for a snapshot."""

    path: str
    event_date: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Range:
    """The rows after `from_ord` up to and with `to_ord`; a snapshot is the range (0, 0]."""

    dataset: str
    from_ord: int
    to_ord: int
    state: State
    rows_count: int = 0
    files: tuple[FileEntry, ...] = ()
    attempts: int = 0
    error: str | None = None
    published_at_ms: int | None = None

    @property
    def is_out(self) -> bool:
        """Whether it has ever been published."""
        return self.published_at_ms is not None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`_manifest.json`: exactly the published files."""

    format: int
    dataset: str
    generated_at: str
    watermark: int
    rows: int
    files: Sequence[FileEntry]


@dataclass(frozen=True, kw_only=True)
class Purged:
    """Rows of this user up to and with `through` are to be gone."""

    user_hash: str
    through: int


def user_hash(user_id: str) -> str:
    """The SHA-256 that stands for a user where the id itself may not stay."""
    return hashlib.sha256(user_id.lower().encode()).hexdigest()


def unwanted_through(user_id: str, purged: Mapping[str, int]) -> int:
    """Up to which ord this user's rows go; 0: none. `purged` is through by user_hash."""
    return purged.get(user_hash(user_id), 0) if user_id else 0


def partition(at_ms: int) -> str:
    """1767225600000 -> '2026-01-01'."""
    return (_EPOCH + timedelta(days=at_ms // DAY_MS)).strftime("%Y-%m-%d")


def file_path(dataset: Dataset, part: Range, day: str) -> str:
    """'event_date=2026-01-01/part-0-500000.parquet'; a snapshot is always 'snapshot.parquet'."""
    return f"event_date={day}/{part_name(part)}" if dataset.day else "snapshot.parquet"


def part_name(part: Range) -> str:
    """The file name that a range has in every partition."""
    return f"part-{part.from_ord}-{part.to_ord}.parquet"


def watermark(ranges: Iterable[Range]) -> int:
    """Everything up to this ord has been published. `ranges` in order."""
    through = 0
    for part in ranges:
        if not part.is_out:
            break
        through = part.to_ord
    return through


def manifest(dataset: str, ranges: Sequence[Range], *, without: Iterable[str], generated_at: str) -> Manifest:
    """The files of every range that is out, but those named by `without`."""
    gone = set(without)
    files = [entry for part in ranges if part.is_out for entry in part.files if entry.path not in gone]
    return Manifest(
        format=FORMAT,
        dataset=dataset,
        generated_at=generated_at,
        watermark=watermark(ranges),
        rows=sum(entry.rows for entry in files),
        files=files,
    )


def by_day(dataset: Dataset, page: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Columns]]:
    """Splits a page, given by column, into the partitions that its rows belong to; nearly always it is one."""
    if not dataset.day:
        yield "", columns(dataset, page)
        return
    days = [at_ms // DAY_MS for at_ms in page[dataset.day]]
    for day in sorted(set(days)):
        rows = [index for index, other in enumerate(days) if other == day]
        part = page if len(rows) == len(days) else {name: [line[i] for i in rows] for name, line in page.items()}
        yield partition(day * DAY_MS), columns(dataset, part)


def columns(dataset: Dataset, page: Mapping[str, Sequence[Any]]) -> Columns:
    """What a page, given by column, becomes. Times that no warehouse can hold become null, the row stays."""
    found = {name: _column(kind, page[name]) for name, kind in dataset.columns if name not in _DERIVED}
    if dataset.day:
        bounds = zip(page["time_kind"], page["low_ms"], page["high_ms"], page["boottime_ms"], strict=True)
        moments = [_moment(*one) for one in bounds]
        found["occurred_at"] = [moment.at_ms for moment in moments]
        found["occurred_error_ms"] = [moment.error_ms for moment in moments]
    return found


_DERIVED = frozenset({"occurred_at", "occurred_error_ms"})
_UNKNOWN = timeline.Moment(at_ms=None, error_ms=None)


def _column(kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    if kind == "time":
        return [v if v is not None and _TIME_LEAST_MS <= v <= timeline.WALL_MAX_MS else None for v in values]
    return [None if v is None else bool(v) for v in values] if kind == "flag" else values


def _moment(kind: Any, low_ms: int | None, high_ms: int | None, boottime_ms: int | None) -> timeline.Moment:
    if kind is None or boottime_ms is None:
        return _UNKNOWN
    return timeline.at(timeline.Span(boot_id="", number=0, low_ms=low_ms, high_ms=high_ms, kind=kind), boottime_ms)


def retry_s(failures: int, interval_s: float, chance: float) -> float:
    """Seconds until the next run: 30 s 1 min 2 min ... after failures, at most the interval, with some jitter."""
    if failures == 0:
        return interval_s * (0.95 + chance / 10)
    return min(interval_s, WAIT_LEAST_S * 2.0 ** min(failures - 1, 20)) * (0.75 + chance / 2)
