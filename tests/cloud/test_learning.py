"""Learning events as users and devices send them: kept once, judged by their session, told what is wrong."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import jwt
import pytest
from conftest import Cloud, StartCloud
from test_telemetry import send, statuses, stored

SECRET = "a-secret-of-at-least-thirty-two-bytes"
SESSION = {"mode": "practice", "question_ids": [str(uuid.UUID(int=n)) for n in range(1, 4)]}


@pytest.fixture
async def cloud(start_cloud: StartCloud, database_url: str) -> Cloud:
    return await start_cloud(database=database_url, jwt_secret=SECRET)


def user(user_id: str | None = None) -> dict[str, str]:
    claims = {"sub": user_id or str(uuid.uuid4()), "exp": 4_000_000_000}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def viewed(session_id: str, **changes: Any) -> dict[str, Any]:
    return {"event_type": "QUESTION_VIEWED", "session_id": session_id, "payload": {"position": 0}, **changes}


async def begin(cloud: Cloud, who: dict[str, str]) -> str:
    status, answer = await cloud.call("POST", "/v1/sessions", json=SESSION, headers=who)
    assert status == 201, answer
    return str(answer["id"])


async def post(cloud: Cloud, who: dict[str, str], *events: Any) -> dict[str, Any]:
    body = {"source": "web", "events": list(events)}
    status, answer = await cloud.call("POST", "/v1/telemetry/events", json=body, headers=who)
    assert status == 200, answer
    return answer  # type: ignore[no-any-return]


def codes(answer: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in answer["rejected_reasons_sample"]]


async def test_events_of_an_own_session_are_kept_once(cloud: Cloud) -> None:
    me = user()
    session = await begin(cloud, me)
    events = [viewed(session, seq=n, client_ts="2026-01-20T12:34:56.000Z") for n in range(3)]
    assert await post(cloud, me, *events) == {"accepted": 3, "rejected": 0, "rejected_reasons_sample": []}
    assert (await post(cloud, me, *events))["accepted"] == 3
    assert await stored(cloud, "attempt_events") == 1 + 3
    assert await stored(cloud, "batch_log") == 2


async def test_a_bad_event_is_skipped_and_counted(cloud: Cloud) -> None:
    me = user()
    session = await begin(cloud, me)
    answer = await post(
        cloud,
        me,
        viewed(session),
        viewed(session, event_type="HOROSCOPE"),
        viewed(session, payload={"position": "third"}),
        viewed(session, payload={"position": 1, "email": "a@example.org"}),
        viewed(session, question_id=str(uuid.uuid4())),
        viewed(str(uuid.uuid4())),
        viewed("nowhere"),
    )
    assert (answer["accepted"], answer["rejected"]) == (1, 6)
    assert codes(answer) == [
        "event-type-unknown", "payload-invalid", "personal-data", "question-not-in-session", "session-unknown",
    ]  # fmt: skip
    assert [reason["index"] for reason in answer["rejected_reasons_sample"]] == [1, 2, 3, 4, 5]
    assert await stored(cloud, "attempt_events") == 2


async def test_nobody_speaks_of_somebody_elses_session(cloud: Cloud) -> None:
    session = await begin(cloud, user())
    assert codes(await post(cloud, user(), viewed(session))) == ["session-not-yours"]
    device = await cloud.enroll("pi-1")
    stranger = {**device, "PiSync-User": str(uuid.uuid4())}
    assert codes(await post(cloud, stranger, viewed(session))) == ["session-not-yours"]
    assert codes(await post(cloud, device, viewed(str(uuid.uuid4())))) == ["user-missing"]
    assert (await post(cloud, device, viewed(session)))["accepted"] == 1
    assert (await post(cloud, stranger, viewed(str(uuid.uuid4()))))["accepted"] == 1


async def test_the_same_id_with_other_content_is_told(cloud: Cloud) -> None:
    me = user()
    session, event_id = await begin(cloud, me), str(uuid.uuid4())
    await post(cloud, me, viewed(session, id=event_id))
    assert codes(await post(cloud, me, viewed(session, id=event_id, seq=9))) == ["id-conflict"]


async def test_more_than_fifty_events_at_a_time_are_too_many(cloud: Cloud) -> None:
    body = {"events": [viewed(str(uuid.uuid4()))] * 51}
    status, problem = await cloud.call("POST", "/v1/telemetry/events", json=body, headers=user())
    assert (status, problem["code"]) == (413, "too-many-events")


async def test_a_tracked_event_is_answered_again_as_the_first_time(cloud: Cloud) -> None:
    me = user()
    body = {"eventType": "interview_completed", "eventData": {"score": 85}, "metadata": {"eventId": "evt_1"}}
    status, first = await cloud.call("POST", "/api/telemetry/track", json=body, headers=me)
    assert status == 200
    assert first["success"] is True
    assert set(first["data"]) == {"eventId", "serverTimestamp", "batchId"}
    _, again = await cloud.call("POST", "/api/telemetry/track", json=body, headers=me)
    assert again["data"] == first["data"]
    body["eventData"] = {"score": 86}
    status, problem = await cloud.call("POST", "/api/telemetry/track", json=body, headers=me)
    assert (status, problem["code"]) == (409, "id-conflict")
    # somebody else's ids are their own
    assert (await cloud.call("POST", "/api/telemetry/track", json=body, headers=user()))[0] == 200
    assert await stored(cloud, "telemetry") == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "validation"),
        ({"eventType": "a b"}, 422, "validation"),
        ({"eventType": "a", "eventData": {"x": ["y" * 190] * 30}}, 413, "event-too-large"),
        ({"eventType": "a", "eventData": {"learner": {"first_name": "x"}}}, 422, "personal-data"),
        ({"eventType": "a", "eventData": {"note": "call +49 171 1234567"}}, 422, "personal-data"),
        ({"eventType": "a", "metadata": {"clientTimestamp": "yesterday"}}, 422, "validation"),
    ],
)
async def test_a_tracked_event_is_checked(cloud: Cloud, body: Any, status: int, code: str) -> None:
    found, problem = await cloud.call("POST", "/api/telemetry/track", json=body, headers=user())
    assert (found, problem["code"]) == (status, code)
    assert await stored(cloud, "telemetry") == 0


async def test_a_user_sends_a_batch_as_the_seed_gives_it(cloud: Cloud) -> None:
    me = user()
    items = [
        {"itemType": "event", "itemData": {"eventId": "evt_1", "eventType": "question_answered", "eventData": {}}},
        {"itemType": "progress", "itemData": {"progressId": "prog_1", "moduleId": "mod_1", "percent": 75}},
        {"itemType": "vitals", "itemData": {}},
    ]
    data = await send(cloud, me, *items)
    assert statuses(data) == ["synced", "synced", "failed"]
    assert [result["itemId"] for result in data["results"]] == ["evt_1", "prog_1", "b-1.2"]
    # an event is each user's own; a record is one for all, and this one concerns somebody else
    assert statuses(await send(cloud, user(), *items)) == ["synced", "failed", "failed"]
    assert statuses(await send(cloud, me, *items)) == ["duplicate", "duplicate", "failed"]
    status, answer = await cloud.call("GET", "/api/telemetry/status", headers=me)
    assert status == 200
    assert answer["syncStatus"]["totalItems"] == 6
    # a user's refused items are told and not kept
    assert await stored(cloud, "rejected_item") == 0


async def test_personal_data_is_not_kept_where_it_is_refused_either(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    item = {"itemType": "event", "itemData": {"eventType": "a", "eventData": {"email": "x@example.org"}}}
    data = await send(cloud, device, item)
    assert data["results"][0]["code"] == "personal-data"
    assert await stored(cloud, "rejected_item WHERE body LIKE '%example.org%' OR detail LIKE '%example.org%'") == 0
    assert await stored(cloud, "rejected_item") == 1


async def test_an_event_in_a_batch_keeps_its_place_and_stamp(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    event = viewed(str(uuid.uuid4()), event_version=1, id=str(uuid.uuid4()), user_id=str(uuid.uuid4()))
    item = {"itemType": "event", "itemData": event, "id": event["id"], "stream": "learn3", "seq": 1}
    item |= {"boot_id": "b", "boottime_ms": 5, "wall_ms": 7, "clock_trusted": False}
    data = await send(cloud, device, item)
    assert statuses(data) == ["synced"]
    assert data["receivedThrough"] == {"learn3": 1}
    assert statuses(await send(cloud, device, item)) == ["duplicate"]
    where = "boot_id = 'b' AND boottime_ms = 5 AND wall_ms = 7 AND clock_trusted = 0 AND device_seq = 1"
    assert await stored(cloud, f"attempt_events WHERE {where}") == 1


async def test_a_thousand_events_at_once(cloud: Cloud) -> None:
    me = user()
    body = [{"eventType": "a", "metadata": {"eventId": f"e-{n}"}} for n in range(1000)]
    results = await asyncio.gather(
        *(cloud.call("POST", "/api/telemetry/track", json=each, headers=me) for each in body)
    )
    assert {status for status, _ in results} == {200}
    assert await stored(cloud, "telemetry") == 1000


async def test_who_sends_too_much_is_asked_to_wait(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(jwt_secret=SECRET, rate_user_items=10)
    me = user()
    items = [{"itemType": "progress", "itemData": {"n": n}} for n in range(10)]
    await send(cloud, me, *items)
    body = {"eventType": "a"}
    async with cloud.http.post(cloud.url + "/api/telemetry/track", json=body, headers=me) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        problem = await answer.json(content_type=None)
    assert (problem["code"], problem["retryable"]) == ("rate-limited", True)
    assert (await cloud.call("POST", "/api/telemetry/track", json=body, headers=user()))[0] == 200


async def test_a_device_names_the_learner_of_its_batch(cloud: Cloud) -> None:
    device, learner = await cloud.enroll("pi-1"), str(uuid.uuid4())
    event = {"itemType": "event", "itemData": {"eventType": "a", "eventId": "e"}}
    envelope = {"itemType": "event", "itemData": viewed(str(uuid.uuid4()), event_version=1)}
    assert statuses(await send(cloud, {**device, "PiSync-User": learner}, event, envelope)) == ["synced", "synced"]
    assert await stored(cloud, f"telemetry WHERE user_id = '{learner}'") == 1
    assert await stored(cloud, f"attempt_events WHERE user_id = '{learner}'") == 1


@pytest.mark.parametrize("item_data", [None, [], 1, "text", True, {"email": "amina@example.org"}])
async def test_progress_is_an_object_without_personal_data(cloud_lite: Cloud, item_data: Any) -> None:
    device = await cloud_lite.enroll("pi-1")
    data = await send(cloud_lite, device, {"itemType": "progress", "itemData": item_data})
    assert statuses(data) == ["failed"]
    assert await stored(cloud_lite, "message") == 0


async def test_two_events_without_ids_are_two_and_the_same_batch_again_is_none(cloud: Cloud) -> None:
    me, click = user(), {"itemType": "event", "itemData": {"eventType": "click"}}
    assert statuses(await send(cloud, me, click, click)) == ["synced", "synced"]
    assert statuses(await send(cloud, me, click, click)) == ["duplicate", "duplicate"]


async def test_a_payload_written_anew_is_the_same_event(cloud: Cloud) -> None:
    me = user()
    session, event_id = await begin(cloud, me), str(uuid.uuid4())
    for text in ('{"position":1}', '{ "position" : 1 }'):
        named = f'"id":"{event_id}","event_type":"QUESTION_VIEWED","session_id":"{session}"'
        raw = f'{{"events":[{{{named},"payload":{text}}}]}}'
        status, answer = await cloud.call("POST", "/v1/telemetry/events", data=raw.encode(), headers=me)
        assert (status, answer["accepted"]) == (200, 1)
