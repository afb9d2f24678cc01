"""Records in the cloud: written and read one by one, with what comes of it."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud

from cloud.flows import record_types
from cloud.flows.records import Author, Records
from cloud.store.db import Database
from pisyncd.core import record
from pisyncd.core.edits import Delete, Patch, Put
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

KEY = Author(actor="key:desk")


@pytest.fixture
async def records(db: Database) -> Records:
    """Records over a clock that goes on by a second with every look."""
    times = itertools.count(1_772_438_400_000, 1000)
    found = Records(db, lambda: next(times), record.BUILT_IN)
    await found.prepare()
    return found


async def rows(db: Database, sql: str, *params: Any) -> list[dict[str, Any]]:
    """Rows of a statement of the test's own; parameters as ?."""
    async with db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        if db.dialect == "postgres":
            for number in range(1, len(params) + 1):
                sql = sql.replace("?", f"${number}", 1)
            return [dict(row) for row in await connection.fetch(sql, *params)]
        return [dict(row) for row in await connection.execute_fetchall(sql, params)]


async def test_a_record_is_made_changed_and_deleted(records: Records, db: Database) -> None:
    heard: list[int] = []
    records.changed = lambda: heard.append(1)
    made = await records.write(KEY, "profile", "u1", Put({"language": "sw", "grade": 4}))
    assert (made.created, made.changed) == (True, True)
    changed = await records.write(KEY, "profile", "u1", Patch({"grade": 5, "language": None}))
    assert (changed.created, dict(changed.view.fields)) == (False, {"grade": 5})
    same = await records.write(KEY, "profile", "u1", Put({"grade": 5}))
    assert (same.changed, same.state, same.updated_at_ms) == (False, changed.state, changed.updated_at_ms)
    gone = await records.write(KEY, "profile", "u1", Delete())
    assert gone.view.deleted
    assert len(heard) == 3
    with pytest.raises(Refusal) as refused:
        await records.read("profile", "u1")
    assert refused.value.code == "record-unknown"
    kept = (await records.read("profile", "u1", deleted=True)).kept
    assert (kept.deleted, kept.change, len(kept.state.version)) == (True, 3, 1)
    assert await rows(db, "SELECT kind, value, gone FROM record_scope") == [{"kind": "user", "value": "u1", "gone": 0}]
    audited = await rows(db, "SELECT action, actor, before_hash, after_hash FROM audit ORDER BY id")
    assert [row["action"] for row in audited] == ["record.created", "record.updated", "record.deleted"]
    assert audited[0]["before_hash"] is None
    assert audited[1]["before_hash"] == audited[0]["after_hash"]
    assert audited[2]["after_hash"] == record.digest(kept.state)


async def call(cloud: Cloud, method: str, path: str, who: dict[str, str], **options: Any) -> tuple[int, Any, str]:
    """Status, JSON and ETag of one request for a record."""
    given = {**who, **options.pop("headers", {})}
    async with cloud.http.request(method, f"{cloud.url}/api/records/{path}", headers=given, **options) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers.get("ETag", "")


async def test_over_http_a_record_is_read_and_written_by_its_etag(cloud: Cloud) -> None:
    operator, viewer = await cloud.key("operator"), await cloud.key("viewer")
    fields = {"percent": 40, "userId": "u1"}
    status, made, etag = await call(cloud, "PUT", "progress/p1", operator, json={"fields": fields})
    assert (status, made["data"]["fields"], made["data"]["sync_status"]) == (201, fields, "synced")
    assert etag == f'"{made["data"]["etag"]}"'
    assert made["metadata"]["version"]
    status, same, same_etag = await call(cloud, "PUT", "progress/p1", operator, json={"fields": fields})
    assert (status, same_etag, same["data"]) == (200, etag, made["data"])
    right, wrong = {"If-Match": etag}, {"If-Match": '"0123"'}
    more = {"json": {"fields": {"percent": 60, "userId": None}}}
    status, changed, new_etag = await call(cloud, "PATCH", "progress/p1", operator, headers=right, **more)
    assert (status, changed["data"]["fields"]) == (200, {"percent": 60})
    for stale in (right, wrong):
        status, problem, told = await call(cloud, "PATCH", "progress/p1", operator, headers=stale, **more)
        assert (status, problem["code"], told) == (412, "version-mismatch", new_etag)
    assert (await call(cloud, "DELETE", "progress/p1", operator, headers=wrong))[0] == 412
    status, gone, _ = await call(cloud, "DELETE", "progress/p1", operator, headers={"If-Match": f"{etag}, {new_etag}"})
    assert (status, gone["data"]["deleted"], gone["data"]["fields"]) == (200, True, {})
    assert (await call(cloud, "DELETE", "progress/p1", operator))[1]["data"]["etag"] == gone["data"]["etag"]
    assert (await call(cloud, "GET", "progress/p1", viewer))[1]["code"] == "record-unknown"
    assert (await call(cloud, "GET", "progress/p1?deleted=true", viewer))[1]["data"] == gone["data"]
    assert (await call(cloud, "PATCH", "progress/p1", operator, **more))[0] == 404
    assert (await call(cloud, "PUT", "progress/p1", operator, headers={"If-Match": "*"}, **more))[0] == 412


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "horoscope/p1", {}, 404, "record-type-unknown"),
        ("PUT", "horoscope/p1", {"json": {"fields": {}}}, 404, "record-type-unknown"),
        ("GET", "progress/p1", {}, 404, "record-unknown"),
        ("GET", "progress/p1%00", {}, 404, "record-unknown"),
        ("PATCH", "progress/p1", {"json": {"fields": {}}}, 404, "record-unknown"),
        ("DELETE", "progress/p1", {}, 404, "record-unknown"),
        ("PUT", "progress/p%201", {"json": {"fields": {}}}, 422, "record-id-invalid"),
        ("PUT", "progress/p1", {"data": b"{"}, 400, "malformed"),
        ("PUT", "progress/p1", {"json": {"fields": 7}}, 422, "validation"),
        ("PUT", "progress/p1", {"json": {"a": 7}}, 422, "validation"),
        ("PUT", "progress/p1", {"json": {"fields": {"a b": 7}}}, 422, "validation"),
        ("PUT", "progress/p1", {"json": {"fields": {"percent": "x"}}}, 422, "validation"),
        ("PUT", "progress/p1", {"json": {"fields": {"email": "a@example.org"}}}, 422, "personal-data"),
        ("PUT", "progress/p1", {"json": {"fields": {"a": ["x" * 100] * 400}}}, 413, "record-too-large"),
        ("PUT", "progress/p1", {"json": {"fields": {}}, "headers": {"If-Match": "x"}}, 400, "if-match-invalid"),
        ("GET", "progress?cursor=!!", {}, 422, "validation"),
        ("GET", "progress?limit=0", {}, 422, "validation"),
        ("GET", "progress?deleted=1", {}, 422, "validation"),
        ("POST", "progress/p1/sync", {}, 404, "record-unknown"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(
    cloud_lite: Cloud, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    operator = await cloud_lite.key("operator")
    found, problem, _ = await call(cloud_lite, method, path, operator, **options)
    assert (found, problem["code"]) == (status, code)


async def test_who_may(cloud_lite: Cloud) -> None:
    viewer, device = await cloud_lite.key("viewer"), await cloud_lite.enroll("pi-1")
    body = {"json": {"fields": {"percent": 1}}}
    assert (await call(cloud_lite, "PUT", "progress/p1", viewer, **body))[0] == 403
    assert (await call(cloud_lite, "PUT", "progress/p1", {}, **body))[0] == 401
    assert (await call(cloud_lite, "PUT", "progress/p1", device, **body))[0] == 201
    other = await cloud_lite.enroll("pi-2")
    for method, options in (("GET", {}), ("PUT", body), ("PATCH", body), ("DELETE", {}), ("POST", {})):
        path = "progress/p1/sync" if method == "POST" else "progress/p1"
        status, problem, _ = await call(cloud_lite, method, path, other, **options)
        assert (status, problem["code"]) == (404, "record-unknown")
    writers = (await call(cloud_lite, "GET", "progress/p1", viewer))[1]["data"]["version"]
    assert [writer[:2] for writer in writers] == ["u-"]
    assert (await call(cloud_lite, "POST", "progress/p1/sync", device))[1]["data"]["deliveries"] == []


async def test_a_list_goes_on_after_its_cursor_and_shows_a_device_its_own(cloud: Cloud) -> None:
    operator, device = await cloud.key("operator"), await cloud.enroll("pi-1")
    for number in range(5):
        await cloud.services.records.write(
            KEY, "progress", f"p{number}", Put({"groupId": "4b" if number % 2 else "5a"})
        )
    await cloud.services.records.write(KEY, "progress", "p4", Delete())
    assert (await call(cloud, "PUT", "progress/mine", device, json={"fields": {}}))[0] == 201
    found, cursor = [], ""
    while True:
        _, page, _ = await call(cloud, "GET", f"progress?limit=2&cursor={cursor}", operator)
        found += [each["id"] for each in page["data"]]
        assert page["pagination"]["total"] == 5
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert found == ["mine", "p0", "p1", "p2", "p3"]
    _, page, _ = await call(cloud, "GET", "progress?deleted=true", operator)
    assert [each["deleted"] for each in page["data"]] == [False] * 5 + [True]
    subscribed = await cloud.key("operator")
    status, _ = await cloud.call(
        "PUT", "/api/devices/pi-1/subscriptions", headers=subscribed, json={"site": [], "group": ["4b"], "user": []}
    )
    assert status == 200
    _, page, _ = await call(cloud, "GET", "progress?limit=2", device)
    assert [each["id"] for each in page["data"]] == ["mine", "p1"]
    assert page["pagination"]["total"] == 3
    assert (await call(cloud, "PATCH", "progress/p3", device, json={"fields": {"percent": 3}}))[0] == 200


async def test_fifty_writers_at_once_lose_nothing(records: Records, db: Database) -> None:
    authors = [Author(f"device:pi-{number}", f"u-{number:016x}") for number in range(50)]
    edits = [Patch({"attempts": 1 + number, f"f{number}": number}, create=True) for number in range(50)]
    await asyncio.gather(
        *(records.write(author, "progress", "p", edit) for author, edit in zip(authors, edits, strict=True))
    )
    found = await records.read("progress", "p")
    assert len(found.kept.state.version) == 50
    assert {f"f{number}": number for number in range(50)}.items() <= found.view.fields.items()
    assert found.kept.change == 50
    assert (await rows(db, "SELECT value FROM generation WHERE name = 'records'"))[0]["value"] == 50


async def test_what_fails_half_way_leaves_nothing(records: Records, db: Database) -> None:
    async def broken() -> None:
        async with db.transaction() as tx:
            await records.write_in(tx, KEY, "profile", "u1", Put({"grade": 4}), 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    for table in ("record", "record_scope", "conflict", "audit"):
        assert await rows(db, f"SELECT * FROM {table}") == []


async def test_another_form_of_a_type_needs_another_name(db: Database, tmp_path: Path) -> None:
    types = tmp_path / "types.yaml"
    types.write_text("attendance: {strategy: merge, fields: {present: max}}\nprogress: {strategy: merge}\n")
    first = Records(db, lambda: 1, record_types.load(str(types)))
    await first.prepare()
    await first.write(KEY, "attendance", "a", Put({"present": 3}))
    types.write_text("attendance: {strategy: manual}\nprogress: {strategy: last-write-wins}\n")
    with pytest.raises(ConfigError, match=r"attendance: there are records of this type") as refused:
        await Records(db, lambda: 1, record_types.load(str(types))).prepare()
    assert refused.value.exit_code == 78
    # of a type without records the form is free, and the cloud stays the writer that it was
    types.write_text("progress: {strategy: last-write-wins}\n")
    second = Records(db, lambda: 1, record_types.load(str(types)))
    await second.prepare()
    await second.write(KEY, "progress", "p", Put({"percent": 3}))
    assert len(await rows(db, "SELECT writer FROM record_writer")) == 1


def test_every_fault_of_the_file_of_types_is_named(tmp_path: Path) -> None:
    types = tmp_path / "types.yaml"
    types.write_text(
        "attendance: {strategy: manual}\nguardian: {strategy: last-write-wins, personal: true}\n"
        "portfolio: {strategy: merge, fields: {points: max, tags: union}}\n"
    )
    found = record_types.load(str(types))
    assert found["guardian"].personal
    assert found["portfolio"].fields == {"points": "max", "tags": "union"}
    assert found.keys() == {*record.BUILT_IN, "attendance", "guardian", "portfolio"}
    types.write_text(
        "A: {strategy: manual}\nrecord: {strategy: manual}\nb: 7\nc: {strategy: best}\nd: {strategy: manual, x: 1}\n"
        "e: {strategy: merge, fields: {a b: max, n: least}}\nf: {strategy: manual, fields: {n: max}}\n"
        "g: {strategy: manual, personal: 7}\nh: {strategy: [1]}\ni: {strategy: merge, fields: 7}\n"
    )
    with pytest.raises(ConfigError) as refused:
        record_types.load(str(types))
    told = refused.value.detail.removeprefix(f"{types}: ").split(f"; {types}: ")
    assert [each.partition(":")[0] for each in told] == ["A", "record", *"bcdeefghi"]
    for bad in ("- a\n", "a: {strategy: manual}\na: {strategy: merge}\n", "a: {\n"):
        types.write_text(bad)
        with pytest.raises(ConfigError):
            record_types.load(str(types))
    with pytest.raises(ConfigError):
        record_types.load(str(tmp_path / "none.yaml"))


async def test_endpoints_hear_of_what_they_want(records: Records, db: Database) -> None:
    await records.write(KEY, "progress", "p0", Put({"percent": 1}))
    async with db.transaction() as tx:
        await tx.run(
            "webhook_add_endpoint",
            id="wh_1",
            url="https://example.org/",
            description="",
            event_types='["progress.*","record.created","conflict.detected"]',
            secret="whsec_x",
            now_ms=1,
        )
    records.rules["attendance"] = record.TypeRule(strategy="manual")
    await records.write(KEY, "progress", "p1", Put({"percent": 1, "userId": "u1"}))
    await records.write(KEY, "progress", "p1", Patch({"percent": 2}))
    await records.write(KEY, "progress", "p1", Delete())
    await records.write(KEY, "profile", "u1", Put({"grade": 1}))
    await records.write(KEY, "attendance", "a", Put({"present": 1}))
    told = await rows(db, "SELECT type, resource_type, resource_id, user_id, body FROM webhook_event ORDER BY ord")
    assert [(row["type"], row["resource_id"], row["user_id"]) for row in told] == [
        ("progress.created", "p1", "u1"),
        ("progress.updated", "p1", "u1"),
        ("progress.deleted", "p1", "u1"),
        ("record.created", "a", ""),
    ]
    data = json.loads(told[1]["body"])["data"]
    assert (data["fields"], data["deleted"]) == ({"percent": 2, "userId": "u1"}, False)
    assert data.keys() == {"type", "id", "fields", "deleted", "version", "etag", "last_updated_at"}
