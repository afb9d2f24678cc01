"""What the pages show, read from the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cloud.api.devices import ages
from cloud.dashboard import charts, words
from cloud.flows import fleet, groups, incidents, lists
from cloud.flows.fleet import Wanted
from cloud.flows.lists import Failing
from cloud.rules import faults
from cloud.rules import fleet as rules
from cloud.rules.standing import STATES, TROUBLED
from cloud.services import Services, wall_ms
from cloud.store.db import Row

DEVICES_SHOWN = 50
FILES_SHOWN = 50
EVENTS_SHOWN = 20
TRANSFERS_SHOWN = 10
INCIDENTS_SHOWN = 10
RECOVERING_SHOWN = 5
FAILURES_SHOWN = 50
FAULTS_SHOWN = 50
TRANSITIONS_SHOWN = 20
CHART_EVENTS = 60
#: States as the first page has them: what needs a person first.
TILES = rules.ATTENTION
CSV_PORTION = 1000
CSV_ROWS_MAX = 1_000_000
CSV_COLUMNS = (
    "device_id", "label", "site", "state", "since_ms", "reason", "detail", "last_seen_at_ms", "last_status",
    "last_success_at_ms", "last_error_code", "consecutive_failures", "last_queue_depth", "version",
    "disk_free_percent", "temperature_c", "enrolled_at_ms",
)  # fmt: skip
CSV_HEADS = [name.removesuffix("_ms") for name in CSV_COLUMNS]
#: The orders of the list, as people call them.
SORTS = {
    "attention": "needs attention first",
    "device_id": "by id",
    "last_seen": "last heard of first",
    "since": "last changed first",
}


async def devices(services: Services, wanted: Wanted, reach: frozenset[str] | None, *, number: int) -> dict[str, Any]:
    """The context of the list of devices."""
    limits = ages(services.settings)
    async with services.db.reading() as tx:
        rows, total = await fleet.devices(
            tx,
            wanted,
            reach,
            ages=limits,
            now_ms=wall_ms(),
            limit=DEVICES_SHOWN,
            offset=(number - 1) * DEVICES_SHOWN,
        )
        named = [row["name"] for row in await groups.groups(tx) if reach is None or row["name"] in reach]
        tags = [row["tag"] for row in await groups.tags(tx)] if reach is None else []
    last = services.overview.last(reach)
    known = last.faults if last else []
    codes = {each.code for each in known}
    chosen = faults.about(wanted.fault) if wanted.fault else None
    return {
        "devices": rows[:DEVICES_SHOWN],
        "total": total,
        "page": number,
        "pages": max(1, -(-total // DEVICES_SHOWN)),
        "wanted": wanted,
        "groups": named,
        "tags": tags,
        "faults": [*known, *([chosen] if chosen and chosen.code not in codes else [])],
        "fault": chosen,
        "states": STATES,
        "freshnesses": rules.FRESHNESS,
        "sorts": SORTS.items(),
    }


async def devices_csv(services: Services, wanted: Wanted, reach: frozenset[str] | None) -> list[list[str]]:
    """All devices that are wanted, by id, as cells for CSV_COLUMNS."""
    limits, now_ms = ages(services.settings), wall_ms()
    by_id = replace(wanted, sort="device_id")
    cells: list[list[str]] = []
    # Read before the first is sent: a slow browser must not hold a connection to the database.
    async with services.db.reading() as tx:
        for offset in range(0, CSV_ROWS_MAX, CSV_PORTION):
            rows, _ = await fleet.devices(
                tx, by_id, reach, ages=limits, now_ms=now_ms, limit=CSV_PORTION, offset=offset
            )
            cells += [[words.cell(name, row[name]) for name in CSV_COLUMNS] for row in rows[:CSV_PORTION]]
            if len(rows) <= CSV_PORTION:
                break
    return cells


async def overview(services: Services, reach: frozenset[str] | None) -> dict[str, Any]:
    """The context of the first page."""
    found = await services.overview.of(reach)
    limits = ages(services.settings)
    now_ms = wall_ms()
    async with services.db.reading() as tx:
        open_now, _ = await incidents.page(
            tx, state="open", reach=reach, before_id=2**62, limit=INCIDENTS_SHOWN, offset=0
        )
        returning: list[Row] = []
        if found.states.get("recovering"):
            wanted = Wanted(state="recovering", sort="since")
            returning, _ = await fleet.devices(
                tx, wanted, reach, ages=limits, now_ms=now_ms, limit=RECOVERING_SHOWN, offset=0
            )
    return {
        "fleet": found,
        "attention": words.attention(found, now_ms),
        "states": [state for state in TILES if found.states.get(state) or state in TROUBLED],
        "incidents": open_now[:INCIDENTS_SHOWN],
        "more_incidents": len(open_now) > INCIDENTS_SHOWN,
        "recovering": returning[:RECOVERING_SHOWN],
        "rate": charts.rate(found.hours),
        "ages": charts.ages(found.freshness, fresh_s=limits.fresh_ms // 1000, stale_s=limits.stale_ms // 1000),
    }


async def failures(services: Services, reach: frozenset[str] | None, *, number: int) -> dict[str, Any]:
    """The context of the page of failures. Who sees some groups only sees those of them that are failing."""
    threshold = services.settings.failures_listed_above
    part: dict[str, Any] = {"limit": FAILURES_SHOWN, "offset": (number - 1) * FAILURES_SHOWN}
    async with services.db.reading() as tx:
        found = await fleet.faults(tx, reach, limit=FAULTS_SHOWN, offset=0)
        if reach is None:
            failing, total = await lists.failures(tx, Failing(consecutive=True, threshold=threshold), **part)
        else:
            wanted = Wanted(state="failing", sort="since")
            failing, total = await fleet.devices(
                tx, wanted, reach, ages=ages(services.settings), now_ms=wall_ms(), **part
            )
        taken_on = await incidents.acknowledged_devices(tx)
    return {
        "faults": found[:FAULTS_SHOWN],
        "failing": failing[:FAILURES_SHOWN],
        "total": total,
        "taken_on": taken_on,
        "threshold": threshold if reach is None else None,
        "page": number,
        "pages": max(1, -(-total // FAILURES_SHOWN)),
    }
