"""Learning events over the socket: answers as the contract has them, messages as the cloud takes them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.core import encodings, envelope
from pisyncd.ctl import render
from pisyncd.gateway.ports import SpoolView

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, OTHER, TRACK, USER, App, data, event, new_id, waiting


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig) as made:
        yield made


async def test_a_tracked_event_is_answered_and_waits_for_the_cloud(rig: Rig, app: App) -> None:
    status, body = await app.post("/api/telemetry/track", TRACK, **NAMED)
    assert (status, body["success"], body["data"]["eventId"]) == (200, True, "evt_1")
    (item,) = await waiting(rig)
    assert (item.itemType, item.seq, item.boot_id) == ("event", 1, rig.outbox.db.clock.boot_id)
    assert item.stream is not None
    assert item.stream.startswith("learn9-")
    assert data(item) == {
        "eventId": "evt_1",
        "eventType": "interview_completed",
        "eventData": {"score": 85},
        "userId": USER,
        "metadata": {"clientTimestamp": "2024-01-20T10:30:00Z"},
    }


def told(answer: tuple[int, Any]) -> tuple[int, Any]:
    """Without when, and to which request."""
    return answer[0], answer[1]["data"]


async def test_a_repeat_is_answered_as_the_first_time_also_after_a_restart(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig, App(rig) as app:
        first = told(await app.post("/api/telemetry/track", TRACK))
        await asyncio.sleep(0)
        assert told(await app.post("/api/telemetry/track", TRACK)) == first
    async with gateway(tmp_path) as rig, App(rig) as app:
        assert told(await app.post("/api/telemetry/track", TRACK)) == first
        status, problem = await app.post("/api/telemetry/track", {**TRACK, "eventData": {"score": 1}})
        assert (status, problem["code"], problem["retryable"]) == (409, "id-conflict", False)
        assert len(await waiting(rig)) == 1


async def test_what_has_left_is_still_known(rig: Rig, app: App) -> None:
    first = told(await app.post("/api/telemetry/track", TRACK))
    (item,) = await waiting(rig)
    await rig.outbox.messages.accept_through({item.stream: item.seq})  # type: ignore[dict-item]
    assert told(await app.post("/api/telemetry/track", TRACK)) == first
    assert await waiting(rig) == []


async def test_an_id_is_that_of_its_user_and_nobody_stands_in_anothers_way(rig: Rig, app: App) -> None:
    for headers in ({}, NAMED, {"PiSync-User": OTHER}):
        status, body = await app.post("/api/telemetry/track", TRACK, **headers)
        assert (status, body["data"]["eventId"]) == (200, "evt_1")
    shared = new_id()
    assert (await app.post("/v1/telemetry/events", {"events": [event(id=shared)]}, **NAMED))[1]["accepted"] == 1
    same_id = {**TRACK, "metadata": {"eventId": shared}}
    assert (await app.post("/api/telemetry/track", same_id))[0] == 200
    items = [{"itemType": "progress", "id": shared, "itemData": {"lesson": 3}}]
    body = (await app.post("/api/telemetry/batch", {"batchId": "b", "items": items}))[1]
    assert body["data"]["results"][0]["status"] == "synced"
    found = await waiting(rig)
    assert len({item.id for item in found}) == len(found) == 6
    assert sorted(data(item).get("userId", "") for item in found if "eventId" in data(item)) == ["", "", USER, OTHER]


async def test_without_an_id_each_tracked_event_is_one_of_its_own(rig: Rig, app: App) -> None:
    plain = {"eventType": "clicked"}
    ids = {(await app.post("/api/telemetry/track", plain))[1]["data"]["eventId"] for _ in range(3)}
    assert len(ids) == len(await waiting(rig)) == 3


async def test_events_of_a_session_are_judged_one_by_one(rig: Rig, app: App) -> None:
    session_id, question = new_id(), new_id()
    events: list[Any] = [
        event(session_id=session_id, seq=1, client_ts="2026-01-20T12:34:56.000Z", question_id=question),
        event("ANSWER_SELECTED", {"position": 1, "selected_index": 2}, session_id=session_id, question_id=question),
        event("NOT_KNOWN"),
        event(payload={"position": "one"}),
        event(payload={"position": 1, "email": "amina@example.org"}),
        event(payload={"position": 1, "more": "x" * 5000}),
        "not an object",
    ]
    status, body = await app.post("/v1/telemetry/events", {"source": "web", "events": events}, **NAMED)
    assert (status, body["accepted"], body["rejected"]) == (200, 2, 5)
    reasons = [(reason["index"], reason["code"]) for reason in body["rejected_reasons_sample"]]
    assert reasons == [
        (2, "event-type-unknown"),
        (3, "payload-invalid"),
        (4, "personal-data"),
        (5, "payload-too-large"),
        (6, "event-invalid"),
    ]
    answer, viewed = await waiting(rig)
    assert answer.stream is not None
    assert (answer.stream[:7], data(answer)["event_type"]) == ("learn8-", "ANSWER_SELECTED")
    judged = envelope.judge(bytes(viewed.itemData))
    assert isinstance(judged, envelope.Envelope)
    assert (judged.id, judged.user_id, judged.source, judged.seq) == (viewed.id, USER, "web", 1)
    again = (await app.post("/v1/telemetry/events", {"source": "web", "events": events[:2]}, **NAMED))[1]
    assert again == {"accepted": 2, "rejected": 0, "rejected_reasons_sample": []}
    assert len(await waiting(rig)) == 2


async def test_somebody_has_to_say_whose_it_is(rig: Rig, app: App) -> None:
    async def reason(one: dict[str, Any], **headers: str) -> str | None:
        body = (await app.post("/v1/telemetry/events", {"events": [one]}, **headers))[1]
        return body["rejected_reasons_sample"][0]["code"] if body["rejected"] else None

    assert await reason(event()) == "user-missing"
    assert await reason(event(user_id=USER)) is None
    assert await reason(event(user_id=USER), PiSync_User=OTHER) == "session-not-yours"
    status, problem = await app.post("/v1/telemetry/events", {"events": []}, PiSync_User="Amina")
    assert (status, problem["code"]) == (400, "user-invalid")
    questions = [new_id(), new_id()]
    made = (await app.post("/v1/sessions", {"mode": "quiz", "question_ids": questions}, **NAMED))[1]
    mine = {"session_id": made["id"]}
    assert await reason(event(**mine, question_id=questions[0])) is None, "the owner counts"
    assert await reason(event(**mine, question_id=new_id())) == "question-not-in-session"
    assert await reason(event(**mine), PiSync_User=OTHER) == "session-not-yours"
    sent = [data(item) for item in await waiting(rig) if item.itemType == "event"]
    assert {each["user_id"] for each in sent} == {USER}


async def test_the_same_id_with_other_content_is_refused_and_the_first_stays(rig: Rig, app: App) -> None:
    one = event(id=new_id())
    assert (await app.post("/v1/telemetry/events", {"events": [one]}, **NAMED))[1]["accepted"] == 1
    body = (await app.post("/v1/telemetry/events", {"events": [{**one, "seq": 9}]}, **NAMED))[1]
    assert body["rejected_reasons_sample"][0]["code"] == "id-conflict"
    (item,) = await waiting(rig)
    assert "seq" not in data(item)


async def test_a_batch_is_judged_item_by_item(rig: Rig, app: App) -> None:
    one = event(id=new_id(), event_version=1)
    items: list[Any] = [
        {"itemType": "event", "id": "row-1", "itemData": one},
        {"itemType": "event", "itemData": {"eventId": "evt_7", "eventType": "opened", "eventData": {}}},
        {"itemType": "event", "id": "row-3", "itemData": {"eventType": "opened", "eventData": {"phone": "1"}}},
        {"itemType": "progress", "itemData": {"lesson": 3}},
        {"itemType": "progress", "id": "row-5", "itemData": [1]},
        {"itemType": "vitals", "id": "row-6", "itemData": {}},
        {"itemType": "session", "id": "row-7", "itemData": {}},
        {"itemType": "assessment", "id": "row-8", "itemData": {"text": "x" * 70_000}},
        {
            "itemType": "event",
            "id": "row-9",
            "itemData": {"eventType": "opened", "eventId": "evt_7", "eventData": {"n": 1}},
        },
        17,
    ]
    status, body = await app.post("/api/telemetry/batch", {"batchId": "b-1", "items": items}, **NAMED)
    assert (status, body["success"]) == (200, True)
    outcome = body["data"]
    assert [(each["itemId"], each["status"], each.get("code")) for each in outcome["results"]] == [
        ("row-1", "synced", None),
        ("evt_7", "synced", None),
        ("row-3", "failed", "personal-data"),
        ("b-1.3", "synced", None),
        ("row-5", "failed", "item-invalid"),
        ("row-6", "failed", "item-type-unknown"),
        ("row-7", "failed", "item-type-unknown"),
        ("row-8", "failed", "item-too-large"),
        ("row-9", "conflict", "id-conflict"),
        ("b-1.9", "failed", "item-invalid"),
    ]
    counts = [outcome[name] for name in ("processed", "successful", "failed", "conflicts", "duplicates")]
    assert (counts, outcome["receivedThrough"]) == ([10, 3, 6, 1, 0], {})
    again = (await app.post("/api/telemetry/batch", {"batchId": "b-1", "items": items[:4]}, **NAMED))[1]["data"]
    assert [each["status"] for each in again["results"]] == ["duplicate", "duplicate", "failed", "duplicate"]
    brief = await app.ask(
        "POST", "/api/telemetry/batch", {"batchId": "b-1", "items": items[:4]}, Prefer="return=minimal", **NAMED
    )
    assert len(brief[1]["data"]["results"]) == 1
    assert [item.itemType for item in await waiting(rig)] == ["progress", "event", "event"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/telemetry/track", b"{", 400, "malformed"),
        ("/api/telemetry/track", b"\xff\xfe", 400, "malformed"),
        ("/api/telemetry/track", b"[]", 422, "validation"),
        ("/api/telemetry/track", {"eventType": "9"}, 422, "validation"),
        ("/api/telemetry/track", {"eventType": "x", "eventData": {"t": ["y" * 150] * 40}}, 413, "event-too-large"),
        ("/api/telemetry/track", {"eventType": "x", "eventData": {"name": "Amina"}}, 422, "personal-data"),
        ("/api/telemetry/track", {"eventType": "x", "metadata": {"clientTimestamp": "now"}}, 422, "validation"),
        ("/api/telemetry/track", b'{"eventType": "x", "eventData": {"a": ' + b"[" * 5000, 400, "malformed"),
        ("/v1/telemetry/events", {"events": [{}] * 51}, 413, "too-many-events"),
        ("/v1/telemetry/events", {"events": 1}, 422, "validation"),
        ("/v1/telemetry/events", {"source": "fax", "events": []}, 422, "validation"),
        ("/api/telemetry/batch", {"batchId": "b", "items": []}, 422, "validation"),
        ("/api/telemetry/batch", {"batchId": "b", "items": [1] * 501}, 422, "validation"),
        ("/api/telemetry/batch", b" " * (1024 * 1024 + 1), 413, "too-large"),
    ],
)
async def test_what_cannot_be_taken_is_said_precisely(app: App, path: str, body: Any, status: int, code: str) -> None:
    answered, problem, headers = await app.ask("POST", path, body)
    assert (answered, problem["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert problem["retryable"] is False


async def test_bodies_may_be_packed_within_the_limit_of_what_comes_out(rig: Rig, app: App) -> None:
    raw = json.dumps({"eventType": "x", "eventData": {"n": 1}}).encode()
    for encoding, packed in (("gzip", gzip.compress(raw)), ("zstd", encodings.zstd_packed(raw)), ("identity", raw)):
        status, _ = await app.post("/api/telemetry/track", packed, Content_Encoding=encoding)
        assert status == 200, encoding
    bomb = gzip.compress(b" " * 200_000_000)
    assert (await app.post("/api/telemetry/track", bomb, Content_Encoding="gzip"))[1]["code"] == "too-large"
    cut = gzip.compress(raw)[:-9]
    assert (await app.post("/api/telemetry/track", cut, Content_Encoding="gzip"))[1]["code"] == "body-encoding"
    assert (await app.post("/api/telemetry/track", raw, Content_Encoding="br"))[0] == 415
    assert len(await waiting(rig)) == 3


async def test_the_state_of_the_sync_is_told_in_the_seeds_words(rig: Rig, app: App) -> None:
    async def status() -> dict[str, Any]:
        return (await app.ask("GET", "/api/telemetry/status"))[1]["syncStatus"]

    assert await status() == {
        "lastSyncTime": None,
        "pendingItems": 0,
        "totalItems": 0,
        "syncHealth": "unknown",
        "successRate": 1.0,
        "avgSyncDuration": 0.0,
        "lastError": None,
        "receivedThrough": {},
    }
    for number in range(4):
        await app.post("/api/telemetry/track", {**TRACK, "metadata": {"eventId": f"e{number}"}})
    found = await waiting(rig)
    await rig.outbox.messages.accept_through({str(found[0].stream): 3})
    told = await status()
    assert told["lastSyncTime"].endswith("Z")
    assert (told["pendingItems"], told["totalItems"], told["syncHealth"]) == (1, 4, "good")


async def test_the_browsers_client_is_served_with_a_tag(app: App) -> None:
    status, code, headers = await app.ask("GET", "/telemetry.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"export class" in code
    assert (await app.ask("GET", "/telemetry.js", If_None_Match=headers["ETag"]))[0] == 304
    assert (await app.ask("GET", "/telemetry.js", If_None_Match='"old"'))[0] == 200


async def test_a_technician_sees_what_applications_told(rig: Rig, app: App) -> None:
    seen = (await app.ask("GET", "/status"))[1]
    assert "Learning" not in "\n".join(render.status(seen, 80))
    await app.post("/api/telemetry/track", TRACK)
    await app.post("/v1/sessions", {"mode": "quiz", "question_ids": [new_id()]}, **NAMED)
    rig.memory.spool_view = SpoolView(path="/x/intake", files=2, paused="there is no room (disk-floor)", refused=3)
    seen = (await app.ask("GET", "/status"))[1]
    assert (seen["intake"]["taken"], seen["intake"]["sessions_active"]) == (1, 1)
    shown = " ".join(" ".join(render.status(seen, 80)).split())
    for words in (
        "learning, priority 9 1",
        "1 taken since the start, 1 sessions going on, 2 files wait in /x/intake, 3 lines refused",
        "learning events in /x/intake wait (2 files): there is no room (disk-floor)",
    ):
        assert words in shown


async def test_progress_is_a_record_of_its_own_id_and_says_whose_it_is(rig: Rig, app: App) -> None:
    item = {"itemType": "progress", "itemData": {"progressId": "pr1", "percent": 75}}
    for batch_id in ("b-1", "b-2"):
        _, body = await app.post("/api/telemetry/batch", {"batchId": batch_id, "items": [item]}, **NAMED)
        assert body["data"]["results"][0] | {"timestamp": ""} == {"itemId": "pr1", "status": "synced", "timestamp": ""}
    (first,) = await waiting(rig)
    assert (data(first)["type"], data(first)["id"]) == ("progress", "pr1"), "what is there already is not sent again"
    kept = await rig.outbox.records.read("progress", "pr1")
    assert kept is not None
    assert kept.fields == {"percent": 75, "userId": USER}


@pytest.mark.parametrize(
    ("item_data", "code"),
    [
        ({"email": "amina@example.org"}, "personal-data"),
        ({"note": "amina@example.org"}, "personal-data"),
        ([], "item-invalid"),
        (None, "item-invalid"),
        ({"text": "\U0001f600" * 17_000}, "item-too-large"),
    ],
)
async def test_progress_is_checked_as_in_the_cloud(rig: Rig, app: App, item_data: Any, code: str) -> None:
    body = {"batchId": "b", "items": [{"itemType": "progress", "id": "x", "itemData": item_data}]}
    raw = json.dumps(body, ensure_ascii=False).encode()
    _, answer = await app.post("/api/telemetry/batch", raw)
    assert answer["data"]["results"][0]["code"] == code
    assert await waiting(rig) == []
