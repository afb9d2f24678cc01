"""Webhooks over HTTP and at the terminal: endpoints and their secrets, what is told, the log, replays, tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud
from standardwebhooks import Webhook
from tus_helpers import Device, sha256
from webhook_rig import Receiver, busy, receiving, update

from cloud import cli
from cloud.flows import announcing, identity
from cloud.services import wall_ms
from pisyncd.core.errors import ConfigError

Headers = dict[str, str]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def cloud(start_cloud: StartCloud, database_url: str) -> Cloud:
    return await start_cloud(database=database_url, webhook_allow="127.0.0.0/8")


@pytest.fixture
async def lite(start_cloud: StartCloud) -> Cloud:
    """Over SQLite, for what does not depend on the database."""
    return await start_cloud(webhook_allow="127.0.0.0/8")


async def made(cloud: Cloud, admin: Headers, url: str, *event_types: str, **more: Any) -> Any:
    body = {"url": url, "event_types": list(event_types or ("*",)), **more}
    status, answer = await cloud.call("POST", "/api/webhooks", json=body, headers=admin)
    assert status == 201, answer
    return answer["data"]


async def announce(cloud: Cloud, *happenings: announcing.Happening) -> None:
    async with cloud.services.db.transaction() as tx:
        await announcing.announce(tx, happenings, wall_ms())
    cloud.services.dispatcher.wake()


async def log(cloud: Cloud, admin: Headers, webhook: str, query: str = "") -> list[Any]:
    status, answer = await cloud.call("GET", f"/api/webhooks/{webhook}/deliveries{query}", headers=admin)
    assert status == 200, answer
    found: list[Any] = answer["data"]
    return found


async def logged(cloud: Cloud, admin: Headers, webhook: str, count: int) -> list[Any]:
    """The log once so many deliveries have ended."""
    async with asyncio.timeout(30):
        while len(found := [each for each in await log(cloud, admin, webhook) if each["ended_at"]]) < count:
            await asyncio.sleep(0.02)
    return found


class TestEndpoints:
    async def test_make_list_change_remove(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        webhook = await made(cloud, admin, receiver.url("/x"), "profile.*", "profile.*", description="the panel")
        path = f"/api/webhooks/{webhook['id']}"
        assert webhook["secret"].startswith("whsec_")
        assert (webhook["event_types"], webhook["state"], webhook["reason"]) == (["profile.*"], "enabled", "")
        status, answer = await cloud.call("GET", path, headers=admin)
        assert status == 200
        assert answer["data"] == {key: value for key, value in webhook.items() if key != "secret"}
        _, answer = await cloud.call("GET", "/api/webhooks", headers=admin)
        assert [each["id"] for each in answer["data"]] == [webhook["id"]]
        assert answer["pagination"]["total"] == 1
        wanted = {"event_types": ["device.failing"], "state": "disabled", "url": receiver.url("/y")}
        status, answer = await cloud.call("PATCH", path, json=wanted, headers=admin)
        assert status == 200
        assert {key: answer["data"][key] for key in wanted} == wanted
        assert answer["data"]["reason"] == "switched off"
        assert (await cloud.call("DELETE", path, headers=admin))[0] == 204
        for method in ("GET", "DELETE"):
            status, answer = await cloud.call(method, path, headers=admin)
            assert (status, answer["code"]) == (404, "webhook-unknown")

    async def test_only_admins(self, lite: Cloud) -> None:
        operator = await lite.key("operator")
        device = await lite.enroll("pi-1")
        for method, path in (
            ("GET", "/api/webhooks"),
            ("POST", "/api/webhooks"),
            ("GET", "/api/webhooks/wh_1"),
            ("PATCH", "/api/webhooks/wh_1"),
            ("DELETE", "/api/webhooks/wh_1"),
            ("GET", "/api/webhooks/wh_1/deliveries"),
            ("POST", "/api/webhooks/wh_1/replay"),
            ("POST", "/api/webhooks/wh_1/test"),
            ("POST", "/api/webhooks/wh_1/rotate-secret"),
        ):
            assert (await lite.call(method, path))[0] == 401
            assert (await lite.call(method, path, headers=operator))[0] == 403
            assert (await lite.call(method, path, headers=device))[0] == 403

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"url": "https://10.0.0.1/x"}, 422, "target-refused"),
            ({"url": "http://8.8.8.8/x"}, 422, "target-refused"),
            ({"url": "https://user:pw@example.com/"}, 422, "url"),
            ({"url": "ftp://example.com/"}, 422, "url"),
            ({"url": "https://example.com/", "event_types": ["profle.*"]}, 422, "enum"),
            ({"url": "https://example.com/", "event_types": []}, 422, "length"),
            ({"url": "https://example.com/", "event_types": "profile.*"}, 422, "type"),
            ({"url": "https://example.com/", "secret": "mine"}, 422, "invalid"),
            ({}, 422, "required"),
        ],
    )
    async def test_what_cannot_be_an_endpoint(self, lite: Cloud, body: Any, status: int, code: str) -> None:
        admin = await lite.key("admin")
        got, answer = await lite.call("POST", "/api/webhooks", json=body, headers=admin)
        assert (got, answer["errors"][0]["code"]) == (status, code), answer

    async def test_hostile_bodies_and_ids(self, lite: Cloud, receiver: Receiver) -> None:
        admin = await lite.key("admin")
        webhook = await made(lite, admin, receiver.url("/x"))
        for body in (b"[", b"[]", b"null", b"\xff", b'{"url":1}', b"[" * 100_000, b'{"keep_old_hours":-1}', b'"x"'):
            for action in ("rotate-secret", "replay"):
                path = f"/api/webhooks/{webhook['id']}/{action}"
                status, _ = await lite.call("POST", path, data=body, headers=admin)
                assert 400 <= status < 500, (action, body[:20])
        for name in ("%00", "wh_%F0%9F%92%A9", "..", "a" * 3000, "enrollment-changed"):
            status, _ = await lite.call("GET", f"/api/webhooks/{name}", headers=admin)
            assert status in (400, 404, 405), name
        for query in ("?state=lost", "?type=x", "?page=0", "?cursor=x", "?limit=501"):
            status, _ = await lite.call("GET", f"/api/webhooks/{webhook['id']}/deliveries{query}", headers=admin)
            assert status == 422, query

    async def test_an_allowed_network_that_is_none_stops_the_service(self, start_cloud: StartCloud) -> None:
        with pytest.raises(ConfigError, match="webhook_allow"):
            await start_cloud(webhook_allow="example.com")


class TestSecrets:
    async def test_both_secrets_of_a_rotation_sign_and_none_is_ever_shown(
        self, cloud: Cloud, receiver: Receiver
    ) -> None:
        admin = await cloud.key("admin")
        webhook = await made(cloud, admin, receiver.url("/x"))
        path = f"/api/webhooks/{webhook['id']}"
        status, answer = await cloud.call("POST", f"{path}/rotate-secret", headers=admin)
        assert status == 200
        new = answer["data"]["secret"]
        assert new != webhook["secret"]
        assert answer["data"]["old_secret_until"] > answer["data"]["last_updated_at"]
        await announce(cloud, update("u1", 1))
        await receiver.until("/x", 1)
        got = receiver.got[0]
        for secret in (webhook["secret"], new):
            Webhook(secret).verify(got.body, got.headers)
        _, answer = await cloud.call("POST", f"{path}/rotate-secret", json={"keep_old_hours": 0}, headers=admin)
        last = answer["data"]["secret"]
        assert answer["data"]["old_secret_until"] is None
        await announce(cloud, update("u1", 2))
        await receiver.until("/x", 2)
        Webhook(last).verify(receiver.got[1].body, receiver.got[1].headers)
        assert " " not in receiver.got[1].headers["webhook-signature"]
        shown = ""
        for where in ("/api/webhooks", path, f"{path}/deliveries", "/api/audit?limit=100"):
            async with cloud.http.get(cloud.url + where, headers=admin) as reply:
                shown += await reply.text()
        assert "webhook.rotated" in shown
        assert not [secret for secret in (webhook["secret"], new, last) if secret in shown]

    async def test_every_change_stands_in_the_audit(self, lite: Cloud, receiver: Receiver) -> None:
        admin = await lite.key("admin")
        webhook = await made(lite, admin, receiver.url("/token-in-a-path"))
        path = f"/api/webhooks/{webhook['id']}"
        await lite.call("PATCH", path, json={"description": "x"}, headers=admin)
        await lite.call("PATCH", path, json={"description": "x"}, headers=admin)
        await lite.call("POST", f"{path}/rotate-secret", headers=admin)
        await lite.call("POST", f"{path}/test", headers=admin)
        await lite.call("POST", f"{path}/replay", json={"since": "2020-01-01T00:00:00Z"}, headers=admin)
        await lite.call("DELETE", path, headers=admin)
        _, answer = await lite.call("GET", f"/api/audit?target={webhook['id']}", headers=admin)
        entries = answer["data"][::-1]
        assert [each["action"] for each in entries] == [
            f"webhook.{verb}" for verb in ("created", "changed", "rotated", "tested", "replayed", "removed")
        ]
        assert all(each["actor"].startswith("key:k-") for each in entries)
        assert entries[0]["before_hash"] is None
        assert entries[1]["before_hash"] == entries[0]["after_hash"] != entries[1]["after_hash"]
        assert entries[2]["before_hash"] == entries[1]["after_hash"] != entries[2]["after_hash"]
        assert "token-in-a-path" not in str(entries)


class TestWhatIsTold:
    async def test_devices(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        kinds = ("device.enrolled", "device.failing", "device.recovered", "device.revoked")
        webhook = await made(cloud, admin, receiver.url("/x"), *kinds)
        device = await cloud.enroll("pi-1")
        event = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "internet_speed": 1.5}
        for number, errors in enumerate((1, 1, 1, 1, 0)):
            body = {**event, "event_id": f"e{number}", "total_files_synced": 1 - errors, "total_errors": errors}
            status, answer = await cloud.call("POST", "/api/sync-event", json=body, headers=device)
            assert status == 201, answer
        await identity.revoke(cloud.services.db, "pi-1", wall_ms())
        await receiver.until("/x", 4)
        assert [each.json["type"] for each in receiver.got] == [
            "device.enrolled", "device.failing", "device.recovered", "device.revoked",
        ]  # fmt: skip
        failing = receiver.got[1].json
        assert failing == {
            "id": receiver.got[1].id,
            "type": "device.failing",
            "resourceId": "pi-1",
            "resourceType": "device",
            "timestamp": failing["timestamp"],
            "data": {"deviceId": "pi-1", "consecutiveFailures": 3, "errorCode": None},
        }
        for each in receiver.got:
            Webhook(webhook["secret"]).verify(each.body, each.headers)

    async def test_uploads_once_each_and_refused_ones_not(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        await made(cloud, admin, receiver.url("/x"), "upload.completed")
        device = await Device.enroll(cloud)
        for data, claimed in ((b"one", sha256(b"one")), (b"bad", sha256(b"other")), (b"two", sha256(b"two"))):
            await device.upload(data, kind=b"file", path=b"a/\xff.txt", sha256=claimed.encode())
        await receiver.until("/x", 2)
        first = next(each.json for each in receiver.got if each.json["data"]["files"][0]["sha256"] == sha256(b"one"))
        assert first["resourceType"] == "upload"
        assert first["data"] == {
            "deviceId": "pi-1",
            "kind": "file",
            "state": "published",
            "bytes": 3,
            "published": 1,
            "reused": 0,
            "refused": 0,
            "files": [{"path": "a/\\xff.txt", "sha256": sha256(b"one"), "bytes": 3}],
        }

    async def test_records_in_the_order_of_their_changes(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        await made(cloud, admin, receiver.url("/x"), "profile.*")
        path = "/api/records/profile/u1"
        for method, fields in (("PUT", {"name": "A"}), ("PATCH", {"name": "B"}), ("PATCH", {"name": "B"})):
            status, answer = await cloud.call(method, path, json={"fields": fields}, headers=admin)
            assert status in (200, 201), answer
        assert (await cloud.call("DELETE", path, headers=admin))[0] == 200
        status, answer = await cloud.call("POST", f"{path}/sync", headers=admin)
        assert status == 200, answer
        told = [(each.json["type"], each.json["resourceType"], each.json["resourceId"]) for each in receiver.got]
        assert told == [(f"profile.{verb}", "profile", "u1") for verb in ("created", "updated", "deleted")]


class TestLogAndReplay:
    async def test_the_log_has_every_attempt(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        webhook = await made(cloud, admin, receiver.url("/x"))
        receiver.behave["/x"] = busy
        await announce(cloud, update("u1", 1))
        await cloud.services.dispatcher.process()
        receiver.behave["/x"] = 200
        await cloud.services.dispatcher.process("profile/u1")
        (entry,) = await log(cloud, admin, webhook["id"])
        assert (entry["state"], entry["attempts_total"], entry["type"]) == ("delivered", 2, "profile.updated")
        assert [(each["status_code"], each["error"], each["answer"]) for each in entry["attempts"]] == [
            (429, "http-status", "busy"), (200, None, "ok"),
        ]  # fmt: skip
        assert entry["event_id"] == receiver.got[0].id
        assert len(await log(cloud, admin, webhook["id"], "?state=delivered&type=profile.updated")) == 1
        assert await log(cloud, admin, webhook["id"], "?state=failed") == []
        assert await log(cloud, admin, webhook["id"], "?type=profile.created") == []

    async def test_pages(self, lite: Cloud, receiver: Receiver) -> None:
        admin = await lite.key("admin")
        webhook = await made(lite, admin, receiver.url("/x"))
        await announce(lite, *(update(f"u{n}", n) for n in range(7)))
        await logged(lite, admin, webhook["id"], 7)
        seen: list[int] = []
        cursor = ""
        while True:
            path = f"/api/webhooks/{webhook['id']}/deliveries?limit=3{cursor}"
            _, answer = await lite.call("GET", path, headers=admin)
            seen += [each["id"] for each in answer["data"]]
            assert answer["pagination"]["total"] == 7
            if not answer["pagination"]["next_cursor"]:
                break
            cursor = f"&cursor={answer['pagination']['next_cursor']}"
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == 7

    async def test_replay_of_one_and_of_a_time(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        webhook = await made(cloud, admin, receiver.url("/x"), "profile.*")
        path = f"/api/webhooks/{webhook['id']}"
        await announce(cloud, *(update("u1", n) for n in range(3)))
        first = (await logged(cloud, admin, webhook["id"], 3))[-1]
        status, answer = await cloud.call("POST", f"{path}/replay", json={"delivery_id": first["id"]}, headers=admin)
        assert (status, answer["data"]) == (202, {"replayed": 1})
        await receiver.until("/x", 4)
        assert (receiver.got[3].id, receiver.got[3].body) == (receiver.got[0].id, receiver.got[0].body)
        await logged(cloud, admin, webhook["id"], 4)
        span = {"since": receiver.got[0].json["timestamp"], "until": "2100-01-01T00:00:00Z"}
        status, answer = await cloud.call("POST", f"{path}/replay", json=span, headers=admin)
        assert (status, answer["data"]) == (202, {"replayed": 3})
        await receiver.until("/x", 7)
        assert receiver.numbers("/x")[4:] == [0, 1, 2]
        kinds = [each["kind"] for each in await logged(cloud, admin, webhook["id"], 7)]
        assert kinds == ["replay"] * 4 + ["event"] * 3
        nothing = {"since": "2000-01-01T00:00:00Z", "until": "2001-01-01T00:00:00Z"}
        assert (await cloud.call("POST", f"{path}/replay", json=nothing, headers=admin))[1]["data"]["replayed"] == 0
        for body, wanted in (
            ({"delivery_id": 999_999}, 404),
            ({}, 422),
            ({"delivery_id": 1, "since": span["since"]}, 422),
            ({"since": "yesterday"}, 422),
        ):
            assert (await cloud.call("POST", f"{path}/replay", json=body, headers=admin))[0] == wanted, body

    async def test_a_test_tells_what_came_back(self, cloud: Cloud, receiver: Receiver) -> None:
        admin = await cloud.key("admin")
        webhook = await made(cloud, admin, receiver.url("/x"), "profile.created")
        path = f"/api/webhooks/{webhook['id']}"
        status, answer = await cloud.call("POST", f"{path}/test", headers=admin)
        got = receiver.got[0]
        assert status == 200
        assert answer["data"] | {"duration_ms": 0} == {
            "event_id": got.id, "delivered": True, "status_code": 200, "duration_ms": 0, "error": None, "answer": "ok",
        }  # fmt: skip
        assert Webhook(webhook["secret"]).verify(got.body, got.headers)["type"] == "webhook.test"
        receiver.behave["/x"] = 410
        _, answer = await cloud.call("POST", f"{path}/test", headers=admin)
        assert (answer["data"]["delivered"], answer["data"]["error"]) == (False, "endpoint-gone")
        assert [(each["kind"], each["state"]) for each in await log(cloud, admin, webhook["id"])] == [
            ("test", "failed"), ("test", "delivered"),
        ]  # fmt: skip
        # A test decides nothing about the endpoint.
        _, answer = await cloud.call("GET", path, headers=admin)
        assert answer["data"]["state"] == "enabled"


def test_at_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_CLOUD_WEBHOOK_ALLOW", "127.0.0.0/8")

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "--data", str(tmp_path)])
        return code, *capsys.readouterr()

    run("enroll", "pi-1")
    code, _, error = run("webhook", "add", "https://10.0.0.1/")
    assert (code, "webhook_allow" in error) == (1, True)
    assert run("webhook", "add", "http://127.0.0.1:1/x", "--types", "")[0] == 1
    code, secret, _ = run("webhook", "add", "http://127.0.0.1:1/x", "--types", "profile.*,device.failing")
    assert (code, secret.startswith("whsec_")) == (0, True)
    code, listed, _ = run("webhook", "list")
    number = listed.splitlines()[1].split()[0]
    assert (code, "profile.* device.failing" in listed, "whsec_" in listed) == (0, True, False)
    code, other, _ = run("webhook", "rotate", number)
    assert (code, other.startswith("whsec_"), other == secret) == (0, True, False)
    code, told, error = run("webhook", "test", number)
    assert (code, "connect" in told, "did not come through" in error) == (1, True, True)
    assert run("webhook", "remove", number)[0] == 0
    assert run("webhook", "remove", number)[0] == 1
    assert run("webhook", "list")[1] == ""
