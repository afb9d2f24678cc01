"""Records in batches, as devices push them and as applications tell of them: what joins, conflicts, is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from conftest import Cloud

from cloud.flows.records import Author, Patch, Put
from cloud.services import wall_ms
from pisyncd.core import merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.record import EMPTY, State

KEY = Author("key:desk")


class Device:
    """A device as the cloud sees one: its own copy of one record, which it pushes write by write."""

    numbers = itertools.count(1)

    def __init__(self, cloud: Cloud, headers: dict[str, str], name: str, kind: str = "progress") -> None:
        self.cloud, self.headers, self.name, self.kind = cloud, headers, name, kind
        self.writer = "d-" + hashlib.sha256(name.encode()).hexdigest()[:16]
        self.state = EMPTY
        self.seq = 0

    @classmethod
    async def enroll(cls, cloud: Cloud, name: str, kind: str = "progress") -> Device:
        return cls(cloud, await cloud.enroll(name), name, kind)

    def write(
        self, fields: dict[str, Any], *, at_ms: int | None = None, trusted: bool = True, record_id: str = "r1"
    ) -> dict[str, Any]:
        """An item with one more write of some fields."""
        pen = Pen.of_device(self.writer, wall_ms() if at_ms is None else at_ms, trusted=trusted)
        self.state = merge.patch(self.state, record.BUILT_IN[self.kind], fields, pen)
        return self.item(record_id)

    def item(self, record_id: str = "r1", **changes: Any) -> dict[str, Any]:
        self.seq += 1
        data = {"type": self.kind, "id": record_id, "base": {}, "state": json.loads(record.canonical(self.state))}
        return item(self.kind, data, **{"stream": f"record-{self.writer[-4:]}", "seq": self.seq, **changes})

    async def push(self, *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        return await push(self.cloud, self.headers, *items, **more)


def item(kind: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"itemType": kind, "itemData": data, "id": f"i-{next(Device.numbers)}", **changes}


async def push(cloud: Cloud, headers: dict[str, str], *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    body = {"batchId": f"b-{next(Device.numbers)}", "items": list(items), **more}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=headers)
    assert status == 200, answer
    data = answer["data"]
    assert data["processed"] == len(items) == data["successful"] + data["failed"] + data["conflicts"]
    return data["results"]  # type: ignore[no-any-return]


async def shown(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> dict[str, Any]:
    return dict((await cloud.services.records.read(kind, record_id)).view.fields)


async def state_of(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> State:
    return (await cloud.services.records.read(kind, record_id, deleted=True)).kept.state


async def test_what_a_device_writes_is_here_and_again_changes_nothing(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    first = one.write({"percent": 40})
    second = one.write({"percent": 80, "userId": "7d444840-9dc0-11d1-b245-5ffdce74fad2"})
    results = await one.push(first, second)
    assert [each["status"] for each in results] == ["synced", "synced"]
    assert [each["status"] for each in await one.push(first, second)] == ["duplicate", "duplicate"]
    assert await shown(cloud) == {"percent": 80, "userId": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}
    kept = await state_of(cloud)
    assert kept.version == {one.writer: 2}
    assert {write.clock for writes in kept.registers.values() for write in writes} == {record.JUDGED_TRUSTED}


async def test_who_has_seen_all_replaces_it_quietly(cloud: Cloud) -> None:
    one = await Device.enroll(cloud, "pi-1")
    await one.push(one.write({"percent": 40, "mode": "a"}))
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"mode": "b"}))
    one.state = merge.join(one.state, await state_of(cloud))
    (result,) = await one.push(one.write({"mode": "c"}))
    assert result == {"itemId": result["itemId"], "status": "synced", "timestamp": result["timestamp"]}
    assert await shown(cloud) == {"percent": 40, "mode": "c"}


@pytest.mark.parametrize(
    ("kind", "here", "there", "winner", "now"),
    [
        ("progress", {"percent": 90}, {"percent": 85}, "server", {"percent": 90}),
        ("progress", {"percent": 80}, {"percent": 85}, "client", {"percent": 85}),
        ("enrollment", {"status": "active"}, {"status": "done"}, "client", {"status": "done"}),
        ("assessment", {"grade": 3}, {"grade": 4}, "client", {"grade": 4}),
    ],
)
async def test_writes_that_have_not_seen_each_other_are_a_conflict_by_the_rule_of_the_type(
    cloud: Cloud, kind: str, here: dict[str, Any], there: dict[str, Any], winner: str, now: dict[str, Any]
) -> None:
    one = await Device.enroll(cloud, "pi-1", kind)
    await one.push(one.write({"open": True}))
    await cloud.services.records.write(KEY, kind, "r1", Put({"open": True, **here}))
    (result,) = await one.push(one.write(there, at_ms=wall_ms() + 5000))
    assert result["status"] == "conflict"
    assert "code" not in result
    found = result["resolution"]
    assert (found["winner"], found["conflictId"][:3]) == (winner, "cf_")
    assert "pi-1" in found["detail"]
    assert "the cloud" in found["detail"]
    assert await shown(cloud, kind) == {"open": True, **now}
    _, log = await cloud.call("GET", "/api/telemetry/batches", headers=one.headers)
    assert log["data"][0]["conflictDetails"] == [
        {
            "itemId": result["itemId"],
            "code": "merged",
            "detail": found["detail"],
            "conflictId": found["conflictId"],
            "strategy": found["strategy"],
        }
    ]
    assert (log["data"][0]["successCount"], log["data"][0]["conflictCount"]) == (0, 1)


async def test_plain_fields_stand_beside_what_the_sender_had_not_seen(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    made = item("progress", {"progressId": "r1", "percent": 75, "timeSpent": 30})
    assert (await push(cloud, device, made))[0]["status"] == "synced"
    more = item("progress", {"progressId": "r1", "percent": 80, "timeSpent": 60})
    assert (await push(cloud, device, more))[0]["status"] == "synced"
    assert await shown(cloud) == {"percent": 80, "timeSpent": 60}
    await cloud.services.records.write(KEY, "progress", "r1", Patch({"note_id": "n1", "percent": 90}))
    version = (await state_of(cloud)).version
    beside = item("progress", {"progressId": "r1", "note_id": "n2"})
    (result,) = await push(cloud, device, beside)
    # nobody knows when it was written
    assert (result["status"], result["resolution"]["winner"]) == ("conflict", "server")
    seen = item("progress", {"progressId": "r1", "note_id": "n3", "baseVersion": version})
    assert (await push(cloud, device, seen))[0]["status"] == "synced"
    assert await shown(cloud) == {"percent": 90, "timeSpent": 60, "note_id": "n3"}
    gone = item("progress", {"progressId": "r1", "deleted": True, "baseVersion": (await state_of(cloud)).version})
    assert (await push(cloud, device, gone))[0]["status"] == "synced"
    assert (await cloud.services.records.read("progress", "r1", deleted=True)).view.deleted


async def test_data_that_names_no_record_stays_a_message(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    assert (await push(cloud, device, item("progress", {"percent": 3})))[0]["status"] == "synced"
    assert (await cloud.services.records.page("progress", limit=10))[1] == 0
