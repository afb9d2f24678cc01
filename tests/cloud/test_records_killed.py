"""kill -9 while records come in: what was answered is here, nothing is here by half, sending again mends the rest."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import aiohttp
from test_records import rows
from test_service import run, serving

from cloud.store import drivers
from pisyncd.core import merge, record
from pisyncd.core.merge import Pen

BATCHES, ITEMS, KILLS = 6, 60, 1


def batch(number: int) -> dict[str, Any]:
    """Each batch writes the same records anew."""
    items = []
    for index in range(ITEMS):
        state = record.EMPTY
        for count in range(number + 1):
            state = merge.patch(
                state, record.BUILT_IN["progress"], {"percent": count + 1}, Pen.of_device("d-00aa", 5, trusted=True)
            )
        data = {"type": "progress", "id": f"p{index}", "state": json.loads(record.canonical(state))}
        seq = number * ITEMS + index + 1
        items.append({"itemType": "progress", "itemData": data, "id": f"i{seq}", "stream": "record-1", "seq": seq})
    return {"batchId": f"b{number}", "items": items}


async def check(url: str) -> None:
    """Every message that is kept is in its record, and nothing else is."""
    async with drivers.opened(url) as db:
        last: dict[str, int] = {}
        for row in await rows(db, "SELECT seq FROM message WHERE item_type = 'progress'"):
            name = f"p{(row['seq'] - 1) % ITEMS}"
            last[name] = max(last.get(name, 0), (row["seq"] - 1) // ITEMS + 1)
        found = await rows(db, "SELECT id, state, fields, change FROM record")
        assert {row["id"]: record.decode(row["state"]).version["d-00aa"] for row in found} == last
        assert all(json.loads(row["fields"])["percent"] == last[row["id"]] for row in found)
        moved = (await rows(db, "SELECT value FROM generation WHERE name = 'records'"))[0]["value"]
        assert moved == max((row["change"] for row in found), default=0)
        scopes = await rows(db, "SELECT id FROM record_scope WHERE kind = 'device'")
        assert {row["id"] for row in scopes} == last.keys()


async def send(http: aiohttp.ClientSession, url: str, token: str, number: int) -> bool:
    """Whether it was answered."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with http.post(f"{url}/api/telemetry/batch", json=batch(number), headers=headers) as answer:
            data = (await answer.json())["data"]
            assert data["failed"] == data["conflicts"] == 0
            return True
    except aiohttp.ClientError:
        return False


async def test_killed_while_records_come_in(database_url: str, tmp_path: Path) -> None:
    where = ("--data", str(tmp_path / "data"), "--database", database_url)
    enrolled = await asyncio.to_thread(run, "enroll", "pi-1", *where)
    token = enrolled.stdout.strip().splitlines()[-1]
    number = itertools.count()
    for _ in range(KILLS):
        async with serving(*where) as (process, url), aiohttp.ClientSession() as http:
            sending = [asyncio.create_task(send(http, url, token, next(number))) for _ in range(BATCHES // KILLS)]
            await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            process.kill()
            await process.wait()
            await asyncio.gather(*sending)
        await check(database_url)
    async with serving(*where) as (_, url), aiohttp.ClientSession() as http:
        assert all([await send(http, url, token, each) for each in range(BATCHES)])
    await check(database_url)
    async with drivers.opened(database_url) as db:
        assert len(await rows(db, "SELECT seq FROM message WHERE item_type = 'progress'")) == BATCHES * ITEMS
