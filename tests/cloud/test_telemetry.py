"""Messages: exactly once by (device, stream, seq) and by id, with a watermark that a gap holds back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from conftest import Cloud, StartCloud

ITEM_TYPES = "known: assessment, enrollment, event, loss, profile, progress, record, session, sync_event, vitals"
EVENT = {"timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0, "internet_speed": None}


def message(seq: int, *, stream: str = "event", kind: str = "event", **changes: Any) -> dict[str, Any]:
    data = {"eventType": "lesson.opened", "eventData": {"n": seq}}
    base = {"itemType": kind, "itemData": data, "id": f"{stream}-{seq}", "stream": stream, "seq": seq}
    return {**base, **changes}


CHANGED = message(2, itemData={"eventType": "lesson.closed"})


def sync(seq: int, **changes: Any) -> dict[str, Any]:
    data = {"device_id": "pi-1", **EVENT, **changes}
    return message(seq, stream="sync", kind="sync_event", itemData=data)


async def send(cloud: Cloud, headers: dict[str, str], *items: Any, prefer: str = "") -> dict[str, Any]:
    body = {"batchId": "b-1", "sentAt": "2026-01-01T00:00:10Z", "items": list(items)}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers={**headers, "Prefer": prefer})
    assert status == 200, answer
    assert answer["data"]["processed"] == len(items)
    return answer["data"]  # type: ignore[no-any-return]


def statuses(data: dict[str, Any]) -> list[str]:
    return [result["status"] for result in data["results"]]


async def stored(cloud: Cloud, table: str) -> int:
    """Rows of a table, read with the driver's own connection."""
    async with cloud.services.db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        sql = f"SELECT count(*) FROM {table}"
        if cloud.services.db.dialect == "postgres":
            return int(await connection.fetchval(sql))
        return int((await connection.execute_fetchall(sql))[0][0])


async def kept(cloud: Cloud) -> int:
    """Messages and generic events."""
    return await stored(cloud, "message") + await stored(cloud, "telemetry")


async def test_a_batch_is_kept_and_the_watermark_moves(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    data = await send(cloud, device, message(1), message(2), sync(1), message(1, stream="loss", kind="loss"))
    assert statuses(data) == ["synced"] * 4
    assert data["receivedThrough"] == {"event": 2, "loss": 1, "sync": 1}
    assert (data["successful"], data["failed"], data["conflicts"], data["duplicates"]) == (4, 0, 0, 0)
    assert await kept(cloud) == 3
    assert await stored(cloud, "sync_event") == 1


async def test_sending_again_changes_nothing(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    items = [message(1), sync(1, total_errors=1, total_files_synced=0), message(2)]
    await send(cloud, device, *items)
    again = await send(cloud, device, *items)
    assert statuses(again) == ["duplicate"] * 3
    assert (again["successful"], again["duplicates"]) == (3, 3)
    assert again["receivedThrough"] == {"event": 2, "sync": 1}
    assert await kept(cloud) == 2
    _, answer = await cloud.call("GET", "/api/devices/pi-1", headers=device)
    assert answer["data"]["failed_total"] == 1
    assert answer["data"]["received_through"] == {"event": 2, "sync": 1}


async def test_a_gap_holds_the_watermark_until_it_closes(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    assert (await send(cloud, device, message(1), message(3), message(4)))["receivedThrough"] == {"event": 1}
    assert (await send(cloud, device, message(6)))["receivedThrough"] == {"event": 1}
    assert (await send(cloud, device, message(2)))["receivedThrough"] == {"event": 4}
    assert (await send(cloud, device, message(5)))["receivedThrough"] == {"event": 6}
    assert await stored(cloud, "stream_ahead") == 0
    assert await kept(cloud) == 6


async def test_a_bad_item_fails_alone_is_kept_and_does_not_hold_the_stream(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    items = [
        message(1),
        message(2, kind="horoscope"),
        message(3, stream="sync", kind="sync_event", itemData={"device_id": "pi-1"}),
        {"itemType": 7, "itemData": {}, "id": "odd", "stream": "event", "seq": 3},
        message(4),
        sync(1, device_id="pi-2"),
        "not even an object",
    ]
    data = await send(cloud, device, *items)
    assert statuses(data) == ["synced", "failed", "failed", "failed", "synced", "failed", "failed"]
    codes = [result.get("code") for result in data["results"]]
    assert codes == [
        None, "item-type-unknown", "item-invalid", "item-invalid", None, "ownership-mismatch", "item-invalid",
    ]  # fmt: skip
    assert data["receivedThrough"] == {"event": 4, "sync": 1}
    assert await stored(cloud, "rejected_item") == 5
    again = await send(cloud, device, *items)
    assert statuses(again) == ["duplicate", "failed", "failed", "failed", "duplicate", "failed", "failed"]
    assert await stored(cloud, "rejected_item") == 5


async def test_a_used_number_with_a_new_message_is_a_conflict_and_is_kept(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await send(cloud, device, message(1), message(2))
    data = await send(cloud, device, message(1, id="of-a-new-outbox"), CHANGED, message(3))
    assert statuses(data) == ["conflict", "conflict", "synced"]
    assert [result.get("code") for result in data["results"]] == ["seq-conflict", "id-conflict", None]
    assert data["receivedThrough"] == {"event": 3}
    assert await stored(cloud, "rejected_item") == 2


async def test_the_same_message_under_a_new_number_is_a_duplicate(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await send(cloud, device, message(1))
    data = await send(cloud, device, message(2, id="event-1", itemData=message(1)["itemData"]))
    assert statuses(data) == ["duplicate"]
    assert data["receivedThrough"] == {"event": 2}
    assert await kept(cloud) == 1


async def test_items_without_a_place_are_known_by_their_id(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    seed = {"itemType": "event", "itemData": {"eventId": "evt_1", "eventType": "question_answered"}}
    first = await send(cloud, device, seed, {"itemType": "progress", "itemData": {"percent": 75}})
    assert first["results"][0]["itemId"] == "evt_1"
    assert statuses(first) == ["synced", "synced"]
    assert statuses(await send(cloud, device, seed)) == ["duplicate"]


async def test_the_same_message_twice_in_one_batch_is_kept_once(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    assert statuses(await send(cloud, device, message(1), message(1))) == ["synced", "duplicate"]
    assert await kept(cloud) == 1


async def test_a_sync_event_is_the_same_by_either_way(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    body = {"device_id": "pi-1", **EVENT, "event_id": "cycle-1"}
    assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201
    data = await send(cloud, device, message(1, stream="sync", kind="sync_event", itemData=body))
    assert statuses(data) == ["duplicate"]
    assert data["receivedThrough"] == {"sync": 1}
    assert await stored(cloud, "sync_event") == 1


async def test_a_brief_answer_lists_only_what_needs_attention(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    data = await send(cloud, device, message(1), message(2, kind="nope"), message(3), prefer="return=minimal")
    assert [result["itemId"] for result in data["results"]] == ["event-2"]
    assert data["receivedThrough"] == {"event": 3}


async def test_batches_at_once_in_any_order_are_kept_exactly_once(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    dice = random.Random(7)
    pieces = [[message(n) for n in range(start, start + 10)] for start in range(1, 101, 5)]
    dice.shuffle(pieces)
    await asyncio.gather(*(send(cloud, device, *piece) for piece in pieces * 2))
    data = await send(cloud, device, message(1))
    assert data["receivedThrough"] == {"event": 105}
    assert await kept(cloud) == 105
    assert await stored(cloud, "stream_ahead") == 0
    assert await stored(cloud, "rejected_item") == 0


async def test_an_untrusted_clock_is_corrected_by_the_moment_of_sending(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await send(cloud, device, {**sync(1), "clock_trusted": False, "wall_ms": 1, "boot_id": "b", "boottime_ms": 5})
    _, answer = await cloud.call("GET", "/api/device/pi-1/sync-history", headers=device)
    event = answer["data"][0]
    assert set(event["time_flags"]) == {"clock_suspect", "derived"}
    assert event["occurred_at"] > "2026-02"


async def test_status_and_batch_log(cloud: Cloud) -> None:
    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")
    _, before = await cloud.call("GET", "/api/telemetry/status", headers=device)
    assert before["syncStatus"]["syncHealth"] == "unknown"
    await send(cloud, device, message(1), message(2, kind="nope"))
    status, answer = await cloud.call("GET", "/api/telemetry/status?device_id=pi-1", headers=viewer)
    assert status == 200
    found = answer["syncStatus"]
    assert (found["totalItems"], found["successRate"], found["lastError"]) == (2, 0.5, "item-type-unknown")
    assert found["syncHealth"] == "poor"
    assert found["receivedThrough"] == {"event": 2}
    _, log = await cloud.call("GET", "/api/telemetry/batches", headers=device)
    assert log["data"][0] | {"receivedAt": "", "duration": 0} == {
        "batchId": "b-1",
        "itemCount": 2,
        "successCount": 1,
        "failureCount": 1,
        "conflictCount": 0,
        "duplicateCount": 0,
        "receivedAt": "",
        "last_updated_at": log["data"][0]["receivedAt"],
        "duration": 0,
        "status": "partial",
        "errors": [{"itemId": "event-2", "code": "item-type-unknown", "detail": ITEM_TYPES}],
        "conflictDetails": [],
    }
    assert (await cloud.call("GET", "/api/telemetry/status", headers=viewer))[0] == 422
    assert (await cloud.call("GET", "/api/telemetry/status?device_id=nobody", headers=viewer))[0] == 404


async def test_only_a_device_sends_batches(cloud_lite: Cloud) -> None:
    operator = await cloud_lite.key("admin")
    body = {"batchId": "b", "items": [message(1)]}
    assert (await cloud_lite.call("POST", "/api/telemetry/batch", json=body, headers=operator))[0] == 403


async def test_the_envelope_is_checked_as_a_whole(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    for body, pointer in (
        ({"items": [message(1)]}, "/batchId"),
        ({"batchId": "b", "items": []}, "/items"),
        ({"batchId": "b", "items": [message(n) for n in range(1, 502)]}, "/items"),
        ({"batchId": "b", "items": {}}, "/items"),
        ({"batchId": "b", "items": [message(1)], "sentAt": "yesterday"}, "/sentAt"),
    ):
        status, problem = await cloud_lite.call("POST", "/api/telemetry/batch", json=body, headers=device)
        assert status == 422
        assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_five_hundred_items_in_one_batch(start_cloud: StartCloud, database_url: str) -> None:
    cloud = await start_cloud(database=database_url)
    device = await cloud.enroll("pi-1")
    data = await send(cloud, device, *(message(n) for n in range(1, 501)))
    assert data["receivedThrough"] == {"event": 500}
