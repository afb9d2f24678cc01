"""What the page of one device shows, read from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.api import access
from cloud.dashboard import charts, happenings, words
from cloud.flows import audit, fleet, groups, incidents, lists
from cloud.rules import access as roles
from cloud.rules import faults, times
from cloud.rules.access import Principal
from cloud.rules.standing import FOREVER_MS
from cloud.services import Services
from cloud.store import files
from cloud.store.db import Row, Tx
from pisyncd.core.problems import Refusal
from pisyncd.core.vitals import Vitals

FILES_SHOWN = 50
EVENTS_SHOWN = 20
TRANSFERS_SHOWN = 10
COMMANDS_SHOWN = 10
CHART_EVENTS = 60


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """An upload under way."""

    name: str
    offset: int
    length: int | None
    percent: int
    begun_at_ms: int


async def device(
    services: Services, principal: Principal, device_id: str, *, files_page: int, events_page: int
) -> dict[str, Any]:
    """The context of a device's page. Raises Refusal 404."""
    async with services.db.reading() as tx:
        dk = await access.device_key(tx, principal, device_id, "viewer")
        state = await fleet.device(tx, dk)
        events, events_total = await lists.history(
            tx, dk, lists.ALWAYS, before=None, limit=EVENTS_SHOWN, offset=(events_page - 1) * EVENTS_SHOWN
        )
        recent, _ = await lists.history(tx, dk, lists.ALWAYS, before=None, limit=CHART_EVENTS, offset=0)
        underway = await tx.all("uploads_underway", dk=dk, row_limit=TRANSFERS_SHOWN)
        context = {
            "rejected": await tx.all("rejected_page", dk=dk, row_limit=5),
            "incidents": await incidents.of_device(tx, dk),
            **await _described(tx, principal, dk),
            **await _vitals(tx, dk),
            **await _past(tx, dk, device_id),
        }
    totals = await files.totals(services.db, device_id)
    shown = await files.list_files(services.db, device_id, limit=FILES_SHOWN, offset=(files_page - 1) * FILES_SHOWN)
    transfers = [found for row in underway if (found := await _transfer(services, dk, row)) is not None]
    return {
        **context,
        "device": state,
        "muted_for_good": (state["muted_until_ms"] or 0) >= FOREVER_MS,
        "charts": charts.history(recent[:CHART_EVENTS]),
        "events": [{"row": row, "flags": times.flag_names(row["time_flags"])} for row in events[:EVENTS_SHOWN]],
        "events_page": events_page,
        "events_pages": max(1, -(-events_total // EVENTS_SHOWN)),
        "files": shown,
        "totals": totals,
        "files_page": files_page,
        "files_pages": max(1, -(-totals.files // FILES_SHOWN)),
        "transfers": transfers,
    }


async def _described(tx: Tx, principal: Principal, dk: int) -> dict[str, Any]:
    """What people say of it, and what the form that changes that suggests."""
    site, named, tagged = await groups.of_device(tx, dk)
    may_move = roles.reach(principal, "operator") is None
    known = await groups.groups(tx) if may_move else []
    return {
        "site": site,
        "groups": named,
        "tags": tagged,
        "may_move": may_move,
        "known_sites": [row["name"] for row in known if row["kind"] == "site"],
        "known_groups": [row["name"] for row in known if row["kind"] == "group"],
    }


async def _vitals(tx: Tx, dk: int) -> dict[str, Any]:
    row = await tx.one("vitals_shown", dk=dk)
    told = msgspec.json.decode(row["body"], type=Vitals) if row else Vitals()
    return {"vitals": told, "vitals_at_ms": row["at_ms"] if row else None, "facts": words.vitals(told)}


async def _past(tx: Tx, dk: int, device_id: str) -> dict[str, Any]:
    """What happened to it, newest first: faults and commands also by themselves."""
    known = await tx.all("faults_of_device", dk=dk)
    commands = await tx.all("commands_shown", dk=dk, row_limit=COMMANDS_SHOWN)
    many = happenings.SHOWN
    return {
        "faults": [(row, faults.about(row["code"])) for row in known],
        "commands": commands,
        "past": happenings.merged(
            transitions=await tx.all("transitions_of", dk=dk, before_id=2**62, row_limit=many, row_offset=0),
            faults=known,
            commands=commands,
            incidents=await tx.all("incidents_shown", dk=dk, row_limit=many),
            entries=await audit.entries(tx, audit.Wanted(target=device_id), limit=many),
        ),
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
