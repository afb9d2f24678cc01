"""What the pages show, read from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloud.api import access
from cloud.api.devices import ages
from cloud.dashboard import charts, words
from cloud.flows import fleet, groups, incidents, lists
from cloud.flows.fleet import Wanted
from cloud.rules import faults, times
from cloud.rules import fleet as rules
from cloud.rules.access import Principal
from cloud.rules.standing import STATES, TROUBLED
from cloud.services import Services, wall_ms
from cloud.store import files
from cloud.store.db import Row
from pisyncd.core.problems import Refusal

DEVICES_SHOWN = 50
FILES_SHOWN = 50
EVENTS_SHOWN = 20
TRANSFERS_SHOWN = 10
INCIDENTS_SHOWN = 10
FAILURES_SHOWN = 50
FAULTS_SHOWN = 50
TRANSITIONS_SHOWN = 20
CHART_EVENTS = 60


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """An upload under way."""

    name: str
    offset: int
    length: int | None
    percent: int
    begun_at_ms: int


async def devices(services: Services, wanted: Wanted, reach: frozenset[str] | None, *, number: int) -> dict[str, Any]:
    """The context of the list of devices."""
    async with services.db.reading() as tx:
        rows, total = await fleet.devices(
            tx,
            wanted,
            reach,
            ages=ages(services.settings),
            now_ms=wall_ms(),
            limit=DEVICES_SHOWN,
            offset=(number - 1) * DEVICES_SHOWN,
        )
        named = [row["name"] for row in await groups.groups(tx) if reach is None or row["name"] in reach]
        tags = [row["tag"] for row in await groups.tags(tx)] if reach is None else []
    return {
        "devices": rows[:DEVICES_SHOWN],
        "total": total,
        "page": number,
        "pages": max(1, -(-total // DEVICES_SHOWN)),
        "wanted": wanted,
        "groups": named,
        "tags": tags,
        "states": STATES,
        "freshnesses": rules.FRESHNESS,
        "sorts": rules.SORTS,
        "limits": ages(services.settings),
    }


async def overview(services: Services, reach: frozenset[str] | None) -> dict[str, Any]:
    """The context of the first page."""
    found = await services.overview.of(reach)
    async with services.db.reading() as tx:
        open_now, _ = await incidents.page(
            tx, state="open", reach=reach, before_id=2**62, limit=INCIDENTS_SHOWN, offset=0
        )
    return {
        "fleet": found,
        "states": STATES,
        "incidents": open_now[:INCIDENTS_SHOWN],
        "more_incidents": len(open_now) > INCIDENTS_SHOWN,
        "rate": charts.rate(found.hours),
        "ages": charts.ages(found.freshness),
        "troubled": sum(found.states.get(state, 0) for state in TROUBLED),
    }


async def failures(services: Services, reach: frozenset[str] | None, *, number: int) -> dict[str, Any]:
    """The context of the page of failures."""
    threshold = services.settings.failures_listed_above
    offset = (number - 1) * FAILURES_SHOWN
    async with services.db.reading() as tx:
        faults = await fleet.faults(tx, reach, limit=FAULTS_SHOWN, offset=0)
        failing, total = (
            await lists.failures(tx, consecutive=True, threshold=threshold, limit=FAILURES_SHOWN, offset=offset)
            if reach is None
            else ([], 0)
        )
        taken_on = await incidents.acknowledged_devices(tx)
    return {
        "faults": faults[:FAULTS_SHOWN],
        "failing": failing[:FAILURES_SHOWN],
        "total": total,
        "taken_on": taken_on,
        "threshold": threshold,
        "page": number,
        "pages": max(1, -(-total // FAILURES_SHOWN)),
    }


async def device(
    services: Services, principal: Principal, device_id: str, *, files_page: int, events_page: int
) -> dict[str, Any]:
    """The context of a device's page. Raises Refusal 404."""
    async with services.db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        state = await fleet.device(tx, dk)
        site, named, tagged = await groups.of_device(tx, dk)
        failures = [(row, faults.about(row["code"])) for row in await tx.all("faults_of_device", dk=dk)]
        transitions = await tx.all("transitions_of", dk=dk, before_id=2**62, row_limit=TRANSITIONS_SHOWN, row_offset=0)
        open_now = await incidents.of_device(tx, dk)
        recent, _ = await lists.history(tx, dk, lists.ALWAYS, before=None, limit=CHART_EVENTS, offset=0)
        events, events_total = await lists.history(
            tx, dk, lists.ALWAYS, before=None, limit=EVENTS_SHOWN, offset=(events_page - 1) * EVENTS_SHOWN
        )
        underway = await tx.all("uploads_underway", dk=dk, row_limit=TRANSFERS_SHOWN)
        rejected = await tx.all("rejected_page", dk=dk, row_limit=5)
    totals = await files.totals(services.db, device_id)
    shown = await files.list_files(services.db, device_id, limit=FILES_SHOWN, offset=(files_page - 1) * FILES_SHOWN)
    transfers = [found for row in underway if (found := await _transfer(services, dk, row)) is not None]
    return {
        "device": state,
        "site": site,
        "groups": named,
        "tags": tagged,
        "faults": failures,
        "transitions": transitions,
        "incidents": open_now,
        "chart": charts.history(recent[:CHART_EVENTS]),
        "events": [{"row": row, "flags": times.flag_names(row["time_flags"])} for row in events[:EVENTS_SHOWN]],
        "events_total": events_total,
        "events_page": events_page,
        "events_pages": max(1, -(-events_total // EVENTS_SHOWN)),
        "files": shown,
        "totals": totals,
        "files_page": files_page,
        "files_pages": max(1, -(-totals.files // FILES_SHOWN)),
        "transfers": transfers,
        "rejected": rejected,
    }


async def _transfer(services: Services, dk: int, row: Row) -> Transfer | None:
    try:
        standing = await services.uploads.look(dk, row["id"], take_over=False)
    except Refusal:
        # It ended between the list and the look.
        return None
    name = words.path_text(bytes(row["path"])) if row["path"] else "a bundle of small files"
    length = row["length_bytes"]
    return Transfer(
        name=name,
        offset=standing.offset,
        length=length,
        percent=words.percent(standing.offset, length),
        begun_at_ms=row["created_at_ms"],
    )
