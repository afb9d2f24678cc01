"""What the pages show, read from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloud.dashboard import words
from cloud.flows import identity, lists
from cloud.rules import times
from cloud.services import Services
from cloud.store import files
from cloud.store.db import Row
from pisyncd.core.problems import Refusal

DEVICES_SHOWN = 50
FILES_SHOWN = 50
EVENTS_SHOWN = 20
TRANSFERS_SHOWN = 10
ATTENTION_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """An upload under way."""

    name: str
    offset: int
    length: int | None
    percent: int
    begun_at_ms: int


async def devices(services: Services, *, search: str, number: int) -> dict[str, Any]:
    """The context of the first page."""
    async with services.db.reading() as tx:
        rows, total = await lists.devices(
            tx, search=search, by_seen=True, limit=DEVICES_SHOWN, offset=(number - 1) * DEVICES_SHOWN
        )
        fleet = await tx.one("fleet_totals")
        threshold = services.settings.failures_listed_above
        failing, failing_total = await lists.failures(
            tx, consecutive=True, threshold=threshold, limit=ATTENTION_SHOWN, offset=0
        )
    return {
        "devices": rows[:DEVICES_SHOWN],
        "total": total,
        "page": number,
        "pages": max(1, -(-total // DEVICES_SHOWN)),
        "search": search,
        "fleet": fleet,
        "failing": failing[:ATTENTION_SHOWN],
        "failing_total": failing_total,
        "threshold": threshold,
    }


async def device(services: Services, device_id: str, *, files_page: int, events_page: int) -> dict[str, Any]:
    """The context of a device's page. Raises Refusal 404."""
    async with services.db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
        state = await tx.one("device_state_by_dk", dk=dk)
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
