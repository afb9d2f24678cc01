"""Standing in the database: reports change it, the time changes it, people mute it, two services agree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.flows import identity, standing
from cloud.flows.standing import Assessing
from cloud.rules.calendar import Calendar
from cloud.rules.standing import Terms
from cloud.services import wall_ms
from cloud.store.db import Database
from pisyncd.core.errors import ConfigError

DAY_MS = 86_400_000
EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z"}


async def report(cloud: Cloud, device: dict[str, str], number: int, *, errors: int = 0) -> None:
    body = {
        **EVENT,
        "event_id": f"e{number}",
        "total_files_synced": 0,
        "total_errors": errors,
        "error_code": "card-full",
    }
    assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201


async def states(db: Database) -> list[tuple[str, str, str]]:
    async with db.reading() as tx:
        dk = (await tx.one("device_by_id", device_id="pi-1"))["dk"]  # type: ignore[index]
        rows = await tx.all("transitions_of", dk=dk, before_id=2**62, row_limit=100, row_offset=0)
    return [(row["old_state"], row["new_state"], row["reason"]) for row in reversed(rows)]


def at(db: Database, now_ms: int) -> Assessing:
    return Assessing(db, lambda: now_ms, Terms(), {"default": Calendar()})


async def settle(assessing: Assessing) -> None:
    after: int | None = 0
    while after is not None:
        _, _, after = await assessing.some(after)


async def test_three_failures_in_a_row_are_failing_and_a_success_ends_it(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await cloud.services.assessor.step()
    assert await states(cloud.services.db) == []
    for number in range(3):
        await report(cloud, device, number, errors=1)
        await cloud.services.assessor.step()
    await report(cloud, device, 3)
    await cloud.services.assessor.step()
    assert await states(cloud.services.db) == [
        ("new", "healthy", "heard"),
        ("healthy", "failing", "failures-in-a-row"),
        ("failing", "healthy", "heard"),
    ]


async def test_it_happens_by_itself(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await report(cloud, device, 0)
    async with asyncio.timeout(60):
        while not await states(cloud.services.db):
            await asyncio.sleep(0.05)


async def test_silence_becomes_quiet_and_then_overdue(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await report(cloud, device, 0)
    db = cloud.services.db
    await settle(at(db, wall_ms()))
    await settle(at(db, wall_ms() + DAY_MS + 3_600_000))
    await settle(at(db, wall_ms() + 60 * DAY_MS))
    assert [new for _, new, _ in await states(db)] == ["healthy", "expected-quiet", "overdue"]


async def test_two_services_write_a_change_once(cloud: Cloud) -> None:
    devices = [await cloud.enroll(f"pi-{number}") for number in range(1, 30)]
    for number, device in enumerate(devices, 1):
        body = {**EVENT, "device_id": f"pi-{number}", "total_files_synced": 1, "total_errors": 0}
        assert (await cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] == 201
    db = cloud.services.db
    await asyncio.gather(*(settle(at(db, wall_ms())) for _ in range(6)))
    async with db.reading() as tx:
        counts = {row["state"]: row["devices"] for row in await tx.all("standing_states")}
    assert counts == {"healthy": 29}
    assert len(await states(db)) == 1


async def test_revoking_and_letting_in_again(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await report(cloud, device, 0)
    await cloud.services.assessor.step()
    await identity.revoke(cloud.services.db, "pi-1", wall_ms())
    await cloud.services.assessor.step()
    await identity.enroll(cloud.services.db, "pi-1", wall_ms())
    await cloud.services.assessor.step()
    assert await states(cloud.services.db) == [
        ("new", "healthy", "heard"),
        ("healthy", "retired", "revoked"),
        ("retired", "new", "enrolled"),
        ("new", "healthy", "heard"),
    ]


async def test_muting_by_the_api_is_shown_and_audited(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    operator, viewer, admin = await cloud.key("operator"), await cloud.key("viewer"), await cloud.key("admin")
    path = "/api/devices/pi-1/mute"
    body: dict[str, Any] = {"for_s": 3600, "note": "rebuilding"}
    assert (await cloud.call("POST", path, json=body, headers=viewer))[0] == 403
    status, answer = await cloud.call("POST", path, json=body, headers=operator)
    assert (status, answer["data"]["state"]) == (200, "muted")
    assert answer["data"]["muted_until"] is not None
    status, answer = await cloud.call("POST", "/api/devices/pi-1/unmute", headers=operator)
    assert (status, answer["data"]["state"], answer["data"]["muted_until"]) == (200, "new", None)
    _, answer = await cloud.call("GET", "/api/devices/pi-1/transitions", headers=viewer)
    assert [(each["old"], each["new"]) for each in answer["data"]] == [("muted", "new"), ("new", "muted")]
    _, answer = await cloud.call("GET", "/api/audit?target=pi-1", headers=admin)
    assert [each["action"] for each in answer["data"]][:2] == ["device.unmuted", "device.muted"]


@pytest.mark.parametrize(
    "body",
    [{"for_s": 0}, {"for_s": -1}, {"for_s": 10**12}, {"until": "yesterday"}, {"until": "2020-01-01T00:00:00Z"},
     {"for_s": 60, "until": "2036-01-01T00:00:00Z"}, {"note": "x" * 501}, {"nonsense": 1}, []],
)  # fmt: skip
async def test_what_cannot_be_a_mute_is_refused(cloud_lite: Cloud, body: Any) -> None:
    await cloud_lite.enroll("pi-1")
    operator = await cloud_lite.key("operator")
    status, problem = await cloud_lite.call("POST", "/api/devices/pi-1/mute", json=body, headers=operator)
    assert status == 422
    assert problem["hint"] or problem["errors"]


async def test_who_belongs_to_another_group_cannot_mute(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    async with cloud.services.db.transaction() as tx:
        await tx.run(
            "put_group", name="north", kind="group", parent=None, calendar=None, learners=None, note="", now_ms=0
        )
    key = await identity.create_key(cloud.services.db, "n", "operator", wall_ms(), groups=["north"])
    north = {"Authorization": f"Bearer {key}"}
    assert (await cloud.call("POST", "/api/devices/pi-1/mute", json={}, headers=north))[0] == 404


async def test_a_calendar_that_cannot_be_stops_the_start(start_cloud: StartCloud, tmp_path: Any) -> None:
    file = tmp_path / "calendar.yaml"
    file.write_text("default: {timezone: Mars/Base}\n")
    with pytest.raises(ConfigError, match="Mars/Base"):
        await start_cloud(calendar_file=str(file))
    with pytest.raises(ConfigError, match="Nowhere"):
        standing.load_calendars("", "Nowhere")
