"""The database fails under the service: a clear answer that can be retried, nothing lost, and on it goes."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from conftest import Cloud, StartCloud

from cloud.store.sqlite import SqliteDatabase

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 0, "total_errors": 1}


def event(number: int, **changes: Any) -> dict[str, Any]:
    return {**EVENT, "event_id": f"e{number}", **changes}


async def test_a_full_disk_is_503_and_goes_on_when_there_is_room(start_cloud: StartCloud) -> None:
    cloud = await start_cloud()
    device = await cloud.enroll("pi-1")
    assert isinstance(cloud.services.db, SqliteDatabase)
    writer = cloud.services.db._writer
    (pages,) = next(iter(await writer.execute_fetchall("PRAGMA page_count")))
    await writer.execute_fetchall(f"PRAGMA max_page_count={pages}")
    answered, refused = 0, 0
    for number in range(2000):
        async with cloud.http.post(
            f"{cloud.url}/api/sync-event", json=event(number, error_code="x" * 128), headers=device
        ) as answer:
            if answer.status == 503:
                problem = await answer.json(content_type=None)
                assert int(answer.headers["Retry-After"]) >= 1
                assert problem["retryable"] is True
                assert "full" in problem["detail"]
                refused = number
                break
            assert answer.status == 201
            answered += 1
    assert refused
    assert (await cloud.call("GET", "/api/device/pi-1/sync-history", headers=device))[0] == 200
    await writer.execute_fetchall("PRAGMA max_page_count=1000000")
    again = await cloud.call("POST", "/api/sync-event", json=event(refused, error_code="x" * 128), headers=device)
    assert again[0] == 201
    assert again[1]["data"]["consecutive_failures"] == answered + 1


async def test_a_database_that_another_process_holds_is_waited_for(start_cloud: StartCloud) -> None:
    import sqlite3

    cloud = await start_cloud()
    device = await cloud.enroll("pi-1")
    holder = sqlite3.connect(cloud.services.settings.database_url, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(cloud.call("POST", "/api/sync-event", json=event(1), headers=device))
    assert (await cloud.call("GET", "/api/devices/pi-1", headers=device))[0] == 200
    assert not waiting.done()
    holder.execute("ROLLBACK")
    holder.close()
    assert (await waiting)[0] == 201


async def test_connections_that_are_cut_lose_nothing(
    start_cloud: StartCloud, postgres_url: str, postgres_server: str
) -> None:
    cloud = await start_cloud(database=postgres_url)
    device = await cloud.enroll("pi-1")
    operator = await asyncpg.connect(postgres_server)
    name = urlsplit(postgres_url).path.strip("/")
    answers: list[int] = []

    async def send(start: int) -> None:
        for number in range(start, start + 25):
            while True:
                status, _ = await cloud.call("POST", "/api/sync-event", json=event(number), headers=device)
                assert status in (200, 201, 503)
                answers.append(status)
                if status != 503:
                    break

    async def cut() -> None:
        for _ in range(5):
            seen = len(answers)
            while len(answers) < min(seen + 20, 150):
                await asyncio.sleep(0)
            ended = await operator.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
                name,
            )
            assert ended

    await asyncio.gather(cut(), *(send(start) for start in range(0, 200, 25)))
    await operator.close()
    _, answer = await cloud.call("GET", "/api/devices/pi-1", headers=device)
    assert answer["data"]["events_total"] == 200
    assert answer["data"]["consecutive_failures"] == 200


async def test_one_report_that_cannot_be_written_does_not_take_others_with_it(cloud: Cloud) -> None:
    """A device whose state has gone makes its own group fail, not that of its neighbours."""
    good, bad = await cloud.enroll("pi-1"), await cloud.enroll("pi-2")
    async with cloud.services.db.transaction() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        await connection.execute("DELETE FROM device_state WHERE dk = (SELECT dk FROM device WHERE device_id = 'pi-2')")
    answers = await asyncio.gather(
        *(cloud.call("POST", "/api/sync-event", json=event(number), headers=good) for number in range(10)),
        cloud.call("POST", "/api/sync-event", json=event(1, device_id="pi-2"), headers=bad),
    )
    assert [status for status, _ in answers] == [201] * 10 + [500]
    assert answers[-1][1]["code"] == "internal"
