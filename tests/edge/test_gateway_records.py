"""Records over HTTP at the device: on the socket, on the port for pages, in batches; and a daemon that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sqlite3
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.config import Intake
from pisyncd.core import merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.recordwire import Change, Changes

from .daemon_rig import Daemon, daemon
from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, USER, App, data, waiting
from .test_intake_port import PAGE, free_port

PLACE = "/api/records/progress/prog_1"
CLOUD = "c-91aa"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig) as made:
        yield made


async def pull(rig: Rig, record_type: str, record_id: str, fields: dict[str, Any]) -> None:
    state = merge.put(record.EMPTY, rig.outbox.records.rules[record_type], fields, Pen.of_cloud(CLOUD, 1_000))
    change = Change(type=record_type, id=record_id, state=state)
    await rig.outbox.records.apply(Changes(changes=[change], cursor="k.1", more=False, rules_etag=""), sweeping=False)


async def acknowledge(rig: Rig) -> None:
    await rig.outbox.messages.accept_through({item.stream or "": item.seq or 0 for item in await waiting(rig)})


async def test_a_record_is_made_read_changed_and_deleted(rig: Rig, app: App) -> None:
    status, body, headers = await app.ask("PUT", PLACE, {"fields": {"percent": 75, "attempts": 1}})
    assert (status, body["success"]) == (201, True)
    assert body["metadata"].keys() == {"timestamp", "version", "request_id"}
    made = body["data"]
    assert headers["ETag"] == f'"{made["etag"]}"'
    assert made | {"etag": "", "last_updated_at": ""} == {
        "type": "progress",
        "id": "prog_1",
        "fields": {"attempts": 1, "percent": 75},
        "deleted": False,
        "version": {rig.outbox.records.writer: 1},
        "etag": "",
        "last_updated_at": "",
        "last_synced_at": None,
        "sync_status": "pending",
        "conflicts": [],
    }
    assert (await app.ask("GET", PLACE))[1]["data"] == made
    assert (await app.ask("PUT", PLACE, {"fields": {"percent": 75}}))[0] == 200
    status, body, _ = await app.ask("PATCH", PLACE, {"fields": {"percent": 80, "score": 4}})
    assert (status, body["data"]["fields"]) == (200, {"attempts": 1, "percent": 80, "score": 4})
    status, body, _ = await app.ask("PATCH", PLACE, {"fields": {"score": None}})
    assert body["data"]["fields"] == {"attempts": 1, "percent": 80}
    await acknowledge(rig)
    body = (await app.ask("GET", PLACE))[1]
    assert body["data"]["sync_status"] == "synced"
    assert body["data"]["last_synced_at"] is not None
    status, body, _ = await app.ask("DELETE", PLACE)
    assert (status, body["data"]["deleted"], body["data"]["fields"]) == (200, True, {})
    assert (await app.ask("DELETE", PLACE))[0] == 200, "a repeat is answered as the first time"
    assert (await app.ask("GET", PLACE))[1]["code"] == "record-unknown"
    assert (await app.ask("GET", PLACE + "?deleted=true"))[1]["data"]["deleted"] is True
    assert (await app.ask("GET", PLACE + "?deleted=false"))[0] == 404
    assert (await app.ask("PUT", PLACE, {"fields": {}}))[0] == 201


async def test_a_write_can_depend_on_the_version_that_was_read(app: App) -> None:
    headers = (await app.ask("PUT", PLACE, {"fields": {"percent": 1}}))[2]
    old = headers["ETag"]
    assert (await app.ask("PATCH", PLACE, {"fields": {"percent": 2}}, If_Match=old))[0] == 200
    for method, content in (("PUT", {"fields": {}}), ("PATCH", {"fields": {}}), ("DELETE", None)):
        status, problem, headers = await app.ask(method, PLACE, content, If_Match=old)
        assert (status, problem["code"]) == (412, "version-mismatch")
    now = headers["ETag"]
    assert now != old
    assert (await app.ask("PATCH", PLACE, {"fields": {"percent": 3}}, If_Match=f"{old}, {now}"))[0] == 200
    assert (await app.ask("PATCH", PLACE, {"fields": {"percent": 4}}, If_Match="*"))[0] == 200
    other = "/api/records/progress/other"
    assert (await app.ask("PUT", other, {"fields": {}}, If_Match="*"))[0] == 412
    assert (await app.ask("PUT", other, {"fields": {}}, If_Match='""'))[0] == 412
    for odd in ("abc", '"', '"a" "b"', "", ",".join(['"a"'] * 200)):
        status, problem, _ = await app.ask("PUT", PLACE, {"fields": {}}, If_Match=odd)
        assert (status, problem["code"]) == (400, "if-match-invalid"), odd


async def test_a_list_is_read_page_by_page(rig: Rig, app: App) -> None:
    for number in range(7):
        await app.ask("PUT", f"/api/records/progress/p{number}", {"fields": {"percent": number}})
    await app.ask("DELETE", "/api/records/progress/p3")
    await app.ask("PUT", "/api/records/profile/u", {"fields": {}})
    found, cursor = [], ""
    while cursor is not None:
        _, body, _ = await app.ask("GET", f"/api/records/progress?limit=4{cursor and f'&cursor={cursor}'}")
        found += [each["id"] for each in body["data"]]
        cursor = body["pagination"]["next_cursor"]
    assert found == ["p0", "p1", "p2", "p4", "p5", "p6"]
    assert body["pagination"] | {"next_cursor": None} == {
        "page": 1,
        "limit": 4,
        "total": 6,
        "total_pages": 2,
        "next_cursor": None,
    }
    _, body, _ = await app.ask("GET", "/api/records/progress?deleted=true&limit=500")
    assert len(body["data"]) == 7
    assert (await app.ask("GET", "/api/records/assessment"))[1]["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/records/nothing/a", None, 404, "record-type-unknown"),
        ("GET", "/api/records/nothing", None, 404, "record-type-unknown"),
        ("GET", PLACE, None, 404, "record-unknown"),
        ("GET", "/api/records/progress/a%20b", None, 422, "validation"),
        ("GET", "/api/records/progress/a%252Fb", None, 422, "validation"),
        ("GET", "/api/records/progress/%ff", None, 422, "validation"),
        ("GET", "/api/records/progress/a%0A", None, 422, "validation"),
        ("GET", "/api/records/progress/" + "a" * 129, None, 422, "validation"),
        ("GET", PLACE + "?deleted=maybe", None, 422, "query-invalid"),
        ("GET", PLACE + "?odd=1", None, 400, "query-invalid"),
        ("GET", "/api/records/progress?limit=0", None, 422, "query-invalid"),
        ("GET", "/api/records/progress?limit=501", None, 422, "query-invalid"),
        ("GET", "/api/records/progress?cursor=%00", None, 422, "query-invalid"),
        ("PUT", PLACE + "?odd=1", {"fields": {}}, 400, "query-invalid"),
        ("PUT", PLACE, b"{", 400, "malformed"),
        ("PUT", PLACE, b"", 400, "malformed"),
        ("PUT", PLACE, b"\xff", 400, "malformed"),
        ("PUT", PLACE, b"[" * 100_000, 422, "validation"),
        ("PUT", PLACE, [], 422, "validation"),
        ("PUT", PLACE, {}, 422, "validation"),
        ("PUT", PLACE, {"fields": []}, 422, "validation"),
        ("PUT", PLACE, {"fields": {}, "odd": 1}, 422, "validation"),
        ("PUT", PLACE, {"fields": {"percent": "x"}}, 422, "validation"),
        ("PUT", PLACE, {"fields": {"": 1}}, 422, "validation"),
        ("PUT", PLACE, {"fields": {"note": "amina@example.org"}}, 422, "personal-data"),
        ("PUT", PLACE, {"fields": {"attempts": 10**40}}, 422, "validation"),
        ("PUT", PLACE, b'{"fields": {"a": 1e400}}', 422, "validation"),
        ("PUT", PLACE, b'{"fields": {"a": "\\ud800"}}', 400, "malformed"),
        ("PUT", PLACE, {"fields": {"a": ["x" * 1000] * 40}}, 413, "record-too-large"),
        ("PATCH", PLACE, {"fields": {"percent": 1}}, 404, "record-unknown"),
        ("DELETE", PLACE, None, 404, "record-unknown"),
        ("POST", PLACE, {"fields": {}}, 405, "method-not-allowed"),
        ("POST", "/api/records/nothing/a/sync", {}, 404, "record-type-unknown"),
    ],
)
async def test_what_is_wrong_is_said(
    rig: Rig, app: App, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answered, problem, headers = await app.ask(method, path, body)
    assert (answered, problem["code"]) == (status, code), problem
    assert headers["Content-Type"].startswith("application/problem+json")
    assert problem["detail"]
    assert await waiting(rig) == []


async def test_a_profile_may_hold_a_name_and_bodies_may_be_compressed(app: App) -> None:
    packed = zlib.compress(json.dumps({"fields": {"name": "Amina"}}).encode(), wbits=31)
    status, body, _ = await app.ask("PUT", "/api/records/profile/u1", packed, Content_Encoding="gzip")
    assert (status, body["data"]["fields"]) == (201, {"name": "Amina"})


async def test_conflicts_are_told_in_sentences(rig: Rig, app: App) -> None:
    await app.ask("PUT", PLACE, {"fields": {"percent": 70}})
    await pull(rig, "progress", "prog_1", {"percent": 90})
    body = (await app.ask("GET", PLACE))[1]["data"]
    assert body["fields"] == {"percent": 90}
    (told,) = body["conflicts"]
    assert (told["field"], told["open"]) == ("percent", False)
    assert "90 of the cloud" in told["explanation"]
    assert "70 of pibox-0042" in told["explanation"]


async def test_sync_now_answers_when_both_ends_have_the_same(rig: Rig, app: App) -> None:
    await app.ask("PUT", PLACE, {"fields": {"percent": 70}})
    status, body, headers = await app.ask("POST", PLACE + "/sync", {})
    assert (status, body["data"]["id"], "ETag" in headers) == (200, "prog_1", True)
    assert rig.memory.asked == ["progress/prog_1"]
    assert (await app.ask("POST", "/api/records/progress/none/sync"))[1]["code"] == "record-unknown"
    for reason, code in (
        ("offline", "offline"),
        ("paused", "paused"),
        ("timeout", "timeout"),
        ("token-refused", "offline"),
    ):
        rig.memory.not_synced = reason
        status, problem, headers = await app.ask("POST", PLACE + "/sync")
        assert (status, problem["code"], problem["retryable"]) == (503, code, True)
        assert int(headers["Retry-After"]) > 0
        assert "queued" in problem["hint"]


async def test_a_full_disk_is_said_and_nothing_is_half_written(rig: Rig, app: App) -> None:
    writer = rig.outbox.db._writer
    used = next(iter(await writer.execute_fetchall("PRAGMA page_count")))[0]
    await writer.execute(f"PRAGMA max_page_count = {used + 1}")
    status, problem, headers = await app.ask("PUT", "/api/records/profile/u", {"fields": {"text": "x" * 30_000}})
    assert (status, problem["code"], problem["retryable"]) == (503, "storage-full", True)
    assert int(headers["Retry-After"]) > 0
    await writer.execute("PRAGMA max_page_count = 100000")
    assert (await app.ask("GET", "/api/records/profile/u"))[0] == 404
    assert (await app.ask("PUT", "/api/records/profile/u", {"fields": {}}))[0] == 201


async def test_a_technician_sees_how_records_fare(rig: Rig, app: App) -> None:
    before = (await app.ask("GET", "/status"))[1]["records"]
    assert before == {"count": 0, "waiting": 0, "open_conflicts": 0, "pulled_at": None}
    await app.ask("PUT", PLACE, {"fields": {}})
    await pull(rig, "profile", "u", {})
    after = (await app.ask("GET", "/status"))[1]["records"]
    assert after | {"pulled_at": ""} == {"count": 2, "waiting": 1, "open_conflicts": 0, "pulled_at": ""}
    assert after["pulled_at"] is not None


async def test_a_page_of_an_allowed_origin_reads_and_writes(tmp_path: Path) -> None:
    port = free_port()
    async with gateway(tmp_path, intake=Intake(port=port, origins=(PAGE,))) as rig:
        async with App(rig, port=port, headers={"Origin": PAGE}) as page:
            for method in ("PUT", "PATCH", "DELETE"):
                asked = {"Access_Control_Request_Method": method, "Access_Control_Request_Headers": "if-match"}
                status, _, headers = await page.ask("OPTIONS", PLACE, **asked)
                assert status == 204
                assert method in headers["Access-Control-Allow-Methods"]
                assert "If-Match" in headers["Access-Control-Allow-Headers"]
            status, _, headers = await page.ask("PUT", PLACE, {"fields": {"percent": 1}})
            assert (status, headers["Access-Control-Allow-Origin"]) == (201, PAGE)
            assert "ETag" in headers["Access-Control-Expose-Headers"]
            assert (await page.ask("GET", PLACE))[0] == 200
        async with App(rig, port=port, headers={"Origin": "http://evil.example"}) as evil:
            assert (await evil.ask("DELETE", PLACE))[0] == 403
            assert (await evil.ask("GET", "/api/records/profile"))[0] == 403
        async with App(rig, port=port) as stranger:
            assert (await stranger.ask("GET", PLACE))[0] == 401


# Items of a batch


async def batch(app: App, *items: dict[str, Any], batch_id: str = "b-1", **headers: str) -> list[dict[str, Any]]:
    status, body = await app.post("/api/telemetry/batch", {"batchId": batch_id, "items": list(items)}, **headers)
    assert status == 200
    assert body["data"]["processed"] == len(items)
    return [{name: value for name, value in each.items() if name != "timestamp"} for each in body["data"]["results"]]


async def test_plain_data_of_a_batch_is_a_write_under_the_items_id(rig: Rig, app: App) -> None:
    item = {"itemType": "progress", "id": "i-1", "itemData": {"progressId": "prog_1", "percent": 75}}
    assert await batch(app, item) == [{"itemId": "i-1", "status": "synced"}]
    (message,) = await waiting(rig)
    assert (message.id, message.itemType, data(message)["id"]) == ("i-1", "progress", "prog_1")
    assert (await app.ask("GET", PLACE))[1]["data"]["fields"] == {"percent": 75}
    assert await batch(app, item, batch_id="b-2") == [{"itemId": "i-1", "status": "duplicate"}]
    other = {**item, "itemData": {"progressId": "prog_1", "percent": 76}}
    assert await batch(app, other) == [{"itemId": "i-1", "status": "conflict", "code": "id-conflict"}]
    gone = {"itemType": "progress", "id": "i-2", "itemData": {"progressId": "prog_1", "deleted": True}}
    assert (await batch(app, gone))[0]["status"] == "synced"
    assert (await app.ask("GET", PLACE))[0] == 404
    assert len(await waiting(rig)) == 2


async def test_items_that_name_no_record_stay_messages(rig: Rig, app: App) -> None:
    item = {"itemType": "progress", "id": "i-1", "itemData": {"lesson": 3}}
    assert (await batch(app, item))[0]["status"] == "synced"
    (message,) = await waiting(rig)
    assert ((message.stream or "").partition("-")[0], data(message)) == ("learn7", {"lesson": 3})
    assert (await rig.outbox.records.counts()).records == 0


async def test_one_item_that_is_wrong_takes_no_other_with_it(rig: Rig, app: App) -> None:
    def one(item_type: str, **fields: Any) -> dict[str, Any]:
        return {"itemType": item_type, "itemData": fields}

    results = await batch(
        app,
        one("enrollment", enrollmentId="e-1", courseId="c"),
        one("enrollment", enrollmentId="not an id", courseId="c"),
        one("record", recordType="unheard_of", recordId="x"),
        one("record", lesson=1),
        one("progress", progressId="p", percent="x"),
        one("progress", progressId="p", email="amina@example.org"),
        one("progress", progressId="p", state={"version": {}}),
        one("progress", progressId="none", deleted=True),
        one("assessment", assessmentId="a", answers=[1] * 17_000),
        one("profile", userId=USER, name="Amina"),
        {"itemType": "event", "itemData": {"eventType": "opened"}},
    )
    assert [each.get("code", each["status"]) for each in results] == [
        "synced",
        "item-invalid",
        "record-type-unknown",
        "item-invalid",
        "validation",
        "personal-data",
        "item-invalid",
        "record-unknown",
        "record-too-large",
        "synced",
        "synced",
    ]
    assert (await rig.outbox.records.read("profile", USER)).fields["name"] == "Amina"  # type: ignore[union-attr]
    assert len(await waiting(rig)) == 3


async def test_whose_it_is_travels_in_the_record(rig: Rig, app: App) -> None:
    await batch(app, {"itemType": "assessment", "itemData": {"assessmentId": "a", "score": 1}}, **NAMED)
    assert (await rig.outbox.records.read("assessment", "a")).fields == {"score": 1, "userId": USER}  # type: ignore[union-attr]


# Killed


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as made:
        yield made


class Writer(threading.Thread):
    """Counts one field up, and tries each write again until it is answered."""

    def __init__(self, device: Daemon, name: str) -> None:
        super().__init__()
        self._device = device
        self.place = f"/api/records/progress/{name}"
        self.answered = 0
        self.stopping = False
        self.wrong: list[Any] = []

    def run(self) -> None:
        while not self.stopping:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = self._device.ask("PUT", self.place, {"fields": {"step": self.answered + 1}})
                if status not in (200, 201) or body["data"]["fields"] != {"step": self.answered + 1}:
                    self.wrong.append((status, body))
                self.answered += 1


def test_what_was_answered_is_there_after_a_kill_with_one_message_for_each_write(device: Daemon) -> None:
    device.start()
    writers = [Writer(device, f"p{number}") for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            enough = sum(writer.answered for writer in writers) + 30
            device.until(lambda enough=enough: sum(writer.answered for writer in writers) >= enough)
            device.kill()
            floor = {writer.place: writer.answered for writer in writers}
            _check(device.state / "outbox.db", floor)
            device.start()
    finally:
        for writer in writers:
            writer.stopping = True
        for writer in writers:
            writer.join()
    assert [writer.wrong for writer in writers] == [[]] * len(writers)
    for writer in writers:
        assert device.ask("GET", writer.place)[1]["data"]["fields"] == {"step": writer.answered}


def _check(path: Path, floor: dict[str, int]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        rows = db.execute("SELECT id, state, fields, message_id FROM records").fetchall()
        told: dict[str, list[Any]] = {}
        for message_id, body in db.execute("SELECT id, body FROM messages WHERE stream LIKE 'record-%' ORDER BY seq"):
            pushed = json.loads(body)
            told.setdefault(pushed["id"], []).append((message_id, pushed["state"]))
    for record_id, state, fields, message_id in rows:
        step = json.loads(fields)["step"]
        assert floor[f"/api/records/progress/{record_id}"] <= step
        assert told[record_id][-1] == (message_id, json.loads(state)), "a write and its message are one"
        assert len(told[record_id]) == step, "no write without its message, no message without its write"


async def test_answers_do_not_wait_for_each_other(rig: Rig, app: App) -> None:
    writes = [app.ask("PUT", f"/api/records/progress/p{n}", {"fields": {"percent": 1}}) for n in range(300)]
    answers = await asyncio.gather(*writes)
    assert {status for status, _, _ in answers} == {201}
    assert len(await waiting(rig)) == 300
