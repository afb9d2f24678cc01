"""What the service tells of each request: a line in its log, and a span where a collector is named."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from conftest import Cloud, StartCloud
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cloud import tracing
from cloud.api.boundary import IN_FLIGHT

EVENT = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0}


def served(lines: Any) -> list[dict[str, Any]]:
    return [dict(line) for line in lines if line["event"] == "request.served"]


async def test_a_request_is_one_line_with_the_id_that_the_device_sent(cloud_lite: Cloud) -> None:
    device = {**await cloud_lite.enroll("pi-1"), "X-Request-ID": "d-0123456789"}
    with structlog.testing.capture_logs() as lines:
        async with cloud_lite.http.post(f"{cloud_lite.url}/api/sync-event", json=EVENT, headers=device) as answer:
            assert answer.headers["X-Request-ID"] == "d-0123456789"
        async with cloud_lite.http.get(f"{cloud_lite.url}/api/devices?token=secret", headers=device) as answer:
            assert (await answer.json(content_type=None))["request_id"] == "d-0123456789"
    first, second = served(lines)
    assert first["request_id"] == "d-0123456789"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/api/sync-event", 201)
    assert first["who"] == "device:pi-1"
    assert first["client"] == "127.0.0.1"
    assert (second["status"], second["code"]) == (403, "role-missing")
    assert "secret" not in json.dumps(second)


@pytest.mark.parametrize("hostile", ["short", "x" * 65, "a b c d e f g h", "<script>12345", "ä" * 10])
async def test_an_id_that_is_none_is_not_taken_over(cloud_lite: Cloud, hostile: str) -> None:
    async with cloud_lite.http.get(f"{cloud_lite.url}/api/health", headers={"X-Request-ID": hostile}) as answer:
        assert answer.headers["X-Request-ID"] != hostile


@pytest.mark.parametrize(("wanted", "told"), [("all", [200, 401]), ("problems", [401]), ("off", [])])
async def test_how_much_is_told_is_a_setting(start_cloud: StartCloud, wanted: str, told: list[int]) -> None:
    cloud = await start_cloud(access_log=wanted)
    with structlog.testing.capture_logs() as lines:
        await cloud.call("GET", "/api/health")
        await cloud.call("GET", "/api/devices")
        await cloud.call("GET", "/livez")
    assert [line["status"] for line in served(lines)] == told


async def test_a_service_that_stops_is_not_ready(cloud_lite: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await cloud_lite.call("GET", "/readyz"))[0] == 200
    app = cloud_lite.app
    monkeypatch.setattr(app[IN_FLIGHT], "draining", True)
    assert (await cloud_lite.call("GET", "/readyz"))[0] == 503
    assert (await cloud_lite.call("GET", "/livez"))[0] == 200


async def test_spans_reach_a_collector(start_cloud: StartCloud, tmp_path: Path) -> None:
    arrived: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        body = ExportTraceServiceRequest()
        body.ParseFromString(await request.read())
        arrived.put_nowait(body)
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    collector = TestServer(app, host="127.0.0.1")
    await collector.start_server()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    cloud = await start_cloud()
    device = await cloud.enroll("pi-1")
    running = tracing.running(str(collector.make_url("/v1/traces")))
    await asyncio.to_thread(running.__enter__)
    await cloud.call("POST", "/api/sync-event", json=EVENT, headers={**device, "traceparent": parent})
    await cloud.call("GET", "/api/devices/none")
    # What is left is sent at the end; the collector answers from this loop.
    await asyncio.to_thread(running.__exit__, None, None, None)
    spans = [
        span
        for body in (arrived.get_nowait() for _ in range(arrived.qsize()))
        for resource in body.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_name = {span.name: span for span in spans}
    taken = by_name["POST /api/sync-event"]
    assert taken.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert taken.parent_span_id.hex() == "b7ad6b7169203331"
    refused = {each.key: each.value for each in by_name["GET /api/devices/{device_id}"].attributes}
    assert refused["http.response.status_code"].int_value == 401
    assert refused["pisync.problem"].string_value == "token-missing"
    assert "ingest.commit" in by_name
    await collector.close()
