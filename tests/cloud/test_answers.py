"""Every operation of the API document that answers JSON below /api carries metadata, lists their pagination."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Cloud, StartCloud
from jsonschema import Draft202012Validator

from cloud.api.openapi import Operation
from cloud.api.operations import OPERATIONS
from pisyncd import __version__
from pisyncd.core import wire

SECRET = "told-by-another-system"
CRON = "cron-secret"
LEARNER = {"PiSync-User": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}
SYNC = {
    "device_id": "pi-1",
    "timestamp": "2026-03-02T08:00:00Z",
    "total_files_synced": 1,
    "total_errors": 0,
    "internet_speed": None,
}
HOOK = {"url": "http://127.0.0.1:9/hook", "description": "", "event_types": ["*"]}
#: Who asks, at which address, with which body. {names} are what `there` has made.
ASKS: dict[str, tuple[str, str, Any]] = {
    "postSyncEvent": ("device", "/api/sync-event", {**SYNC, "event_id": "e-2"}),
    "getSyncHistory": ("viewer", "/api/device/pi-1/sync-history", None),
    "getDevices": ("viewer", "/api/devices", None),
    "getDevice": ("viewer", "/api/devices/pi-1", None),
    "getTransitions": ("viewer", "/api/devices/pi-1/transitions", None),
    "postMute": ("operator", "/api/devices/pi-1/mute", {"for_s": 60}),
    "postUnmute": ("operator", "/api/devices/pi-1/unmute", None),
    "getTimeline": ("viewer", "/api/devices/pi-1/timeline", None),
    "getMe": ("viewer", "/api/me", None),
    "putOperator": ("admin", "/api/operators/grace", {"password": "a long enough one", "grants": [{"role": "viewer"}]}),
    "getOperators": ("admin", "/api/operators", None),
    "deleteOperator": ("admin", "/api/operators/grace", None),
    "postKey": ("admin", "/api/keys", {"name": "made", "role": "viewer"}),
    "getKeys": ("admin", "/api/keys", None),
    "deleteKey": ("admin", "/api/keys/made", None),
    "postCommand": ("operator", "/api/devices/pi-1/commands", {"kind": "sync"}),
    "getCommands": ("viewer", "/api/devices/pi-1/commands", None),
    "postDeviceToken": ("admin", "/api/devices/pi-1/token", None),
    "getDeviceConfig": ("device", "/api/device/config", None),
    "putChannel": ("admin", "/api/channels/desk", {"url": "json://127.0.0.1:9/x"}),
    "getChannels": ("admin", "/api/channels", None),
    "postChannelTest": ("admin", "/api/channels/desk/test", None),
    "getNotices": ("viewer", "/api/notices?channel=desk", None),
    "deleteChannel": ("admin", "/api/channels/desk", None),
    "putRule": ("admin", "/api/rules/r1", {"states": ["overdue"]}),
    "getRules": ("viewer", "/api/rules", None),
    "deleteRule": ("admin", "/api/rules/r1", None),
    "postSilence": ("operator", "/api/silences", {"comment": "works", "for_s": 3600, "tag": "lab"}),
    "getSilences": ("viewer", "/api/silences", None),
    "deleteSilence": ("operator", "/api/silences/{silence}", None),
    "getIncidents": ("viewer", "/api/incidents", None),
    "getIncident": ("viewer", "/api/incidents/{incident}", None),
    "postAcknowledge": ("operator", "/api/incidents/{incident}/ack", {"note": "on it"}),
    "putGroup": ("admin", "/api/groups/north", {"kind": "region"}),
    "getGroups": ("viewer", "/api/groups", None),
    "deleteGroup": ("admin", "/api/groups/north", None),
    "patchDevice": ("operator", "/api/devices/pi-1", {"label": "desk", "tags": ["lab"]}),
    "getTags": ("viewer", "/api/tags", None),
    "putTag": ("operator", "/api/tags/lab", {"tag": "lab-2"}),
    "deleteTag": ("operator", "/api/tags/lab-2", None),
    "getOverview": ("viewer", "/api/overview", None),
    "getFaults": ("viewer", "/api/faults", None),
    "postEnrollCode": ("operator", "/api/enroll-codes", {"tags": ["lab"]}),
    "getEnrollCodes": ("operator", "/api/enroll-codes", None),
    "deleteEnrollCode": ("operator", "/api/enroll-codes/{code_id}", None),
    "postFleetKey": ("admin", "/api/fleet-keys", {"name": "cards"}),
    "getFleetKeys": ("admin", "/api/fleet-keys", None),
    "deleteFleetKey": ("admin", "/api/fleet-keys/cards", None),
    "postEnroll": ("nobody", "/api/enroll", {"device_id": "pi-new", "code": "{code}"}),
    "getEnrolments": ("operator", "/api/enrolments", None),
    "postAccept": ("operator", "/api/devices/pi-w1/accept", {}),
    "postReject": ("operator", "/api/devices/pi-w2/reject", {}),
    "postRetire": ("operator", "/api/devices/pi-w1/retire", None),
    "getRepeatedFailures": ("viewer", "/api/devices/repeated-failures?threshold=0", None),
    "getNotifications": ("viewer", "/api/notifications", None),
    "postTrack": ("device", "/api/telemetry/track", {"eventType": "lesson.completed", "eventData": {}}),
    "postBatch": ("device", "/api/telemetry/batch", {"batchId": "b", "items": [{"itemType": "event", "itemData": {}}]}),
    "getTelemetryStatus": ("device", "/api/telemetry/status", None),
    "getBatches": ("device", "/api/telemetry/batches", None),
    "getUpload": ("device", "{upload}", None),
    "getFiles": ("viewer", "/api/devices/pi-1/files", None),
    "getContents": ("viewer", "/api/devices/pi-1/contents", None),
    "getExports": ("viewer", "/api/exports", None),
    "postExports": ("admin", "/api/exports", None),
    "getRecords": ("viewer", "/api/records/enrollment", None),
    "getRecord": ("viewer", "/api/records/enrollment/en-1", None),
    "putRecord": ("operator", "/api/records/enrollment/en-2", {"fields": {"courseId": "c"}}),
    "patchRecord": ("operator", "/api/records/enrollment/en-1", {"fields": {"courseId": "d"}}),
    "deleteRecord": ("operator", "/api/records/enrollment/en-3", None),
    "syncRecord": ("operator", "/api/records/enrollment/en-1/sync", None),
    "getChanges": ("device", "/api/changes", None),
    "getSubscriptions": ("viewer", "/api/devices/pi-1/subscriptions", None),
    "putSubscriptions": ("operator", "/api/devices/pi-1/subscriptions", {"site": ["s1"]}),
    "getConflicts": ("viewer", "/api/conflicts", None),
    "getConflict": ("viewer", "/api/conflicts/{conflict}", None),
    "postResolve": ("operator", "/api/conflicts/{conflict}/resolve", {"pick": "winner"}),
    "getProbe": ("device", "/api/probe?challenge=x7", None),
    "postProbe": ("device", "/api/probe", b"some bytes"),
    "getHealth": ("nobody", "/api/health", None),
    "getAlerts": ("viewer", "/api/alerts", None),
    "getAudit": ("admin", "/api/audit", None),
    "getWebhooks": ("admin", "/api/webhooks", None),
    "postWebhook": ("admin", "/api/webhooks", HOOK),
    "getWebhook": ("admin", "/api/webhooks/{webhook}", None),
    "patchWebhook": ("admin", "/api/webhooks/{webhook}", {"description": "x"}),
    "postWebhookRotateSecret": ("admin", "/api/webhooks/{webhook}/rotate-secret", {}),
    "getWebhookDeliveries": ("admin", "/api/webhooks/{webhook}/deliveries", None),
    "postWebhookReplay": (
        "admin",
        "/api/webhooks/{webhook}/replay",
        {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    ),
    "postWebhookTest": ("admin", "/api/webhooks/{webhook}/test", None),
    "getSyncStatus": ("admin", "/api/sync/status", None),
    "postSyncProcess": ("cron", "/api/sync/process", None),
    "getSyncHealth": ("admin", "/api/sync/health", None),
    "postEnrollmentChanged": ("signed", "/api/webhooks/enrollment-changed", ("enrollment", "enrollment")),
    "postProfileUpdated": ("signed", "/api/webhooks/profile-updated", ("profile", "user")),
}
#: Answers that are no resource of their own, or a list of names.
NO_RESOURCE = {
    "postTrack", "postBatch", "getTelemetryStatus", "getContents", "getChanges", "getProbe", "postProbe", "getHealth",
    "getAlerts", "postWebhookReplay", "postWebhookTest", "getSyncStatus", "postSyncProcess", "getSyncHealth",
    "getSubscriptions", "putSubscriptions", "postEnrollmentChanged", "postProfileUpdated", "getDeviceConfig", "getMe",
}  # fmt: skip
JSON_BELOW_API = [
    one for one in OPERATIONS if one.path.startswith("/api/") and any(reply.body is not None for reply in one.replies)
]


def told(kind: str, resource: str) -> bytes:
    """A webhook of another system, of now."""
    now = wire.rfc3339(time.time_ns() // 1_000_000)
    body = {"id": f"event-{kind}", "type": f"{kind}.created", "resourceId": f"{kind}-9", "resourceType": resource}
    return json.dumps({**body, "data": {"courseId": "c"}, "timestamp": now}).encode()


class There:
    """A cloud in which there is something of everything."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.who: dict[str, dict[str, str]] = {"nobody": {}, "signed": {}, "cron": {"x-cron-secret": CRON}}
        self.names: dict[str, str] = {}

    async def fill(self) -> None:
        cloud = self.cloud
        self.who["device"] = await cloud.enroll("pi-1")
        for role in ("viewer", "operator", "admin"):
            self.who[role] = await cloud.key(role)
        for number in range(4):
            await self.ok(
                "device",
                "POST",
                "/api/sync-event",
                {**SYNC, "event_id": f"f{number}", "total_errors": 1, "total_files_synced": 0},
            )
        await cloud.services.assessor.step()
        await cloud.services.alerter.step()
        found = await self.ok("viewer", "GET", "/api/incidents")
        self.names["incident"] = str(found["data"][0]["id"])
        hush = {"comment": "works", "for_s": 60, "tag": "x"}
        self.names["silence"] = (await self.ok("operator", "POST", "/api/silences", hush))["data"]["id"]
        await self._enrolment()
        mine = {"itemType": "enrollment", "itemData": {"enrollmentId": "en-1", "courseId": "a"}}
        await self.ok("device", "POST", "/api/telemetry/batch", {"batchId": "r1", "items": [{**mine, "id": "r1"}]})
        await self.ok("operator", "PUT", "/api/records/enrollment/en-1", {"fields": {"courseId": "b"}})
        await self.ok("operator", "PUT", "/api/records/enrollment/en-3", {"fields": {"courseId": "b"}})
        await self.ok("device", "POST", "/api/telemetry/batch", {"batchId": "r2", "items": [{**mine, "id": "r2"}]})
        found = await self.ok("viewer", "GET", "/api/conflicts")
        self.names["conflict"] = found["data"][0]["id"]
        made = await self.ok("admin", "POST", "/api/webhooks", HOOK)
        self.names["webhook"] = made["data"]["id"]
        meta = f"path {base64.b64encode(b'a.txt').decode()}"
        headers = {**self.who["device"], "Tus-Resumable": "1.0.0", "Upload-Length": "2", "Upload-Metadata": meta}
        headers["Content-Type"] = wire.OFFSET_STREAM
        async with cloud.http.post(cloud.url + "/api/files", headers=headers, data=b"hi") as answer:
            assert answer.status == 201
            self.names["upload"] = answer.headers["Location"]

    async def _enrolment(self) -> None:
        self.names["code"] = (await self.ok("operator", "POST", "/api/enroll-codes", {}))["data"]["code"]
        await self.ok("operator", "POST", "/api/enroll-codes", {})
        found = (await self.ok("operator", "GET", "/api/enroll-codes"))["data"]
        used = hashlib.sha256(self.names["code"].replace("-", "").encode()).hexdigest()[:16]
        self.names["code_id"] = next(each["id"] for each in found if each["id"] != used)
        key = (await self.ok("admin", "POST", "/api/fleet-keys", {"name": "prepared"}))["data"]["fleet_key"]
        for name in ("pi-w1", "pi-w2"):
            body = {"device_id": name, "fleet_key": key, "token_sha256": hashlib.sha256(name.encode()).hexdigest()}
            await self.ok("nobody", "POST", "/api/enroll", body)

    async def ok(self, who: str, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self.cloud.call(method, path, headers=self.who[who], json=body)
        assert status < 300, (method, path, status, answer)
        return answer

    async def ask(self, operation: Operation) -> tuple[int, Any, str]:
        """Status, body and request id."""
        who, path, body = ASKS[operation.name]
        headers = dict(self.who[who])
        data: bytes | None
        if who == "signed":
            data = told(*body)
            headers["x-webhook-signature"] = hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()
        else:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            if data is not None and "code" in self.names:
                data = data.replace(b"{code}", self.names["code"].encode())
        url = self.cloud.url + path.format(**self.names)
        async with self.cloud.http.request(operation.method, url, headers=headers, data=data) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers["X-Request-ID"]


@pytest.fixture
async def there(start_cloud: StartCloud, tmp_path: Any) -> AsyncIterator[There]:
    export = tmp_path / "export"
    export.mkdir()
    found = There(
        await start_cloud(webhook_secret=SECRET, cron_secret=CRON, webhook_allow="127.0.0.0/8", export_dir=str(export))
    )
    await found.fill()
    yield found


def test_every_operation_is_asked() -> None:
    assert {one.name for one in JSON_BELOW_API} == ASKS.keys()
    assert ASKS.keys() >= NO_RESOURCE


def test_bodies_below_api_are_never_bare() -> None:
    bare = [
        one.name
        for one in OPERATIONS
        if one.path.startswith("/api/")
        and any(reply.body is not None and reply.frame == "bare" for reply in one.replies)
    ]
    assert bare == []


async def test_every_answer_carries_metadata_and_every_resource_its_time(there: There) -> None:
    _, document = await there.cloud.call("GET", "/api-docs/openapi.json")
    for operation in JSON_BELOW_API:
        status, body, request_id = await there.ask(operation)
        replies = {reply.status: reply for reply in operation.replies}
        assert status in replies, (operation.name, status, body)
        metadata = body["metadata"]
        assert (metadata["version"], metadata["request_id"]) == (__version__, request_id), operation.name
        assert wire.from_rfc3339(metadata["timestamp"]) is not None
        schema = document["paths"][operation.path][operation.method.lower()]["responses"][str(status)]
        schema = schema["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(body)
        listed = replies[status].frame == "list"
        assert ("pagination" in body) == listed, operation.name
        if operation.name in NO_RESOURCE:
            continue
        resources = body["data"] if listed else [body["data"]]
        assert resources or not listed, operation.name
        for resource in resources:
            assert wire.from_rfc3339(resource["last_updated_at"]) is not None, operation.name


async def test_fixed_fields_of_bodies_stay_at_the_top(there: There) -> None:
    health = await there.ok("nobody", "GET", "/api/health")
    assert {"status", "uptime", "services", "timestamp", "metadata"} == health.keys()
    status = await there.ok("device", "GET", "/api/telemetry/status")
    assert {"syncStatus", "metadata"} == status.keys()
    batch = await there.ok("device", "POST", "/api/telemetry/batch", ASKS["postBatch"][2])
    assert {"success", "data", "next", "metadata"} == batch.keys()


async def test_v1_keeps_its_bare_bodies(there: There) -> None:
    body = {"source": "web", "events": [{"event_type": "x"}]}
    status, answer = await there.cloud.call(
        "POST", "/v1/telemetry/events", headers={**there.who["device"], **LEARNER}, json=body
    )
    assert (status, set(answer)) == (200, {"accepted", "rejected", "rejected_reasons_sample"})
