"""Webhooks in: believed only when signed and fresh, applied once, audited; whatever else comes is a clear 4xx."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.config import Settings
from cloud.flows import inbound as flow
from cloud.rules import inbound as rules
from cloud.rules import signing
from cloud.services import wall_ms
from pisyncd.core import record, wire
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

SECRET = "told-by-another-system"
OLD = "told-by-it-before"
ENROLLMENT = "/api/webhooks/enrollment-changed"
PROFILE = "/api/webhooks/profile-updated"


def event(**changes: Any) -> dict[str, Any]:
    """The body of the source document."""
    return {
        "id": "event-123",
        "type": "enrollment.created",
        "resourceId": "enrollment-123",
        "resourceType": "enrollment",
        "data": {"userId": "u-1", "courseId": "c-1"},
        "timestamp": wire.rfc3339(wall_ms()),
        "retryCount": 0,
        "status": "pending",
        **changes,
    }


def profile(**changes: Any) -> dict[str, Any]:
    return event(
        **{"type": "profile.updated", "resourceType": "user", "resourceId": "u-1", "data": {"name": "A"}, **changes}
    )


def legacy(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {signing.LEGACY_HEADER: hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def standard(body: bytes, *, event_id: str = "event-123", at_s: int | None = None) -> dict[str, str]:
    at_s = wall_ms() // 1000 if at_s is None else at_s
    return signing.headers([SECRET], event_id=event_id, timestamp_s=at_s, attempt=1, body=body)


async def send(
    cloud: Cloud, path: str, body: Any, headers: dict[str, str] | None = None, **more: str
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = legacy(data) if headers is None else headers
    return await cloud.call("POST", path, data=data, headers={**headers, **more})


@pytest.fixture
async def hooked(start_cloud: StartCloud, database_url: str) -> Cloud:
    """A service that another system may tell of changes, over each kind of database."""
    return await start_cloud(database=database_url, webhook_secret=SECRET, webhook_secret_previous=OLD)


@pytest.fixture
async def hooked_lite(start_cloud: StartCloud) -> Cloud:
    return await start_cloud(webhook_secret=SECRET, webhook_secret_previous=OLD)


async def shown(cloud: Cloud, place: str) -> tuple[int, Any]:
    return await cloud.call("GET", f"/api/records/{place}", headers=await cloud.key())


async def entries(cloud: Cloud, **asked: str) -> list[Any]:
    status, answer = await cloud.call("GET", "/api/audit", params=asked, headers=await cloud.key("admin"))
    assert status == 200
    found: list[Any] = answer["data"]
    return found


async def test_created_updated_and_deleted_are_applied(hooked: Cloud) -> None:
    status, answer = await send(hooked, ENROLLMENT, event())
    assert (status, answer["success"]) == (200, True)
    data = answer["data"]
    assert (data["received"], data["id"], data["applied"]) == (True, "event-123", True)
    assert data["resource"]["fields"] == {"userId": "u-1", "courseId": "c-1"}
    assert wire.from_rfc3339(data["resource"]["last_updated_at"]) is not None
    assert (await shown(hooked, "enrollment/enrollment-123"))[1]["data"] == data["resource"]
    change = event(id="e2", type="enrollment.updated", data={"courseId": None, "grade": 5})
    _, answer = await send(hooked, ENROLLMENT, change)
    assert answer["data"]["resource"]["fields"] == {"userId": "u-1", "grade": 5}
    gone = event(id="e3", type="enrollment.deleted")
    _, answer = await send(hooked, ENROLLMENT, gone)
    assert (answer["data"]["applied"], answer["data"]["resource"]["deleted"]) == (True, True)
    assert (await shown(hooked, "enrollment/enrollment-123"))[0] == 404
    # Once more under another id: it is gone already. And what never was cannot be deleted.
    _, answer = await send(hooked, ENROLLMENT, {**gone, "id": "e4"})
    assert (answer["data"]["applied"], answer["data"]["resource"]["deleted"]) == (False, True)
    _, answer = await send(hooked, ENROLLMENT, {**gone, "id": "e5", "resourceId": "never"})
    assert (answer["data"]["applied"], answer["data"]["resource"]) == (False, None)


@pytest.mark.parametrize("kind", ["profile.updated", "user.updated", "user.created", "profile.created"])
async def test_a_user_is_a_profile(hooked_lite: Cloud, kind: str) -> None:
    status, _ = await send(hooked_lite, PROFILE, profile(type=kind))
    assert status == 200
    assert (await shown(hooked_lite, "profile/u-1"))[1]["data"]["fields"] == {"name": "A"}
    status, answer = await send(hooked_lite, PROFILE, profile(id="e2", type="user.deleted", data=None))
    assert (status, answer["data"]["resource"]["deleted"]) == (200, True)


async def test_a_repeat_is_answered_as_the_first_time_and_changes_nothing(hooked: Cloud) -> None:
    _, first = await send(hooked, ENROLLMENT, event())
    await send(hooked, ENROLLMENT, event(id="e2", type="enrollment.updated", data={"grade": 5}))
    again = event(retryCount=3, status="failed", timestamp=wire.rfc3339(wall_ms() + 1000))
    status, answer = await send(hooked, ENROLLMENT, again)
    assert (status, answer["data"]) == (200, first["data"])
    assert answer["metadata"]["request_id"] != first["metadata"]["request_id"]
    assert (await shown(hooked, "enrollment/enrollment-123"))[1]["data"]["fields"]["grade"] == 5
    assert len(await entries(hooked, action=flow.RECEIVED)) == 2
    for other in (event(data={"x": 1}), event(resourceId="another"), event(type="enrollment.updated")):
        status, answer = await send(hooked, ENROLLMENT, other)
        assert (status, answer["code"]) == (409, "id-conflict")
    status, answer = await send(hooked, PROFILE, profile())
    assert (status, answer["code"]) == (409, "id-conflict")


async def test_of_many_at_once_one_is_applied(hooked: Cloud) -> None:
    answers = await asyncio.gather(*(send(hooked, ENROLLMENT, event()) for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    assert len({json.dumps(answer["data"], sort_keys=True) for _, answer in answers}) == 1
    assert len(await entries(hooked, action=flow.RECEIVED)) == 1
    assert len(await entries(hooked, action="record.*")) == 1


async def test_the_audit_tells_who_changed_what_from_what_to_what(hooked: Cloud) -> None:
    await send(hooked, PROFILE, profile())
    await send(hooked, PROFILE, profile(id="e2", data={"name": "B"}))
    await send(hooked, PROFILE, profile(id="e3", data={"name": "B"}))
    third, second, first = await entries(hooked, action=flow.RECEIVED, target="profile/u-1")
    assert {one["actor"] for one in (first, second, third)} == {"webhook:profile-updated"}
    assert first["before_hash"] is None
    assert first["after_hash"] == second["before_hash"] != second["after_hash"]
    assert second["after_hash"] == third["before_hash"] == third["after_hash"]
    assert [one["detail"]["applied"] for one in (first, second, third)] == [True, True, False]
    assert first["detail"]["event"] == "event-123"
    # A profile's id is a user's, and stands by its hash.
    assert first["target"] == f"profile/{hashlib.sha256(b'u-1').hexdigest()}"
    assert len(await entries(hooked, action="record.*")) == 2


async def test_nothing_of_a_refused_webhook_stays(hooked: Cloud) -> None:
    status, answer = await send(hooked, ENROLLMENT, event(data={"big": "x" * 40_000}))
    assert (status, answer["code"]) == (413, "record-too-large")
    assert (await shown(hooked, "enrollment/enrollment-123"))[0] == 404
    assert await entries(hooked, action=flow.RECEIVED) == []
    assert (await send(hooked, ENROLLMENT, event()))[0] == 200


async def test_every_kind_of_signature_by_every_secret(hooked_lite: Cloud) -> None:
    for number, secret in enumerate((SECRET, OLD)):
        body = json.dumps(event(id=f"l{number}")).encode()
        digest = legacy(body, secret)[signing.LEGACY_HEADER]
        for value in (digest, digest.upper(), f"sha256={digest}", f"{'0' * 64},{digest}"):
            assert (await send(hooked_lite, ENROLLMENT, body, {signing.LEGACY_HEADER: value}))[0] == 200
    body = json.dumps(event(id="s", timestamp="2001-01-01T00:00:00Z")).encode()
    assert (await send(hooked_lite, ENROLLMENT, body, standard(body)))[0] == 200
    packed = gzip.compress(body)
    assert (await send(hooked_lite, ENROLLMENT, packed, standard(body), **{"Content-Encoding": "gzip"}))[0] == 200


async def test_a_missing_and_a_wrong_signature_get_the_same_answer(hooked_lite: Cloud) -> None:
    body = json.dumps(event()).encode()
    good = standard(body)
    tries: list[dict[str, str]] = [
        {},
        {signing.LEGACY_HEADER: ""},
        {signing.LEGACY_HEADER: "0" * 64},
        {signing.LEGACY_HEADER: "sha256="},
        {signing.LEGACY_HEADER: "\u00e9" * 64},
        legacy(body, "another"),
        legacy(body, ""),
        legacy(body + b" "),
        {**good, signing.ID_HEADER: "another"},
        {**good, signing.TIME_HEADER: str(int(good[signing.TIME_HEADER]) + 1)},
        {**good, signing.TIME_HEADER: "x"},
        {**good, signing.SIGNATURE_HEADER: "v1,AAAA", **legacy(body)},
        {**good, signing.SIGNATURE_HEADER: ""},
    ]
    told = set()
    for headers in tries:
        status, answer = await send(hooked_lite, ENROLLMENT, body, headers)
        assert (status, answer["code"]) == (401, "signature-invalid"), headers
        told.add((answer["detail"], answer["hint"], answer["title"]))
    assert len(told) == 1
    # A stranger learns nothing of what a body should be.
    for bad in (b"", b"{", b'{"id": 1}', b"\xff"):
        assert (await send(hooked_lite, ENROLLMENT, bad, {}))[0] == 401
    assert (await shown(hooked_lite, "enrollment/enrollment-123"))[0] == 404


async def raw(cloud: Cloud, head: bytes, body: bytes) -> bytes:
    """The beginning of what a request, written by hand, is answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(cloud.url.rpartition(":")[2]))
    writer.write(b"POST " + ENROLLMENT.encode() + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
    answer = await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_header_that_is_there_twice_signs_nothing(hooked_lite: Cloud) -> None:
    body = json.dumps(event()).encode()
    good = standard(body)
    for name in (signing.ID_HEADER, signing.TIME_HEADER, signing.SIGNATURE_HEADER, signing.LEGACY_HEADER):
        lines = [f"Content-Length: {len(body)}", *(f"{key}: {value}" for key, value in good.items())]
        answer = await raw(hooked_lite, "\r\n".join([*lines, f"{name.title()}: {good[name]}"]).encode(), body)
        assert answer.startswith(b"HTTP/1.1 401"), (name, answer)
        assert b"signature-invalid" in answer


async def test_smuggled_framing_is_refused(hooked_lite: Cloud) -> None:
    body = json.dumps(event()).encode()
    signature = b"\r\nx-webhook-signature: " + legacy(body)[signing.LEGACY_HEADER].encode()
    for framing in (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: 1\r\nContent-Length: 2"):
        answer = await raw(hooked_lite, framing + signature, body)
        assert re.match(rb"HTTP/1\.[01] 4\d\d", answer), answer


@pytest.mark.parametrize("off_ms", [-301_000, 301_000, -(10**12), 10**13])
async def test_a_time_that_is_off_is_refused_on_either_side(hooked_lite: Cloud, off_ms: int) -> None:
    body = json.dumps(event(timestamp=wire.rfc3339(wall_ms() + off_ms))).encode()
    status, answer = await send(hooked_lite, ENROLLMENT, body)
    assert (status, answer["code"]) == (401, "timestamp-outside-tolerance")
    status, answer = await send(hooked_lite, ENROLLMENT, body, standard(body, at_s=(wall_ms() + off_ms) // 1000))
    assert (status, answer["code"]) == (401, "timestamp-outside-tolerance")


def test_the_tolerance_is_a_distance() -> None:
    for told_ms in (10_000, 20_000, 15_000):
        rules.check_time(told_ms, 15_000, 5)
    for told_ms in (9_999, 20_001, -(2**60), 2**60):
        with pytest.raises(Refusal) as caught:
            rules.check_time(told_ms, 15_000, 5)
        assert caught.value.status == 401


HOSTILE: list[tuple[bytes | dict[str, Any], int, set[str]]] = [
    (b"", 400, set()),
    (b"[]", 422, {""}),
    (b"null", 422, {""}),
    (b"{", 400, set()),
    (b"\xff\xfe{}", 400, set()),
    (b'{"id": "\xff"}', 400, set()),
    (b'{"id": NaN}', 400, set()),
    (b"[" * 100_000, 422, {""}),
    (b'{"data": ' + b'{"a":' * 30_000 + b"1" + b"}" * 30_001, 400, set()),
    ({}, 422, {"/id", "/type", "/resourceId", "/resourceType", "/timestamp"}),
    ({"id": 1, "type": "enrollment.moved", "resourceId": [], "resourceType": "course", "timestamp": 5}, 422,
     {"/id", "/type", "/resourceId", "/resourceType", "/timestamp"}),
    (event(id="x" * 129), 422, {"/id"}),
    (event(id="two words"), 422, {"/id"}),
    (event(id=""), 422, {"/id"}),
    (event(id="x\n"), 422, {"/id"}),
    (event(resourceId="x" * 129), 422, {"/resourceId"}),
    (event(resourceId="../x"), 422, {"/resourceId"}),
    (event(resourceId="x\u0000"), 422, {"/resourceId"}),
    (event(type="profile.updated"), 422, {"/type"}),
    (event(resourceType="profile"), 422, {"/resourceType"}),
    (event(timestamp="yesterday"), 422, {"/timestamp"}),
    (event(timestamp="9" * 65), 422, {"/timestamp"}),
    (event(data=[1]), 422, {"/data"}),
    (event(data="x"), 422, {"/data"}),
    (event(data=None), 422, {"/data"}),
    (event(data={"a b": 1}), 422, {"/data/a b"}),
    (event(data={"a": "\ud800"}), 400, set()),
    (event(data={"a": 2**60}), 422, {"/data/a"}),
    (event(data={"a": "\u0000"}), 422, {"/data/a"}),
    (event(data={"a": json.loads("[" * 20 + "]" * 20)}), 422, {"/data/a"}),
    (event(data={f"f{number}": 1 for number in range(101)}), 422, {"/data"}),
    (b'{"id":"e","type":"enrollment.created","resourceId":"r","resourceType":"enrollment","timestamp":"2026-01-01T00'
     b':00:00Z","data":{"a":1e999}}', 422, {"/data/..."}),
]  # fmt: skip


async def test_hostile_bodies_are_named(hooked_lite: Cloud) -> None:
    for body, expected, pointers in HOSTILE:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = await send(hooked_lite, ENROLLMENT, data, standard(data))
        assert (status, answer["status"]) == (expected, expected), (data[:200], answer)
        assert {each["pointer"] for each in answer["errors"]} >= pointers, (data[:200], answer)
        assert answer["code"]
    assert await entries(hooked_lite, action=flow.RECEIVED) == []


async def test_large_bodies_end_early(hooked_lite: Cloud) -> None:
    large = b"{" + b" " * 10_000_000
    assert (await send(hooked_lite, ENROLLMENT, large, {}))[0] == 413
    bomb = gzip.compress(large)
    assert (await send(hooked_lite, ENROLLMENT, bomb, legacy(large), **{"Content-Encoding": "gzip"}))[0] == 413
    whole = json.dumps(event(data={"x": "y" * rules.BODY_BYTES_MAX})).encode()

    async def pieces() -> Any:
        yield whole[:1000]
        yield whole[1000:]

    status, answer = await hooked_lite.call("POST", ENROLLMENT, data=pieces(), headers=legacy(whole))
    assert (status, answer["code"]) == (413, "too-large")


async def test_without_a_secret_nobody_is_believed(cloud_lite: Cloud) -> None:
    for headers in ({}, legacy(b"{}", ""), legacy(b"{}", SECRET)):
        status, answer = await send(cloud_lite, PROFILE, b"{}", headers)
        assert (status, answer["code"]) == (503, "webhooks-off")


async def test_only_the_previous_secret_is_no_secret(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(webhook_secret_previous=OLD)
    body = json.dumps(event()).encode()
    assert (await send(cloud, ENROLLMENT, body, legacy(body, OLD)))[0] == 503


async def test_answers_are_forgotten_after_30_days(hooked: Cloud) -> None:
    await send(hooked, ENROLLMENT, event())
    services = hooked.services
    assert await services.inbound.drop_old() == 0
    assert "webhooks-in" in services.janitor._jobs
    later = flow.Inbound(
        services.db, services.records, lambda: wall_ms() + flow.KEEP_MS + 1000, secrets=(SECRET,), tolerance_s=300
    )
    assert await later.drop_old() == 1
    status, answer = await send(hooked, ENROLLMENT, event(data={"other": 1}))
    assert (status, answer["data"]["applied"]) == (200, True)


def test_secrets_are_read_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert flow.read_secrets(secret="", file=str(file), previous=" ") == (SECRET,)
    assert flow.read_secrets(secret=SECRET, file="", previous=OLD) == (SECRET, OLD)
    assert flow.read_secrets(secret="", file="", previous=OLD) == ()
    file.write_text("\n")
    for bad in (file, tmp_path / "none"):
        with pytest.raises(ConfigError, match="webhook_secret_file"):
            flow.read_secrets(secret="", file=str(bad), previous="")
    assert Settings().webhook_tolerance_s == 300


def test_a_standard_secret_is_decoded_for_standard_signatures_only() -> None:
    secret = signing.secret_of(b"k" * 32)
    body = json.dumps(event()).encode()
    key = base64.b64decode(secret.removeprefix(signing.PREFIX))
    signature = base64.b64encode(hmac.new(key, b"m.5." + body, hashlib.sha256).digest()).decode()
    given = {"Webhook-Id": "m", "Webhook-Timestamp": "5", "Webhook-Signature": f"v1,{signature}"}
    assert signing.verified([secret], given, body) == signing.Verified(scheme="standard", id="m", timestamp_s=5)


def test_the_digest_is_of_what_is_said() -> None:
    def digest(**changes: Any) -> bytes:
        return rules.decode(rules.ENROLLMENT, json.dumps(event(**changes)).encode()).digest

    assert digest() == digest(retryCount=9, status=None, timestamp="2026-01-01T00:00:00Z", unknown=1, id="other")
    assert len({digest(), digest(data={}), digest(resourceId="x"), digest(type="enrollment.updated")}) == 4
    assert record.canonical([1]) == b"[1]"
