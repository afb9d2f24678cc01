"""Nothing that an application sends or puts down is a fault of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pisyncd.activities.spool import Spool

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, App, data, new_id, waiting


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig) as made:
        yield made


NASTY = [
    b"null", b"true", b"-1", b"1e999", b"12345678901234567890123", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"',
    b'"\\udc00x"', b'"' + b"\xff" + b'"', b'"' + b"x" * 300 + b'"', b"[" * 400 + b"]" * 400, b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 300 + b"1" + b"}" * 300, b'{"name":1}', b'{"a":1,"a":2}', b"{", b"\xef\xbb\xbf{}",
    b'"2026-13-40T99:99:99Z"',
    b'"\'; DROP TABLE messages; --"', b"NaN", b"0.1e1", b'"' + "\u202e\u0000é".encode() + b'"',
]  # fmt: skip
SHAPES = [
    ("/api/telemetry/track", b'{"eventType":%s,"eventData":{"a":1}}'),
    ("/api/telemetry/track", b'{"eventType":"x","eventData":%s}'),
    ("/api/telemetry/track", b'{"eventType":"x","eventData":{"a":%s}}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":%s}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":{"eventId":%s,"priority":3}}'),
    ("/api/telemetry/track", b'{"eventType":"x","metadata":{"clientTimestamp":%s}}'),
    ("/api/telemetry/batch", b'{"batchId":%s,"items":[1]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":%s}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[%s]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","itemData":%s}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","itemData":{"a":%s}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"progress","id":%s,"itemData":{}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":%s,"itemData":{}}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"event","itemData":%s}]}'),
    ("/api/telemetry/batch", b'{"batchId":"b","items":[{"itemType":"event","itemData":{"event_version":%s}}]}'),
    ("/v1/telemetry/events", b'{"events":%s}'),
    ("/v1/telemetry/events", b'{"events":[%s]}'),
    ("/v1/telemetry/events", b'{"source":%s,"events":[]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"PAUSE_BLUR","session_id":%s,"payload":{"state":"blur"}}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":%s}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":{},"seq":%s}]}'),
    ("/v1/telemetry/events", b'{"events":[{"event_type":"REVIEW_OPENED","session_id":"%%s","payload":{},"id":%s}]}'),
    ("/v1/sessions", b"%s"),
    ("/v1/sessions", b'{"mode":%s,"question_ids":["%%s"]}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":%s}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":["%%s"],"filters":{"a":%s}}'),
    ("/v1/sessions", b'{"mode":"quiz","question_ids":["%%s"],"duration_s":%s}'),
]


@pytest.mark.parametrize("place", range(len(SHAPES)))
async def test_nothing_that_is_sent_is_a_fault_of_ours(rig: Rig, app: App, place: int) -> None:
    path, shape = SHAPES[place]
    for nasty in NASTY:
        body = shape.replace(b"%%s", new_id().encode()).replace(b"%s", nasty)
        status, answer, _ = await app.ask("POST", path, body, **NAMED)
        assert status < 500, (body[:200], answer)
        assert status in (200, 201) or answer["code"], body[:200]
    # Whatever was taken is sound JSON for whoever reads it next.
    for item in await waiting(rig):
        assert isinstance(data(item), dict)


async def test_nothing_that_is_put_down_is_a_fault_of_ours(rig: Rig, tmp_path: Path) -> None:
    spool = Spool(rig.outbox, tmp_path / "intake")
    await spool.step()
    shapes = [b"%s", *(shape for path, shape in SHAPES if path == "/api/telemetry/track")]
    shapes += [b'{"event_type":"PAUSE_BLUR","session_id":%s,"payload":{"state":"blur"},"user_id":"%%s"}']
    shapes += [b'{"event_type":"REVIEW_OPENED","session_id":"%%s","user_id":"%%s","payload":%s}']
    shapes += [b'{"event_type":%s,"session_id":"%%s","user_id":%s,"payload":{},"id":%s}']
    lines = [
        shape.replace(b"%%s", new_id().encode()).replace(b"%s", nasty) for shape in shapes for nasty in NASTY
    ]  # fmt: skip
    (tmp_path / "a").write_bytes(b"\n".join(line.replace(b"\n", b" ") for line in lines))
    (tmp_path / "a").rename(tmp_path / "intake" / "a.jsonl")
    while await spool.step() == 0.0:
        pass
    assert list((tmp_path / "intake").glob("*.jsonl")) == []
    for item in await waiting(rig):
        assert isinstance(data(item), dict)
    spool.close()
