"""Whatever a client sends, it gets a clear answer below 500."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from backports import zstd
from conftest import Cloud, StartCloud

GOOD = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0}


async def post(cloud: Cloud, body: bytes, headers: dict[str, str], path: str = "/api/sync-event") -> tuple[int, Any]:
    return await cloud.call("POST", path, data=body, headers=headers)


NOT_JSON = (
    b"",
    b"{",
    b"null{}",
    b"\xff\xfe{}",
    b'{"device_id": "\xff"}',
    b'{"device_id": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\0" * 100,
    b"device_id=pi-1",
    b'{"total_errors": 1e999999}',
    b'{"total_errors": NaN}',
)


@pytest.mark.parametrize("path", ["/api/sync-event", "/api/telemetry/batch"])
async def test_what_is_not_json_is_400(cloud_lite: Cloud, path: str) -> None:
    device = await cloud_lite.enroll("pi-1")
    for body in NOT_JSON:
        status, problem = await post(cloud_lite, body, device, path)
        assert status in (400, 422), body
        assert problem["code"] in ("malformed", "validation")
        assert problem["status"] == status


OTHER_SHAPES = (b"null", b"[]", b"1", b'"x"', b"true", b"{}")


async def test_json_of_another_shape_is_422(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    for body in OTHER_SHAPES:
        assert (await post(cloud_lite, body, device))[0] == 422, body


WRONG = (
    ("device_id", 1),
    ("device_id", ""),
    ("device_id", "a" * 129),
    ("device_id", "pi-1\n"),
    ("device_id", None),
    ("timestamp", "yesterday"),
    ("timestamp", "2026-01-01"),
    ("timestamp", "2026-01-01T00:00:00"),
    ("timestamp", "2026-13-01T00:00:00Z"),
    ("timestamp", "2026-01-01T00:00:00Z" + "0" * 100),
    ("timestamp", 1700000000),
    ("total_files_synced", -1),
    ("total_files_synced", 1.5),
    ("total_files_synced", "1"),
    ("total_files_synced", True),
    ("total_files_synced", 10**30),
    ("total_files_synced", 2**62),
    ("total_errors", -1),
    ("total_errors", None),
    ("internet_speed", -0.1),
    ("internet_speed", "fast"),
    ("internet_speed", 1e300),
    ("event_id", ""),
    ("event_id", "a b"),
    ("event_id", "a\0"),
    ("event_id", "x" * 129),
    ("event_id", 7),
    ("seq", 0),
    ("seq", -1),
    ("seq", 2**63),
    ("boottime_ms", -1),
    ("sent_at", "now"),
    ("error_code", "x" * 200),
    ("error_code", "a\0b"),
    ("bytes_sent", 2**63),
    ("queue_depth", 10**25),
)


async def test_a_wrong_value_is_named(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    for field, value in WRONG:
        status, problem = await cloud_lite.call("POST", "/api/sync-event", json={**GOOD, field: value}, headers=device)
        assert status == 422, (field, value)
        assert [error["pointer"] for error in problem["errors"]] == [f"/{field}"], (field, value)
        assert problem["errors"][0]["detail"]


async def test_all_wrong_values_are_named_at_once(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    body = {"device_id": 1, "total_errors": -1, "internet_speed": "x"}
    _, problem = await cloud_lite.call("POST", "/api/sync-event", json=body, headers=device)
    found = {error["pointer"]: error["code"] for error in problem["errors"]}
    assert found == {
        "/device_id": "type",
        "/timestamp": "required",
        "/total_files_synced": "required",
        "/total_errors": "range",
        "/internet_speed": "type",
    }


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59"])
async def test_the_ends_of_time_are_taken(cloud_lite: Cloud, timestamp: str) -> None:
    device = await cloud_lite.enroll("pi-1")
    status, answer = await cloud_lite.call(
        "POST", "/api/sync-event", json={**GOOD, "timestamp": timestamp, "sent_at": timestamp}, headers=device
    )
    assert status == 201, answer
    assert (await cloud_lite.call("GET", "/api/device/pi-1/sync-history", headers=device))[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_encoded_bodies_are_taken_and_broken_ones_are_400(cloud_lite: Cloud, encoding: str) -> None:
    device = {**await cloud_lite.enroll("pi-1"), "Content-Encoding": encoding}
    encode = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}[encoding]
    body = encode(json.dumps(GOOD).encode())
    assert (await post(cloud_lite, body, device))[0] == 201
    for broken in (b"", b"junk", body[:-3], body[: len(body) // 2], b"\0" + body, body + b"tail"):
        status, problem = await post(cloud_lite, broken, device)
        assert status == 400, (broken, problem)
        assert problem["code"] in ("body-encoding", "malformed")


async def test_an_unknown_encoding_is_415(cloud_lite: Cloud) -> None:
    device = {**await cloud_lite.enroll("pi-1"), "Content-Encoding": "rot13"}
    assert (await post(cloud_lite, b"{}", device))[0] == 415


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_413(start_cloud: StartCloud, encoding: str) -> None:
    cloud = await start_cloud(body_bytes_max=1_000_000)
    device = {**await cloud.enroll("pi-1"), "Content-Encoding": encoding}
    encode = {"gzip": gzip.compress, "zstd": zstd.compress}[encoding]
    status, problem = await post(cloud, encode(b"\0" * 200_000_000), device)
    assert (status, problem["code"]) == (413, "too-large")


async def test_a_body_over_the_limit_is_413_with_and_without_a_length(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(body_bytes_max=1000)
    device = await cloud.enroll("pi-1")
    assert (await post(cloud, b" " * 1001, device))[0] == 413

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    assert (await cloud.call("POST", "/api/sync-event", data=chunks(), headers=device))[0] == 413


async def test_a_body_that_does_not_come_is_408(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(body_timeout_s=0.2)
    token = (await cloud.enroll("pi-1"))["Authorization"]
    host, port = cloud.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_client_that_goes_away_in_the_middle_harms_nobody(cloud_lite: Cloud) -> None:
    headers = await cloud_lite.enroll("pi-1")
    host, port = cloud_lite.url.removeprefix("http://").split(":")
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
        writer.write((head + "Content-Length: 100\r\n\r\n{").encode())
        await writer.drain()
        writer.transport.abort()
    assert (await cloud_lite.call("POST", "/api/sync-event", json=GOOD, headers=headers))[0] == 201


NOT_HTTP = (
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    b"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /api/devices HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


async def test_what_is_not_http_is_400(cloud_lite: Cloud) -> None:
    host, port = cloud_lite.url.removeprefix("http://").split(":")
    for raw in NOT_HTTP:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        async with asyncio.timeout(60):
            line = await reader.readline()
        assert line.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (raw, line)
        writer.close()


PAGED = ("/api/device/pi-1/sync-history", "/api/devices", "/api/devices/repeated-failures", "/api/notifications")
BAD_PAGING = (
    "page=0", "page=-1", "page=x", "page=1.5", "page=99999999999999999999", "page=%00", "page=1e3", "limit=0",
    "limit=501", "limit=-5", "limit=9223372036854775808", "limit=ten", "page=%D9%A1", "limit=+5",
)  # fmt: skip


async def test_bad_paging_is_422(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    viewer = await cloud.key("viewer")
    for query in BAD_PAGING:
        for path in PAGED:
            status, problem = await cloud.call("GET", f"{path}?{query}", headers=viewer)
            assert status == 422, (path, query, problem)
            assert problem["errors"][0]["pointer"] == f"query:{query.partition('=')[0]}"


ODD_PAGING = (
    "page=1000000000",
    "page=1000000000&limit=500",
    "page=",
    "limit=",
    "cursor=",
    "search=%00%25_%5C",
    "search=%ff",
    "search=" + "a" * 3000,
    "unknown=1",
    "page=1&page=2",
)


async def test_odd_paging_that_is_allowed(cloud: Cloud) -> None:
    await cloud.enroll("pi-1")
    viewer = await cloud.key("viewer")
    for query in ODD_PAGING:
        for path in PAGED:
            assert (await cloud.call("GET", f"{path}?{query}", headers=viewer))[0] == 200, (path, query)


BAD_FILTERS = (
    "status=odd",
    "from=x",
    "to=2026-99-01",
    "from=2026-01-01T00:00:00",
    "cursor=x",
    "cursor=!!!",
    "cursor=AAAA",
    "cursor=%F0%9F%98%80",
    "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkuMQ",
)


async def test_bad_filters_are_422(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    for query in BAD_FILTERS:
        status, problem = await cloud.call("GET", f"/api/device/pi-1/sync-history?{query}", headers=device)
        assert status == 422, (query, problem)


ODD_NAMES = ("%00", "%ff", "..%2f..", "a" * 3000, "%0a", "'; DROP TABLE device; --", "%F0%9F%98%80")


async def test_odd_device_names_are_404(cloud: Cloud) -> None:
    viewer = await cloud.key("viewer")
    for name in ODD_NAMES:
        for path in (f"/api/devices/{name}", f"/api/device/{name}/sync-history"):
            assert (await cloud.call("GET", path, headers=viewer))[0] == 404, path
        assert (await cloud.call("GET", f"/api/notifications?device_id={name}", headers=viewer))[0] == 404, name


async def test_odd_tokens_are_401(cloud: Cloud) -> None:
    for token in ("a" * 7000, "\u00e4\u00f6", "' OR 1=1 --", "a b c"):
        headers = {"Authorization": f"Bearer {token}", "PiSync-Challenge": "abc"}
        assert (await cloud.call("GET", "/api/devices", headers=headers))[0] in (400, 401)


async def test_a_wrong_method_is_405_and_says_which_are_right(cloud_lite: Cloud) -> None:
    async with cloud_lite.http.delete(f"{cloud_lite.url}/api/sync-event") as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (405, "method-not-allowed")
        assert answer.headers["Allow"] == "POST"
        assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_an_error_names_its_request(cloud_lite: Cloud) -> None:
    async with cloud_lite.http.get(f"{cloud_lite.url}/api/none") as answer:
        problem = await answer.json(content_type=None)
        assert problem["request_id"] == answer.headers["X-Request-ID"]
        assert problem["type"] == "urn:pisync:problem:not-found"
        assert set(problem) == {
            "type", "title", "status", "detail", "code", "hint", "request_id", "retryable", "errors",
        }  # fmt: skip
