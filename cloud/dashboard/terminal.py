"""The operator's lists for a terminal: tables within 80 columns where ids are short, or a JSON object per line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from cloud.api.devices import ages, device_fields, failure
from cloud.api.shapes import DeviceOut
from cloud.api.sync_events import kept
from cloud.config import Settings
from cloud.dashboard import words
from cloud.flows import fleet, identity, lists
from cloud.flows.fleet import Wanted
from cloud.flows.lists import Failing
from cloud.services import wall_ms
from cloud.store.db import Database, Row


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as their widest cell; those in `right` are set to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(items: Iterable[Any]) -> str:
    """One JSON object per line."""
    return "\n".join(msgspec.json.encode(item).decode() for item in items)


def show(text: str, *, empty: str) -> None:
    """Prints a list, or says on stderr why there is none."""
    if text:
        print(text)
    else:
        print(empty, file=sys.stderr)


async def devices(db: Database, settings: Settings, wanted: Wanted, *, limit: int, json: bool) -> None:
    """The devices that are asked for."""
    now_ms = wall_ms()
    async with db.reading() as tx:
        rows, total = await fleet.devices(tx, wanted, None, ages=ages(settings), now_ms=now_ms, limit=limit, offset=0)
    rows = rows[:limit]
    empty = "no device is as asked for"
    if wanted == Wanted(sort=wanted.sort):
        empty = "no device is enrolled; `pisync-cloud enroll DEVICE_ID` lets one in"
    if json:
        show(as_json(DeviceOut(**device_fields(row, settings, now_ms)) for row in rows), empty=empty)
        return
    heads = ("DEVICE", "STATE", "LAST SYNC", "LAST HEARD OF", "FAILED", "FILES", "WAITING")
    body = table(heads, (_device(row, now_ms) for row in rows), right=frozenset({4, 5, 6})) if rows else ""
    show(body, empty=empty)
    if total > len(rows):
        print(f"{total - len(rows)} more; --limit shows them", file=sys.stderr)


def _device(row: Row, now_ms: int) -> tuple[str, ...]:
    waiting = row["last_queue_depth"]
    return (
        row["device_id"],
        "revoked" if row["revoked_at_ms"] else row["state"],
        row["last_status"] or "-",
        words.ago(row["last_seen_at_ms"], now_ms),
        str(row["failed_total"]),
        str(row["files_synced_total"]),
        "-" if waiting is None else str(waiting),
    )


async def failures(db: Database, *, threshold: int, consecutive: bool, limit: int, json: bool) -> None:
    """Devices that failed more than `threshold` times, worst first."""
    async with db.reading() as tx:
        rows, _ = await lists.failures(tx, Failing(consecutive=consecutive, threshold=threshold), limit=limit, offset=0)
    rows = rows[:limit]
    empty = f"no device has more than {threshold} failed syncs{' in a row' if consecutive else ''}"
    if json:
        show(as_json(failure(row) for row in rows), empty=empty)
        return
    now_ms = wall_ms()
    heads = ("DEVICE", "FAILED", "IN A ROW", "LAST SUCCESS", "LAST ERROR")
    cells = (
        (
            row["device_id"],
            str(row["failed_total"]),
            str(row["consecutive_failures"]),
            words.ago(row["last_success_at_ms"], now_ms),
            row["last_error_code"] or "-",
        )
        for row in rows
    )
    show(table(heads, cells, right=frozenset({1, 2})) if rows else "", empty=empty)


async def history(db: Database, device_id: str, *, limit: int, json: bool) -> None:
    """The last sync events of a device, newest first. Raises Refusal when it is not enrolled."""
    async with db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
        rows, _ = await lists.history(tx, dk, lists.ALWAYS, before=None, limit=limit, offset=0)
    rows = rows[:limit]
    empty = f"{device_id} has not reported a sync yet"
    if json:
        show(as_json(kept(device_id, row) for row in rows), empty=empty)
        return
    heads = ("WHEN", "RESULT", "FILES", "ERRORS", "SPEED", "SENT", "ERROR")
    cells = (
        (
            words.clock(row["occurred_at_ms"]),
            row["status"],
            str(row["files_synced"]),
            str(row["errors"]),
            "-" if row["speed_mbps"] is None else f"{row['speed_mbps']:.1f} Mbps",
            "-" if row["bytes_sent"] is None else words.size(row["bytes_sent"]),
            row["error_code"] or "-",
        )
        for row in rows
    )
    show(table(heads, cells, right=frozenset({2, 3, 4, 5})) if rows else "", empty=empty)


async def keys(db: Database, *, json: bool) -> None:
    """All keys, oldest first."""
    async with db.reading() as tx:
        rows = await tx.all("keys")
    empty = "no key yet; `pisync-cloud key create NAME --role viewer` makes one"
    if json:
        fields = ("name", "role")
        items = ({**{f: row[f] for f in fields}, "revoked": row["revoked_at_ms"] is not None} for row in rows)
        show(as_json(items), empty=empty)
        return
    cells = (
        (row["name"], row["role"], words.clock(row["created_at_ms"]), words.clock(row["revoked_at_ms"]) or "-")
        for row in rows
    )
    show(table(("NAME", "ROLE", "MADE", "ENDED"), cells) if rows else "", empty=empty)
