"""A device without a clock battery: what it recorded under a wrong clock gets its time when a right one is known."""

from __future__ import annotations

import time
import uuid
from typing import Any

from conftest import Cloud
from test_telemetry import statuses

DAY_MS = 86_400_000


def recorded(boot: str, boottime_ms: int, seq: int, **changes: Any) -> dict[str, Any]:
    event = {
        "event_version": 1, "id": str(uuid.uuid4()), "event_type": "QUESTION_VIEWED", "payload": {"position": 0},
        "session_id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()),
    }  # fmt: skip
    stamp = {"boot_id": boot, "boottime_ms": boottime_ms, "wall_ms": 1000 + boottime_ms, "clock_trusted": False}
    return {"itemType": "event", "itemData": event, "stream": "learn3", "seq": seq, **stamp, **changes}


async def send(cloud: Cloud, device: dict[str, str], *items: Any, **clocks: Any) -> None:
    body = {"batchId": "b", "items": list(items), "boots": {"one": 1, "two": 2, "three": 3}, **clocks}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=device)
    assert (status, set(statuses(answer["data"]))) == (200, {"synced"})


async def spans(cloud: Cloud) -> dict[str, Any]:
    """boot id -> (kind, earliest and latest time of its latest event in milliseconds)."""
    async with cloud.services.db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        sql = "SELECT boot_id, time_kind, occurred_low_ms, occurred_high_ms FROM attempt_events_timed ORDER BY ord"
        if cloud.services.db.dialect == "postgres":
            rows = await connection.fetch(sql)
        else:
            rows = await connection.execute_fetchall(sql)
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


async def test_the_moment_of_sending_dates_the_whole_boot(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    now_ms = time.time_ns() // 1_000_000
    await send(cloud, device, recorded("one", 5_000, 1), sentBootId="one", sentBoottimeMs=605_000)
    kind, low, high = (await spans(cloud))["one"]
    assert kind == "exact"
    assert low <= now_ms - 600_000 <= high + 1_000
    assert high - low < 130_000


async def test_the_echo_of_an_earlier_request_tells_it_more_exactly(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    now_ms = time.time_ns() // 1_000_000
    echo = [604_000, 604_100, now_ms - 1_000]
    await send(cloud, device, recorded("one", 5_000, 1), sentBootId="one", sentBoottimeMs=605_000, echo=echo)
    kind, low, high = (await spans(cloud))["one"]
    assert kind == "exact"
    assert high - low < 500


async def test_a_trusted_stamp_dates_what_came_before_it_too(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    real_ms = time.time_ns() // 1_000_000 - 30 * DAY_MS
    await send(cloud, device, recorded("one", 5_000, 1))
    assert (await spans(cloud))["one"][0] == "interval"
    await send(cloud, device, recorded("one", 905_000, 2, wall_ms=real_ms + 900_000, clock_trusted=True))
    kind, low, high = (await spans(cloud))["one"]
    # the view's last row of the boot is the event at 905 s
    assert kind == "exact"
    assert low <= real_ms + 900_000 <= high
    assert high - low <= 245_000


async def test_an_untrusted_boot_lies_between_its_neighbours(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    start_ms = time.time_ns() // 1_000_000 - 10 * DAY_MS
    first = recorded("one", 3_600_000, 1, wall_ms=start_ms + 3_600_000, clock_trusted=True)
    await send(cloud, device, first, recorded("two", 7_200_000, 2))
    assert (await spans(cloud))["two"][0] == "interval"
    third_ms = start_ms + 2 * DAY_MS
    await send(cloud, device, recorded("three", 1_000, 3, wall_ms=third_ms + 1_000, clock_trusted=True))
    kind, low, high = (await spans(cloud))["two"]
    assert kind == "interval"
    # its event at two hours: after the first boot's end and two hours more, before the third began
    assert abs(low - (start_ms + 3_600_000 + 7_200_000)) < 200_000
    assert abs(high - third_ms) < 200_000


async def test_hostile_clocks_break_nothing(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    far = 2**53
    await send(
        cloud, device,
        recorded("one", far, 1, wall_ms=-far, clock_trusted=True),
        recorded("two", 0, 2, wall_ms=far, clock_trusted=True),
        sentBootId="two", sentBoottimeMs=far, boots={"one": far, "two": far}, echo=[far, 0, far],
    )  # fmt: skip
    assert set(await spans(cloud)) == {"one", "two"}


async def test_hundreds_of_boots_that_never_spoke_are_dated_when_one_does(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    names = [f"boot-{number}" for number in range(1, 461)]
    boots = {name: number for number, name in enumerate(names, 1)}
    items = [recorded(name, 1_000, seq) for seq, name in enumerate(names, 1)]
    await send(cloud, device, *items, boots=boots)
    assert {span[0] for span in (await spans(cloud)).values()} == {"interval"}
    now_ms = time.time_ns() // 1_000_000
    last = recorded("boot-461", 1_000, 461)
    await send(cloud, device, last, boots={"boot-461": 461}, sentBootId="boot-461", sentBoottimeMs=1_000)
    found = await spans(cloud)
    assert found["boot-461"][0] == "exact"
    # each boot lasted a second, so the first ended 460 s before the last began
    assert found["boot-1"][2] <= now_ms - 459_000 + 2_000
