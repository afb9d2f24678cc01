"""Reads of a whole fleet: lists with filters, and what is seen at a glance. `reach`: groups; None: everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloud.flows import lists
from cloud.rules import faults as kinds
from cloud.rules import fleet as rules
from cloud.rules.fleet import Bucket
from cloud.store.db import Database, Row, Tx

HOURS_SHOWN = 48
HOUR_MS = 3_600_000
KEPT_MS = 2_000
KEPT_MAX = 100
FAULTS_SHOWN = 8
FOUND_MAX = 5000


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which devices; None: any. `group` is a group, site or region; `fault` one that is not over."""

    state: str | None = None
    group: str | None = None
    tag: str | None = None
    fault: str | None = None
    search: str = ""
    fresh: str | None = None
    sort: str = "device_id"


@dataclass(frozen=True, kw_only=True)
class Ages:
    """What counts as fresh and as stale, in milliseconds."""

    fresh_ms: int = 3_600_000
    stale_ms: int = 3 * 3_600_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Hour:
    """Sync events of one hour of receipt."""

    hour_ms: int
    success: int = 0
    partial: int = 0
    failed: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultRow:
    """A fault over the fleet. `devices` have it now, since `since_ms` the first of them."""

    code: str
    title: str
    hint: str
    devices: int
    since_ms: int | None
    first_seen_ms: int
    last_seen_ms: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A fleet at a glance. `hours` are those of everything: empty for who sees some groups only."""

    states: dict[str, int]
    total: int
    freshness: list[Bucket]
    hours: list[Hour]
    faults: list[FaultRow]
    incidents_open: int
    at_ms: int


def _groups(reach: Collection[str] | None) -> str | None:
    return None if reach is None else msgspec.json.encode(sorted(reach)).decode()


def _filter(wanted: Wanted, reach: Collection[str] | None, ages: Ages, now_ms: int) -> dict[str, Any]:
    fresh_ms, stale_ms = now_ms - ages.fresh_ms, now_ms - ages.stale_ms
    from_ms = {"fresh": fresh_ms, "aging": stale_ms}.get(wanted.fresh or "")
    to_ms = {"aging": fresh_ms, "stale": stale_ms}.get(wanted.fresh or "")
    return {
        "groups": _groups(reach),
        "state": wanted.state,
        "group_name": wanted.group,
        "tag": wanted.tag,
        "fault": wanted.fault,
        "keys": None,
        "pattern": lists.like_pattern(wanted.search),
        "success_from_ms": from_ms,
        "success_to_ms": to_ms,
        "never": int(wanted.fresh == "never"),
    }


async def devices(
    tx: Tx, wanted: Wanted, reach: Collection[str] | None, *, ages: Ages, now_ms: int, limit: int, offset: int
) -> tuple[list[Row], int]:
    """Up to limit + 1 devices and how many there are."""
    chosen = await _found_once(tx, _filter(wanted, reach, ages, now_ms))
    counts = {row["state"]: int(row["devices"]) for row in await tx.all("fleet_counts", **chosen)}
    if wanted.sort == "attention":
        return await _by_attention(tx, chosen, counts, limit=limit, offset=offset), sum(counts.values())
    rows = await tx.all(f"fleet_by_{wanted.sort}", **chosen, row_limit=limit + 1, row_offset=offset)
    return rows, sum(counts.values())


async def _found_once(tx: Tx, chosen: dict[str, Any]) -> dict[str, Any]:
    """What takes a look at every device is looked for once, not with every statement of a page; a search that finds
    more than FOUND_MAX stays as it is, for then a page is soon full."""
    keys: set[int] | None = None
    for name, fields in _LOOKED_FOR.items():
        asked = {field: chosen[field] for field in fields}
        if asked in _NOT_LOOKED_FOR:
            continue
        found = {row["dk"] for row in await tx.all(name, **asked, row_limit=FOUND_MAX + 1)}
        if len(found) <= FOUND_MAX:
            keys = found if keys is None else keys & found
            chosen = {**chosen, **dict.fromkeys(fields), "never": 0 if "never" in fields else chosen["never"]}
    return chosen if keys is None else {**chosen, "keys": msgspec.json.encode(sorted(keys)).decode()}


_AGE = ("success_from_ms", "success_to_ms", "never")
_LOOKED_FOR = {"fleet_found": ("pattern",), "fleet_found_by_age": _AGE}
_NOT_LOOKED_FOR = ({"pattern": None}, {"success_from_ms": None, "success_to_ms": None, "never": 0})


async def _by_attention(
    tx: Tx, chosen: dict[str, Any], counts: dict[str, int], *, limit: int, offset: int
) -> list[Row]:
    """State by state, so that each is read from its index and none has to be sorted."""
    rows: list[Row] = []
    for state in rules.ATTENTION:
        count = counts.get(state, 0)
        if offset < count and len(rows) <= limit:
            asked = {**chosen, "state": state, "row_limit": limit + 1 - len(rows), "row_offset": offset}
            rows += await tx.all("fleet_by_since", **asked)
        offset = max(0, offset - count)
    return rows


async def device(tx: Tx, dk: int) -> Row:
    """One device as `devices` lists it."""
    row = await tx.one("fleet_device", dk=dk)
    assert row is not None
    return row


async def faults(tx: Tx, reach: Collection[str] | None, *, limit: int, offset: int) -> list[FaultRow]:
    """Up to limit + 1 faults, the one that most devices have first."""
    rows = await tx.all("fleet_faults", groups=_groups(reach), row_limit=limit + 1, row_offset=offset)
    return [_fault(row) for row in rows]


async def faults_total(tx: Tx, reach: Collection[str] | None) -> int:
    """How many different faults there are."""
    return int(await tx.value("fleet_faults_count", groups=_groups(reach)))


def _fault(row: Row) -> FaultRow:
    known = kinds.about(row["code"])
    return FaultRow(
        code=row["code"],
        title=known.title,
        hint=known.hint,
        devices=row["devices"],
        since_ms=row["since_ms"],
        first_seen_ms=row["first_seen_ms"],
        last_seen_ms=row["last_seen_ms"],
        count=int(row["count"]),
    )


@dataclass(kw_only=True)
class Overview:
    """Snapshots, kept for KEPT_MS so that a hundred open pages cost no more than one."""

    db: Database
    now_ms: Callable[[], int]
    _kept: dict[frozenset[str] | None, Snapshot] = field(default_factory=dict)
    _looking: dict[frozenset[str] | None, asyncio.Task[Snapshot]] = field(default_factory=dict)

    async def of(self, reach: frozenset[str] | None) -> Snapshot:
        """What is to be seen of these groups."""
        kept = self._kept.get(reach)
        if kept is not None and 0 <= self.now_ms() - kept.at_ms < KEPT_MS:
            return kept
        task = self._looking.get(reach)
        if task is None:
            task = self._looking[reach] = asyncio.create_task(self._look(reach))
            task.add_done_callback(lambda _: self._looking.pop(reach, None))
        return await asyncio.shield(task)

    def last(self, reach: frozenset[str] | None) -> Snapshot | None:
        """The last snapshot, however old, for what has to be quick rather than new; None: nobody has looked yet."""
        return self._kept.get(reach)

    async def _look(self, reach: frozenset[str] | None) -> Snapshot:
        now_ms = self.now_ms()
        async with self.db.reading() as tx:
            found = await _snapshot(tx, reach, now_ms)
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[reach] = found
        return found


async def _snapshot(tx: Tx, reach: frozenset[str] | None, now_ms: int) -> Snapshot:
    groups = _groups(reach)
    states = {row["state"]: row["devices"] for row in await tx.all("fleet_states", groups=groups)}
    edges = {f"edge_{number}": now_ms - edge * 1000 for number, edge in enumerate(rules.edges_s())}
    ages = await tx.one("fleet_freshness", groups=groups, **edges)
    assert ages is not None
    from_ms = now_ms - now_ms % HOUR_MS - (HOURS_SHOWN - 1) * HOUR_MS
    known = {row["hour_ms"]: row for row in await tx.all("hours", from_ms=from_ms)} if reach is None else {}
    hours = [_hour(from_ms + number * HOUR_MS, known) for number in range(HOURS_SHOWN)] if reach is None else []
    found = await faults(tx, reach, limit=FAULTS_SHOWN - 1, offset=0)
    return Snapshot(
        states=states,
        total=sum(states.values()),
        freshness=rules.histogram([ages[f"b{number}"] for number in range(7)], ages["never"]),
        hours=hours,
        faults=[each for each in found if each.devices],
        incidents_open=await tx.value("incidents_open") if reach is None else 0,
        at_ms=now_ms,
    )


def _hour(hour_ms: int, known: dict[int, Row]) -> Hour:
    row = known.get(hour_ms)
    if row is None:
        return Hour(hour_ms=hour_ms)
    names = ("success", "partial", "failed", "files", "bytes")
    return Hour(hour_ms=hour_ms, **{name: int(row[name]) for name in names})
