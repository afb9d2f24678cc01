"""A device as the cloud sees one that pushes records, and looks into what the cloud keeps."""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from typing import Any

import jwt
from conftest import Cloud

from cloud.flows.records import Author
from cloud.services import wall_ms
from pisyncd.core import merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.record import EMPTY, State

KEY = Author("key:desk")
SECRET = "a-secret-of-at-least-thirty-two-bytes"


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
        self.state = merge.patch(self.state, self.cloud.services.records.rules[self.kind], fields, pen)
        return self.item(record_id)

    def item(self, record_id: str = "r1", **changes: Any) -> dict[str, Any]:
        self.seq += 1
        data = {"type": self.kind, "id": record_id, "base": {}, "state": json.loads(record.canonical(self.state))}
        return item(self.kind, data, **{"stream": f"record-{self.writer[-4:]}", "seq": self.seq, **changes})

    async def push(self, *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        return await push(self.cloud, self.headers, *items, **more)


def item(kind: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    item_type = kind if kind in record.BUILT_IN else "record"
    return {"itemType": item_type, "itemData": data, "id": f"i-{next(Device.numbers)}", **changes}


async def push(cloud: Cloud, headers: dict[str, str], *items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    body = {"batchId": f"b-{next(Device.numbers)}", "items": list(items), **more}
    status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=headers)
    assert status == 200, answer
    data = answer["data"]
    assert data["processed"] == len(items) == data["successful"] + data["failed"] + data["conflicts"]
    return data["results"]  # type: ignore[no-any-return]


def user(sub: str = "") -> dict[str, str]:
    """The headers of a learner."""
    claims = {"sub": sub or str(uuid.uuid4()), "exp": 4_000_000_000}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


async def sql(cloud: Cloud, statement: str, *, write: bool = False) -> list[dict[str, Any]]:
    """Rows of a statement of the test's own."""
    db = cloud.services.db
    async with db.transaction() if write else db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        rows = await (connection.fetch if db.dialect == "postgres" else connection.execute_fetchall)(statement)
        return [dict(row) for row in rows]


async def subscribe(cloud: Cloud, device_id: str, kind: str, value: str) -> None:
    """Entitles a device."""
    dk = (await sql(cloud, f"SELECT dk FROM device WHERE device_id = '{device_id}'"))[0]["dk"]
    await sql(cloud, f"INSERT INTO subscription VALUES ({dk}, '{kind}', '{value}', 0)", write=True)


async def shown(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> dict[str, Any]:
    return dict((await cloud.services.records.read(kind, record_id)).view.fields)


async def state_of(cloud: Cloud, kind: str = "progress", record_id: str = "r1") -> State:
    return (await cloud.services.records.read(kind, record_id, deleted=True)).kept.state
