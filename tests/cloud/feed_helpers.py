"""Records put past the service, as another process would commit them, and what a device gets of them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

from conftest import Cloud

from cloud.store.db import Database
from pisyncd.core import record
from pisyncd.core.merge import Pen, put
from pisyncd.core.record import BUILT_IN, EMPTY

START_MS = 1_767_225_600_000  # 2026-01-01
Scope = tuple[str, str]
_INSERT = (
    "INSERT INTO record (type, id, state, fields, deleted, purged, change, created_at_ms, updated_at_ms) "
    "VALUES ({}) ON CONFLICT (type, id) DO UPDATE SET state = excluded.state, fields = excluded.fields, "
    "deleted = excluded.deleted, purged = excluded.purged, change = excluded.change, "
    "updated_at_ms = excluded.updated_at_ms"
)
_SCOPE = (
    "INSERT INTO record_scope (type, id, kind, value, gone) VALUES ({}) "
    "ON CONFLICT (type, id, kind, value) DO UPDATE SET gone = excluded.gone"
)


async def execute(db: Database, sql: str, *params: Any) -> Any:
    """One statement with `?` for parameters; the first value that it gives."""
    async with db.transaction() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        if db.dialect == "sqlite":
            rows = list(await connection.execute_fetchall(sql, params))
            return rows[0][0] if rows else None
        numbers = itertools.count(1)
        numbered = "".join(f"${next(numbers)}" if each == "?" else each for each in sql)
        return await connection.fetchval(numbered, *params)


async def write(
    db: Database,
    record_id: str,
    *scopes: Scope,
    gone: Iterable[Scope] = (),
    record_type: str = "progress",
    percent: int = 1,
    deleted: bool = False,
    purged: bool = False,
    at_ms: int = START_MS,
) -> int:
    """A record as it is now, at the end of the feed; gives its change."""
    change: int = await execute(db, "UPDATE generation SET value = value + 1 WHERE name = 'records' RETURNING value")
    state = put(EMPTY, BUILT_IN[record_type], {"percent": percent}, Pen.of_cloud("c-91aa", at_ms))
    text = "{}" if purged else record.encode(state)
    fields = json.dumps({"percent": percent})
    row = (record_type, record_id, text, fields, int(deleted), int(purged), change, at_ms, at_ms)
    await execute(db, _INSERT.format(", ".join("?" * 9)), *row)
    for flag, found in ((0, scopes), (1, gone)):
        for kind, value in found:
            await execute(db, _SCOPE.format("?, ?, ?, ?, ?"), record_type, record_id, kind, value, flag)
    return change


class Device:
    """A device as far as it pulls: it keeps its cursor, and a copy of what it got."""

    def __init__(self, cloud: Cloud, headers: dict[str, str], device_id: str) -> None:
        self.cloud = cloud
        self.headers = headers
        self.device_id = device_id
        self.cursor = ""
        self.copy: dict[str, Any] = {}

    async def ask(self, **query: Any) -> tuple[int, Any]:
        """One request; `since` is the cursor unless said otherwise."""
        asked = {"since": self.cursor, **query}
        return await self.cloud.call(
            "GET", "/api/changes", params={name: str(value) for name, value in asked.items()}, headers=self.headers
        )

    async def pull(self, **query: Any) -> list[str]:
        """All there is; gives the ids in order, with '-' before those that are gone. Begins anew after a 410."""
        told: list[str] = []
        again: set[str] | None = set() if not self.cursor else None
        while True:
            status, body = await self.ask(**query)
            if status == 410:
                assert body["code"] == "cursor-expired"
                assert body["snapshot"].startswith("/api/changes")
                self.cursor, again = "", set()
                told.append("410")
                continue
            assert status == 200, body
            for change in body["data"]["changes"]:
                told.append(f"{'-' if change.get('gone') else ''}{change['id']}")
                if change.get("gone"):
                    self.copy.pop(change["id"], None)
                else:
                    self.copy[change["id"]] = change["state"]
                    if again is not None:
                        again.add(change["id"])
            self.cursor = body["data"]["cursor"]
            if not body["data"]["more"]:
                if again is not None:
                    self.copy = {each: state for each, state in self.copy.items() if each in again}
                return told


async def device(cloud: Cloud, device_id: str, **wanted: list[str]) -> Device:
    """An enrolled device with its subscriptions: site=["A"]."""
    found = Device(cloud, await cloud.enroll(device_id), device_id)
    if wanted:
        await subscribe(cloud, device_id, **wanted)
    return found


async def subscribe(cloud: Cloud, device_id: str, **wanted: list[str]) -> None:
    """PUT of the subscriptions."""
    status, body = await cloud.call(
        "PUT", f"/api/devices/{device_id}/subscriptions", json=wanted, headers=await cloud.key("operator")
    )
    assert status == 200, body


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop work until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
