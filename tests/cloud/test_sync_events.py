"""Sync events: what is stored, what is answered, what is counted; on both databases over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from conftest import Cloud, StartCloud

EVENT = {
    "device_id": "pi-1",
    "timestamp": "2023-08-15T12:30:45Z",
    "total_files_synced": 25,
    "total_errors": 2,
    "internet_speed": 10.5,
}


def event(**changes: Any) -> dict[str, Any]:
    return {**EVENT, **changes}


def failed(number: int, **changes: Any) -> dict[str, Any]:
    return event(event_id=f"e{number}", total_files_synced=0, total_errors=1, error_code="link-down", **changes)


def success(number: int) -> dict[str, Any]:
    return event(event_id=f"e{number}", total_errors=0)


async def post(cloud: Cloud, headers: dict[str, str], *events: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for one in events:
        status, answer = await cloud.call("POST", "/api/sync-event", json=one, headers=headers)
        assert status in (200, 201), answer
        found.append(answer["data"])
    return found


async def test_an_event_is_kept_and_answered(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    status, answer = await cloud.call("POST", "/api/sync-event", json=EVENT, headers=device)
    assert status == 201
    assert answer["success"] is True
    assert answer["data"]["sync_status"] == "partial"
    assert answer["data"]["consecutive_failures"] == 0
    assert answer["data"]["timestamp"] == "2023-08-15T12:30:45Z"
    assert answer["next"]["sync_in_s"] == 300
    assert answer["metadata"]["request_id"]
    status, history = await cloud.call("GET", "/api/device/pi-1/sync-history", headers=device)
    assert status == 200
    assert history["data"] == [answer["data"]]
    assert history["pagination"] == {"page": 1, "limit": 10, "total": 1, "total_pages": 1, "next_cursor": None}


async def test_the_same_event_is_kept_once_and_answered_as_the_first_time(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    first = await cloud.call("POST", "/api/sync-event", json=EVENT, headers=device)
    again = await cloud.call(
        "POST", "/api/sync-event", json={**EVENT, "sent_at": "2026-01-01T00:00:00Z"}, headers=device
    )
    assert (first[0], again[0]) == (201, 200)
    assert first[1]["data"] == again[1]["data"]
    _, history = await cloud.call("GET", "/api/device/pi-1/sync-history", headers=device)
    assert history["pagination"]["total"] == 1


async def test_the_same_id_with_other_content_is_a_conflict(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await post(cloud, device, event(event_id="a"))
    status, problem = await cloud.call(
        "POST", "/api/sync-event", json=event(event_id="a", total_errors=3), headers=device
    )
    assert status == 409
    assert problem["code"] == "id-conflict"
    assert problem["hint"]


async def test_two_devices_may_use_the_same_id(cloud: Cloud) -> None:
    for device_id in ("pi-1", "pi-2"):
        headers = await cloud.enroll(device_id)
        status, _ = await cloud.call(
            "POST", "/api/sync-event", json=event(device_id=device_id, event_id="a"), headers=headers
        )
        assert status == 201


async def test_twenty_first_events_at_once_are_all_answered_and_counted(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    answers = await asyncio.gather(
        *(cloud.call("POST", "/api/sync-event", json=failed(n), headers=device) for n in range(20))
    )
    assert [status for status, _ in answers] == [201] * 20
    assert sorted(answer["data"]["consecutive_failures"] for _, answer in answers) == list(range(1, 21))


async def test_the_same_event_twenty_times_at_once_is_kept_once(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    answers = await asyncio.gather(
        *(cloud.call("POST", "/api/sync-event", json=EVENT, headers=device) for _ in range(20))
    )
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert len({str(answer["data"]) for _, answer in answers}) == 1


async def test_statuses_and_streaks(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    answers = await post(cloud, device, failed(1), failed(2), event(event_id="p"), failed(3), success(4))
    assert [answer["sync_status"] for answer in answers] == ["failed", "failed", "partial", "failed", "success"]
    assert [answer["consecutive_failures"] for answer in answers] == [1, 2, 0, 1, 0]


async def test_three_failures_in_a_row_notify_once_and_success_closes(cloud: Cloud) -> None:
    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")

    async def notifications(query: str = "") -> list[dict[str, Any]]:
        status, answer = await cloud.call("GET", f"/api/notifications?device_id=pi-1{query}", headers=viewer)
        assert status == 200, answer
        return answer["data"]  # type: ignore[no-any-return]

    await post(cloud, device, failed(1), failed(2))
    assert await notifications() == []
    await post(cloud, device, failed(3), failed(4), failed(5))
    opened = await notifications("&open=true")
    assert len(opened) == 1
    assert opened[0]["device_id"] == "pi-1"
    assert opened[0]["last_error_code"] == "link-down"
    await post(cloud, device, success(6))
    assert await notifications("&open=true") == []
    closed = await notifications("&open=false")
    assert closed[0]["closed_at"] is not None
    assert closed[0]["consecutive_failures"] == 5
    await post(cloud, device, failed(7), failed(8), failed(9))
    assert len(await notifications()) == 2


async def test_streaks_within_one_group_commit(cloud: Cloud) -> None:
    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")
    items = [failed(1), failed(2), failed(3), success(4), failed(5), failed(6), failed(7)]
    batch = {"batchId": "b", "items": [{"itemType": "sync_event", "itemData": item} for item in items]}
    await cloud.call("POST", "/api/telemetry/batch", json=batch, headers=device)
    _, answer = await cloud.call("GET", "/api/notifications", headers=viewer)
    assert [one["closed_at"] is None for one in answer["data"]] == [True, False]


async def test_how_many_failures_notify_is_a_setting(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(failures_notify=1)
    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")
    await post(cloud, device, failed(1))
    _, answer = await cloud.call("GET", "/api/notifications", headers=viewer)
    assert answer["pagination"]["total"] == 1


async def test_repeated_failures_are_more_than_three(cloud: Cloud) -> None:
    viewer = await cloud.key("viewer")
    for count in (3, 4, 6):
        device = await cloud.enroll(f"pi-{count}")
        await post(cloud, device, *(failed(n, device_id=f"pi-{count}") for n in range(count)))
    device = await cloud.enroll("pi-ok")
    await post(cloud, device, *(failed(n, device_id="pi-ok") for n in range(5)))
    await post(cloud, device, event(device_id="pi-ok", event_id="s", total_errors=0))

    async def listed(query: str = "") -> list[tuple[str, int]]:
        status, answer = await cloud.call("GET", f"/api/devices/repeated-failures{query}", headers=viewer)
        assert status == 200, answer
        return [(one["device_id"], one["failed_count"]) for one in answer["data"]]

    assert await listed() == [("pi-6", 6), ("pi-ok", 5), ("pi-4", 4)]
    assert await listed("?threshold=5") == [("pi-6", 6)]
    assert await listed("?mode=consecutive") == [("pi-6", 6), ("pi-4", 4)]
    assert await listed("?limit=1&page=2") == [("pi-ok", 5)]


async def test_a_revoked_device_is_no_longer_listed_as_failing(cloud: Cloud) -> None:
    from cloud.flows import identity

    device, viewer = await cloud.enroll("pi-1"), await cloud.key("viewer")
    await post(cloud, device, *(failed(n) for n in range(5)))
    await identity.revoke(cloud.services.db, "pi-1", 1)
    _, answer = await cloud.call("GET", "/api/devices/repeated-failures", headers=viewer)
    assert answer["data"] == []


async def test_history_is_newest_first_and_pages_do_not_overlap(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    stamps = [f"2026-01-{day:02d}T00:00:00Z" for day in range(1, 26)]
    await post(cloud, device, *(event(event_id=f"e{n}", timestamp=stamp) for n, stamp in enumerate(stamps)))
    seen: list[str] = []
    for page in (1, 2, 3, 4):
        _, answer = await cloud.call("GET", f"/api/device/pi-1/sync-history?page={page}&limit=10", headers=device)
        seen += [one["timestamp"] for one in answer["data"]]
        assert answer["pagination"]["total"] == 25
        assert answer["pagination"]["total_pages"] == 3
    assert seen == stamps[::-1]


async def test_a_walk_by_cursor_is_stable_while_events_arrive(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await post(cloud, device, *(event(event_id=f"e{n}") for n in range(12)))  # all with the same timestamp
    seen: list[str] = []
    cursor = ""
    for turn in range(10):
        _, answer = await cloud.call("GET", f"/api/device/pi-1/sync-history?limit=5{cursor}", headers=device)
        seen += [one["event_id"] for one in answer["data"]]
        await post(cloud, device, event(event_id=f"late{turn}"))
        if answer["pagination"]["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['pagination']['next_cursor']}"
    assert seen == [f"e{n}" for n in reversed(range(12))]


async def test_history_by_status_and_time(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await post(
        cloud,
        device,
        failed(1, timestamp="2026-01-01T00:00:00Z"),
        event(event_id="p", timestamp="2026-01-02T00:00:00Z"),
        failed(2, timestamp="2026-01-03T00:00:00+01:00"),
    )

    async def ids(query: str) -> tuple[list[str], int]:
        status, answer = await cloud.call("GET", f"/api/device/pi-1/sync-history?{query}", headers=device)
        assert status == 200, answer
        return [one["event_id"] for one in answer["data"]], answer["pagination"]["total"]

    assert await ids("status=failed") == (["e2", "e1"], 2)
    assert await ids("from=2026-01-02&to=2026-01-02T23:30:00Z") == (["e2", "p"], 2)
    assert await ids("from=2026-01-02&status=partial") == (["p"], 1)
    assert await ids("to=2026-01-01T01:00:00+01:00") == ([], 0)
    assert await ids("page=99") == ([], 3)


async def test_a_wrong_clock_is_flagged_and_never_refused(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    epoch, future, plausible = await post(
        cloud,
        device,
        event(timestamp="1970-01-01T00:05:00Z", sent_at="1970-01-01T00:06:00Z"),
        event(timestamp="2199-01-01T00:00:00Z"),
        event(timestamp="2024-01-01T00:00:00Z"),
    )
    assert epoch["time_flags"] == ["clock_suspect", "derived"]
    assert epoch["occurred_at"] < epoch["received_at"]
    assert set(future["time_flags"]) == {"clock_suspect", "future", "derived"}
    assert future["occurred_at"] == future["received_at"]
    assert plausible["time_flags"] == ["late"]


async def test_a_device_speaks_only_for_itself_and_an_operator_for_all(cloud: Cloud) -> None:
    device, operator, viewer = await cloud.enroll("pi-1"), await cloud.key("operator"), await cloud.key("viewer")
    await cloud.enroll("pi-2")
    foreign = event(device_id="pi-2")
    status, problem = await cloud.call("POST", "/api/sync-event", json=foreign, headers=device)
    assert (status, problem["code"]) == (403, "ownership-mismatch")
    status, problem = await cloud.call("GET", "/api/device/pi-2/sync-history", headers=device)
    assert (status, problem["code"]) == (403, "ownership-mismatch")
    assert (await cloud.call("POST", "/api/sync-event", json=foreign, headers=operator))[0] == 201
    status, problem = await cloud.call("POST", "/api/sync-event", json=foreign, headers=viewer)
    assert (status, problem["code"]) == (403, "role-missing")
    status, problem = await cloud.call("POST", "/api/sync-event", json=event(device_id="nobody"), headers=operator)
    assert (status, problem["code"]) == (404, "device-unknown")


async def test_what_was_answered_survives_a_restart(start_cloud: StartCloud, database_url: str) -> None:
    first = await start_cloud(database=database_url)
    device = await first.enroll("pi-1")
    await post(first, device, failed(1))
    second = await start_cloud(database=database_url)
    assert (await post(second, device, failed(2)))[0]["consecutive_failures"] == 2


async def test_two_services_over_one_database_count_every_event_once(
    start_cloud: StartCloud, database_url: str
) -> None:
    clouds = [await start_cloud(database=database_url) for _ in range(2)]
    device = await clouds[0].enroll("pi-1")
    answers = await asyncio.gather(
        *(cloud.call("POST", "/api/sync-event", json=failed(n), headers=device) for n in range(15) for cloud in clouds)
    )
    assert sorted(status for status, _ in answers) == [200] * 15 + [201] * 15
    viewer = await clouds[0].key("viewer")
    _, answer = await clouds[1].call("GET", "/api/devices/pi-1", headers=viewer)
    assert answer["data"]["failed_total"] == 15
    assert answer["data"]["consecutive_failures"] == 15
