"""Any request to any operation of the API document: an answer below 500, in the form that the document says."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cloud.api.operations import OPERATIONS, Operation

PROFILE = settings(
    max_examples=int(os.environ.get("PISYNC_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


SECRET = "w"


@dataclass
class Target:
    """A service in a process of its own."""

    port: int
    token: str
    keys: dict[str, str]
    log: Path
    document: dict[str, Any]

    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def _cli(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "cloud", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    where = tmp_path_factory.mktemp("fuzz")
    data = ("--data", str(where))
    token = _cli("enroll", "pi-1", *data)
    keys = {role: _cli("key", "create", role, "--role", role, *data) for role in ("viewer", "operator", "admin")}
    with (where / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloud", "serve", "--port", "0", *data],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # What is off answers 503; so nothing is.
            env={**os.environ, "PISYNC_CLOUD_CRON_SECRET": "c", "PISYNC_CLOUD_WEBHOOK_SECRET": SECRET},
        )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        found = Target(port=port, token=token, keys=keys, log=where / "log", document={})
        found.document = json.loads(found.call("GET", "/api-docs/openapi.json", {})[2])
        yield found
        assert b"request.failed" not in found.log.read_bytes()
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
WORD = st.text(max_size=30) | st.sampled_from(["pi-1", "", "0", "-1", "1", "10", "9" * 30, "true", "failed", "%00"])
TIMES = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.sampled_from(["1970-01-01T00:00:00Z", "x", ""])
EVENT = st.fixed_dictionaries(
    {
        "device_id": st.just("pi-1") | WORD,
        "timestamp": TIMES,
        "total_files_synced": st.integers(-1, 2**40) | JSON,
        "total_errors": st.integers(-1, 5) | JSON,
    },
    optional={
        "internet_speed": st.floats() | st.none() | JSON,
        "event_id": WORD,
        "seq": st.integers(-1, 2**64) | JSON,
        "boot_id": WORD,
        "sent_at": TIMES,
        "error_code": WORD,
        "bytes_sent": st.integers(),
        "queue_depth": JSON,
    },
)
ITEM = (
    st.fixed_dictionaries(
        {"itemType": st.sampled_from(["event", "sync_event", "loss", "odd"]) | JSON, "itemData": EVENT | JSON},
        optional={
            "id": WORD,
            "stream": st.sampled_from(["sync", "event", "X", ""]) | JSON,
            "seq": st.integers(0, 20) | JSON,
            "wall_ms": st.integers() | JSON,
            "clock_trusted": st.booleans() | JSON,
        },
    )
    | JSON
)
BATCH = st.fixed_dictionaries({"batchId": WORD, "items": st.lists(ITEM, max_size=6)}, optional={"sentAt": TIMES}) | JSON
#: What stands in the paths: device_id, upload, webhook_id and their like.
NAMES = sorted({param.name for one in OPERATIONS for param in one.params if param.place == "path"})
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=True).encode("utf-8", "surrogatepass")


def check(target: Target, operation: Operation, answer: tuple[int, http.client.HTTPMessage, bytes]) -> None:
    status, headers, body = answer
    assert status < 500, (status, body)
    assert headers["Date"]
    if (
        status >= 400
        and operation.method != "HEAD"
        and headers.get("Content-Type", "").startswith("application/problem")
    ):
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["code"]
        return
    told = target.document["paths"][operation.path][operation.method.lower()]["responses"].get(str(status))
    media = headers.get("Content-Type", "").partition(";")[0]
    if told is None or media != "application/json":
        return
    schema = {**told["content"][media]["schema"], "components": target.document["components"]}
    Draft202012Validator(schema).validate(json.loads(body))


@PROFILE
@given(body=EVENT | JSON)
@example(body={"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0})
def test_any_sync_event(target: Target, body: Any) -> None:
    operation = next(one for one in OPERATIONS if one.name == "postSyncEvent")
    for token in (target.token, target.keys["operator"]):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        check(target, operation, target.call("POST", "/api/sync-event", headers, encoded(body)))


@PROFILE
@given(body=BATCH)
@example(body={"batchId": "b", "items": [{"itemType": "event", "itemData": 1, "stream": "event", "seq": 1}]})
def test_any_batch(target: Target, body: Any) -> None:
    operation = next(one for one in OPERATIONS if one.name == "postBatch")
    answer = target.call("POST", "/api/telemetry/batch", {"Authorization": f"Bearer {target.token}"}, encoded(body))
    check(target, operation, answer)
    if answer[0] == 200:
        data = json.loads(answer[2])["data"]
        assert data["processed"] == data["successful"] + data["failed"] + data["conflicts"] == len(body["items"])


TOLD = (
    st.fixed_dictionaries(
        {
            "id": WORD | JSON,
            "type": st.sampled_from(["enrollment.created", "profile.updated", "user.deleted", "x"]) | JSON,
            "resourceId": st.sampled_from(["r-1", "r-2"]) | WORD,
            "resourceType": st.sampled_from(["enrollment", "profile", "user"]) | JSON,
            "timestamp": st.builds(lambda: datetime.now(UTC).isoformat()) | TIMES,
        },
        optional={"data": st.dictionaries(WORD, JSON, max_size=4) | JSON, "retryCount": JSON, "status": JSON},
    )
    | JSON
)


@PROFILE
@given(hook=st.sampled_from(["postEnrollmentChanged", "postProfileUpdated"]), body=TOLD, other=HEADER)
def test_any_signed_webhook(target: Target, hook: str, body: Any, other: str) -> None:
    operation = next(one for one in OPERATIONS if one.name == hook)
    data = encoded(body)
    signature = hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()
    answer = target.call("POST", operation.path, {"x-webhook-signature": signature}, data)
    check(target, operation, answer)
    assert answer[0] != 401 or json.loads(answer[2])["code"] == "timestamp-outside-tolerance"
    answer = target.call("POST", operation.path, {"x-webhook-signature": other + signature[1:]}, data)
    check(target, operation, answer)


@PROFILE
@given(
    operation=st.sampled_from(OPERATIONS),
    words=st.dictionaries(st.sampled_from(NAMES), WORD),
    query=st.dictionaries(
        st.sampled_from(
            ["page", "limit", "cursor", "status", "from", "to", "mode", "threshold", "search", "sort", "open",
             "device_id", "challenge", "version", "versions", "prefix", "x"]
        ),
        WORD,
        max_size=4,
    ),
    header=HEADER,
    who=st.sampled_from(["device", "viewer", "operator", "admin", "nobody"]),
    body=st.none() | st.binary(max_size=100),
)  # fmt: skip
def test_any_request_to_any_operation(
    target: Target,
    operation: Operation,
    words: dict[str, str],
    query: dict[str, str],
    header: str,
    who: str,
    body: bytes | None,
) -> None:
    path = operation.path
    for name in NAMES:
        value = words.get(name, "pi-1" if name == "device_id" else "x")
        path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "surrogatepass"), safe=""))
    pairs = "&".join(f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in query.items())
    headers = {param.name: header for param in operation.params if param.place == "header"}
    headers |= {"Tus-Resumable": "1.0.0"} if "Tus-Resumable" in headers else {}
    token = {"device": target.token, "nobody": header}.get(who) or target.keys.get(who, "")
    headers |= {
        "Authorization": f"Bearer {token}",
        "PiSync-Challenge": header,
        "Content-Encoding": "",
        "Prefer": header,
    }
    if body is not None and operation.body_media != "application/json":
        headers["Content-Type"] = operation.body_media
    check(target, operation, target.call(operation.method, f"{path}?{pairs}" if pairs else path, headers, body))
