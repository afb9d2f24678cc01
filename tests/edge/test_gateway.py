"""The status socket: every route, every refusal, and the socket itself."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest

from pisyncd import hardware
from pisyncd.core.errors import AlreadyRunning
from pisyncd.core.vitals import Throttled
from pisyncd.ctl import render
from pisyncd.gateway.ports import LinkView, RootView, TransferView
from pisyncd.gateway.serving import MODE, SocketUnusable, bind, serving
from pisyncd.outbox.books import Cycle

from .gateway_rig import Rig, gateway


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


async def ask(rig: Rig, method: str, target: str, **more: Any) -> tuple[int, dict[str, Any], str]:
    """(status, JSON, content type)."""
    connector = aiohttp.UnixConnector(str(rig.socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        from yarl import URL

        async with session.request(method, URL(f"http://localhost{target}", encoded=True), **more) as answer:
            return answer.status, await answer.json(content_type=None), answer.content_type


async def get(rig: Rig, target: str) -> dict[str, Any]:
    status, body, kind = await ask(rig, "GET", target)
    assert (status, kind) == (200, "application/json"), body
    return body


async def why(rig: Rig, path: bytes | str) -> dict[str, Any]:
    return await get(rig, f"/why?path={quote(path)}")


async def test_status_of_a_quiet_device(rig: Rig) -> None:
    body = await get(rig, "/status")
    assert (body["device_id"], body["verdict"], body["summary"]) == ("pibox-0042", "ok", "online; nothing to send")
    assert body["queue"] == {
        "files": {"count": 0, "bytes": 0, "oldest_s": None},
        "messages": {"count": 0, "bytes": 0, "oldest_s": None},
        "by_class": [],
    }
    assert body["disk"]["free_bytes"] > 0
    assert body["disk"]["floor_bytes"] >= 250_000_000
    assert body["versions"]["python"]
    assert body["clock"]["up_s"] > 0
    assert body["roots"][0]["state"] == "watching"


async def test_a_weak_supply_and_a_worn_card_are_said_with_what_to_do(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "throttled", lambda: Throttled(under_voltage=True, under_voltage_since_boot=True))
    monkeypatch.setattr(hardware, "card_wear_percent", lambda: 100.0)
    monkeypatch.setattr(hardware, "temperature_c", lambda: 71.6)
    body = await get(rig, "/status")
    assert body["verdict"] == "ok", "it works; it is a remark"
    assert body["board"]["troubles"] == ["under-voltage"]
    assert [each.partition(" (")[0] for each in body["advice"][:2]] == [
        "the power supply is too weak", "the card is worn"
    ]  # fmt: skip
    assert "72 C, card worn 100 %, under-voltage" in "\n".join(render.status(body, 80))


async def test_status_counts_what_is_owed_by_class(rig: Rig) -> None:
    await rig.offer(b"a.json", b"12345", priority=9)
    await rig.offer(b"b.json", b"123", priority=1)
    body = await get(rig, "/status")
    names = {each["name"]: (each["count"], each["bytes"]) for each in body["queue"]["by_class"]}
    assert names["files, priority 9"] == (1, 5)
    assert names["files, priority 1"] == (1, 3)
    assert names["messages, event"][0] == 2
    assert body["queue"]["files"]["count"] == 2
    assert body["verdict"] == "sending"
    assert body["summary"].startswith("online; 2 files (8 B) and 2 messages to send")


async def test_status_shows_what_moves_with_rate_and_time_left(rig: Rig) -> None:
    await rig.offer(b"big.mp4", b"x" * 1000)
    transfer_id = await rig.begin(b"big.mp4")
    rig.memory.moving = [TransferView(id=transfer_id, offset=250, length=1000, rate_bps=50.0)]
    (moving,) = (await get(rig, "/status"))["transfers"]
    assert (moving["path"], moving["offset"], moving["length"]) == ("learning/big.mp4", 250, 1000)
    assert (moving["rate_bps"], moving["left_s"], moving["files"]) == (50.0, 15.0, 1)


async def test_a_transfer_that_ended_meanwhile_is_left_out(rig: Rig) -> None:
    rig.memory.moving = [TransferView(id=99, offset=0, length=1)]
    assert (await get(rig, "/status"))["transfers"] == []


@pytest.mark.parametrize(
    ("link", "verdict", "words"),
    [
        (LinkView(state="none", reason="no interface is up", hint="plug the cable in"), "offline", "no network"),
        (LinkView(state="limited", reason="no answer"), "offline", "the cloud does not answer"),
        (LinkView(state="portal", reason="a stranger", portal_url="http://p.example/"), "attention", "login page"),
        (LinkView(state="full", reason="proven"), "ok", "online"),
        (
            LinkView(state="full", reason="proven", fault_code="token-refused", fault_hint="enroll it again"),
            "attention",
            "1 thing needs attention",
        ),
    ],
)
async def test_offline_is_no_fault_but_a_portal_needs_a_person(
    rig: Rig, link: LinkView, verdict: str, words: str
) -> None:
    rig.memory.link_now = link
    body = await get(rig, "/status")
    assert (body["verdict"], words in body["summary"]) == (verdict, True)
    assert body["link"]["portal_url"] == link.portal_url
    if link.portal_url:
        assert any(link.portal_url in line for line in body["advice"])


async def test_a_cloud_that_asks_to_wait_is_neither_sending_nor_a_fault(rig: Rig) -> None:
    busy = LinkView(state="full", reason="proven", backoff_s=90.0, backoff_reason="503", fault_code="cloud-busy")
    rig.memory.link_now = busy
    assert (await get(rig, "/status"))["verdict"] == "ok"
    await rig.offer(b"a")
    body = await get(rig, "/status")
    assert body["verdict"] == "waiting"
    assert "503" in body["advice"][0]


async def test_what_is_wrong_comes_with_what_to_do(rig: Rig) -> None:
    await rig.offer(b"bad.json")
    await rig.refuse(b"bad.json")
    rig.memory.config_fault = "pisyncd.yaml:3: sync.interval_s: wrong"
    rig.memory.root_views = [
        RootView(name="learning", path="/srv", state="polling", detail="inotify limit", hint="raise it")
    ]
    body = await get(rig, "/status")
    assert body["verdict"] == "attention"
    advice = "\n".join(body["advice"])
    for words in ("pisyncctl failures", "sync.interval_s", "inotify limit", "raise it"):
        assert words in advice
    assert body["failures"][0]["code"] == "path-invalid"
    assert body["failures"][0]["final"] is True
    assert body["losses_total"] == 1


async def test_health_follows_progress(rig: Rig) -> None:
    assert await get(rig, "/healthz") == {"healthy": True, "stuck": []}
    rig.memory.stuck = ["watcher"]
    status, body, _ = await ask(rig, "GET", "/healthz")
    assert (status, body) == (503, {"healthy": False, "stuck": ["watcher"]})
    assert "watcher" in (await get(rig, "/status"))["advice"][0]


async def test_the_queue_is_in_the_order_of_sending_and_pages(rig: Rig) -> None:
    for number in range(5):
        await rig.offer(b"%d.json" % number, priority=1 + number)
    page = await get(rig, "/queue?limit=2")
    assert [(file["position"], file["path"]) for file in page["files"]] == [
        (1, "learning/4.json"),
        (2, "learning/3.json"),
    ]
    page = await get(rig, f"/queue?limit=3&skip={page['next_skip']}")
    assert [file["path"] for file in page["files"]] == [f"learning/{number}.json" for number in (2, 1, 0)]
    assert page["next_skip"] is None


async def test_history_pages_newest_first(rig: Rig) -> None:
    for number in range(3):
        cycle = Cycle(
            outcome="success",
            attempted=1,
            files_synced=number,
            errors=0,
            bytes_sent=10,
            speed_mbps=1.5,
            duration_ms=2500,
            error_code=None,
        )
        await rig.outbox.cycles.record(cycle, None)
    page = await get(rig, "/history?limit=2")
    assert [cycle["files_synced"] for cycle in page["cycles"]] == [2, 1]
    assert page["cycles"][0]["duration_s"] == 2.5
    rest = await get(rig, f"/history?before={page['next_before']}")
    assert [cycle["files_synced"] for cycle in rest["cycles"]] == [0]
    assert rest["next_before"] is None


async def test_why_tells_each_station_of_a_files_way(rig: Rig) -> None:
    path = f"{rig.root}/math/log.jsonl"
    await rig.offer(b"math/log.jsonl", b"x" * 100)
    assert (await why(rig, path))["code"] == "pending"
    rig.memory.is_paused = True
    assert "paused" in (await why(rig, path))["sentence"]
    rig.memory.is_paused = False
    await rig.postpone(b"math/log.jsonl", 600)
    body = await why(rig, path)
    assert (body["code"], "10 min" in body["sentence"], body["hint"]) == ("backing-off", True, "wait")
    await rig.outbox.files.retry()
    transfer_id = await rig.begin(b"math/log.jsonl")
    rig.memory.moving = [TransferView(id=transfer_id, offset=50, length=100)]
    body = await why(rig, path)
    assert (body["code"], "50 %" in body["sentence"]) == ("uploading", True)
    transfer = await rig.outbox.files.transfer(transfer_id)
    assert transfer is not None
    await rig.outbox.files.complete(transfer, bytes_sent=100, duration_ms=10)
    body = await why(rig, path)
    assert body["code"] == "complete"
    assert body["versions"][0]["sha256"] == "01" * 32
    (rig.root / "math/log.jsonl").write_bytes(b"longer than before" * 9)
    assert (await why(rig, path))["code"] == "changed"
    rig.memory.settling["learning", b"math/log.jsonl"] = 4.0
    assert (await why(rig, path))["code"] == "settling"
    (rig.root / "math/log.jsonl").unlink()
    assert (await why(rig, path))["code"] == "gone"


@pytest.mark.parametrize("form", ["{root}/a/b.json", "learning/a/b.json", "a/b.json", "{root}/./a//b.json"])
async def test_a_path_may_be_absolute_a_wire_path_or_relative(rig: Rig, form: str) -> None:
    await rig.offer(b"a/b.json")
    body = await why(rig, form.format(root=rig.root))
    assert (body["path"], body["root"], body["code"]) == ("learning/a/b.json", "learning", "pending")


async def test_why_says_what_is_never_sent_and_by_which_rule(rig: Rig) -> None:
    (rig.root / "cache/deep").mkdir(parents=True)
    for name in ("x.tmp", "cache/deep/y", "base.db", "base.db-wal"):
        (rig.root / name).write_bytes(b"1")
    (rig.root / "link").symlink_to("x.tmp")
    (rig.root / "linked").symlink_to("cache")
    os.mkfifo(rig.root / "pipe")
    expected = {
        "x.tmp": ("excluded", "`*.tmp`"),
        "cache/deep/y": ("excluded", "`cache/**`"),
        "link": ("symlink", "symbolic link"),
        "linked/deep/y": ("symlink", "learning/linked/deep/y"),
        "pipe": ("special", "pipe"),
        "cache": ("directory", "directory"),
        "base.db-wal": ("companion", "snapshot"),
        "base.db": ("unseen", "not noticed yet"),
        "nothing": ("unknown", "never seen"),
    }
    for name, (code, words) in expected.items():
        body = await why(rig, f"learning/{name}")
        assert (name, body["code"]) == (name, code)
        assert words in body["sentence"]
    for path in ("/etc/passwd", "../etc/passwd", f"{rig.root}-other/x"):
        assert (await why(rig, path))["code"] == "not-watched"


async def test_why_with_includes_and_without_the_root(rig: Rig) -> None:
    (root,) = rig.memory.config.watch
    only = msgspec.structs.replace(root, include=("*.jsonl",))
    rig.memory.config = msgspec.structs.replace(rig.memory.config, watch=(only,))
    (rig.root / "a.txt").write_bytes(b"1")
    assert (await why(rig, "learning/a.txt"))["code"] == "not-included"
    gone = msgspec.structs.replace(root, path=rig.root / "unplugged")
    rig.memory.config = msgspec.structs.replace(rig.memory.config, watch=(gone,))
    assert (await why(rig, "learning/a.txt"))["code"] == "root-missing"


async def test_a_root_behind_a_link_is_found(rig: Rig, tmp_path: Path) -> None:
    await rig.offer(b"a.json")
    (tmp_path / "elsewhere").symlink_to(rig.root)
    assert (await why(rig, f"{tmp_path}/elsewhere/a.json"))["code"] == "pending"


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"new\nline", "übung.json".encode(), b"%41", b"a+b c", b"x" * 255])
async def test_any_name_that_a_disk_can_hold_can_be_asked_for(rig: Rig, name: bytes) -> None:
    await rig.offer(name)
    for target in (name, b"learning/" + name, os.fsencode(rig.root) + b"/" + name):
        body = await why(rig, target)
        assert (body["code"], body["root"]) == ("pending", "learning")
    (file,) = (await get(rig, "/queue"))["files"]
    assert (file["path_b64"] is None) == (name not in (b"caf\xe9.txt", b"new\nline"))


async def test_retry_by_id_by_path_and_all(rig: Rig) -> None:
    first = await rig.offer(b"one")
    await rig.offer(b"two")
    await rig.offer(b"three")
    for name in (b"one", b"two"):
        await rig.refuse(name)
    await rig.postpone(b"three", 1000)
    status, body, _ = await ask(rig, "POST", "/retry", json={"id": first})
    assert (status, body["files"]) == (200, 1)
    status, body, _ = await ask(rig, "POST", "/retry", json={"path": f"{rig.root}/two"})
    assert (status, body["files"]) == (200, 1)
    status, body, _ = await ask(rig, "POST", "/retry", json={"all": True})
    assert (status, body["files"]) == (200, 1)
    left = (await get(rig, "/failures"))["failures"]
    assert [(each["final"], each["next_try_s"]) for each in left] == [(False, 0.0)] * 3


async def test_retry_of_a_name_that_json_cannot_hold(rig: Rig) -> None:
    await rig.offer(b"caf\xe9")
    await rig.refuse(b"caf\xe9")
    name = base64.b64encode(os.fsencode(rig.root) + b"/caf\xe9").decode()
    status, body, _ = await ask(rig, "POST", "/retry", json={"path_b64": name})
    assert (status, body["files"]) == (200, 1)


async def test_failures_and_losses_are_listed_with_hints(rig: Rig) -> None:
    await rig.offer(b"caf\xe9")
    await rig.refuse(b"caf\xe9")
    await rig.offer(b"later")
    await rig.postpone(b"later", 60)
    body = await get(rig, "/failures")
    final, later = body["failures"]
    assert (final["final"], final["path"], final["next_try_s"]) == (True, "learning/caf\\xe9", None)
    assert final["path_b64"] is not None
    assert later["final"] is False
    assert 0 < later["next_try_s"] <= 60
    assert body["losses"][0]["what"] == "file-refused"
    assert (body["total"], body["losses_total"]) == (1, 1)


async def test_requests_reach_the_daemon(rig: Rig) -> None:
    assert (await ask(rig, "POST", "/sync"))[0] == 202
    assert (await ask(rig, "POST", "/probe", data=b"ignored"))[0] == 202
    assert rig.memory.asked == ["sync", "probe"]
    assert (await ask(rig, "POST", "/pause"))[0] == 200
    assert rig.memory.is_paused
    body = await get(rig, "/status")
    assert (body["paused"], body["verdict"]) == (True, "paused")
    assert (await ask(rig, "POST", "/resume"))[0] == 200
    assert not rig.memory.is_paused


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "route-unknown"),
        ("GET", "/status/", None, 404, "route-unknown"),
        ("POST", "/status", None, 405, "method-not-allowed"),
        ("GET", "/sync", None, 405, "method-not-allowed"),
        ("DELETE", "/queue", None, 405, "method-not-allowed"),
        ("GET", "/status?x=1", None, 400, "query-invalid"),
        ("POST", "/sync?now=1", None, 400, "query-invalid"),
        ("GET", "/queue?limit=0", None, 422, "query-invalid"),
        ("GET", "/queue?limit=501", None, 422, "query-invalid"),
        ("GET", "/queue?limit=x", None, 422, "query-invalid"),
        ("GET", "/queue?limit=%D9%A3", None, 422, "query-invalid"),
        ("GET", "/queue?limit=1&limit=2", None, 400, "query-invalid"),
        ("GET", "/queue?skip=-1", None, 422, "query-invalid"),
        ("GET", "/history?before=99999999999999999999", None, 422, "query-invalid"),
        ("GET", "/why", None, 422, "path-missing"),
        ("GET", "/why?path=", None, 422, "path-missing"),
        ("GET", "/why?path=a%00b", None, 422, "path-invalid"),
        ("GET", "/why?path=" + "x" * 5000, None, 422, "path-invalid"),
        ("GET", "/why?" + "&".join(f"p{n}=1" for n in range(30)), None, 400, "query-invalid"),
        ("POST", "/retry", b"", 422, "body-invalid"),
        ("POST", "/retry", b"{}", 422, "body-invalid"),
        ("POST", "/retry", b"nonsense", 400, "body-invalid"),
        ("POST", "/retry", b"\xff\xfe", 400, "body-invalid"),
        ("POST", "/retry", b"[1]", 422, "body-invalid"),
        ("POST", "/retry", b'{"id": "7"}', 422, "body-invalid"),
        ("POST", "/retry", b'{"id": 7, "all": true}', 422, "body-invalid"),
        ("POST", "/retry", b'{"id": 99999999999999999999}', 422, "body-invalid"),
        ("POST", "/retry", b'{"id": -1}', 422, "body-invalid"),
        ("POST", "/retry", b'{"what": 1}', 422, "body-invalid"),
        ("POST", "/retry", b'{"id": 12345}', 404, "file-unknown"),
        ("POST", "/retry", b'{"path": "/etc/passwd"}', 404, "file-unknown"),
        ("POST", "/retry", b'{"path": "\\ud800"}', 400, "body-invalid"),
        ("POST", "/retry", b'{"path": ""}', 422, "path-missing"),
        ("POST", "/retry", b'{"path_b64": ""}', 422, "path-missing"),
        ("POST", "/retry", b'{"path_b64": "AA=="}', 422, "path-invalid"),
        ("POST", "/retry", b'{"path_b64": "?"}', 422, "body-invalid"),
        ("POST", "/retry", b" " * 70_000, 413, "body-too-large"),
    ],
)
async def test_bad_input_is_a_problem_with_a_code(
    rig: Rig, method: str, target: str, body: bytes | None, status: int, code: str
) -> None:
    answered, problem, kind = await ask(rig, method, target, data=body)
    assert (answered, problem.get("code"), kind) == (status, code, "application/problem+json")
    assert problem["type"] == f"urn:pisync:problem:{code}"
    assert problem["status"] == status
    assert problem["detail"]


async def test_raw_rubbish_on_the_socket_is_answered_and_harms_nobody(rig: Rig) -> None:
    reader, writer = await asyncio.open_unix_connection(rig.socket)
    writer.write(b"\x16\x03\x01 not http\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.")
    writer.close()
    assert (await get(rig, "/healthz"))["healthy"]


async def test_a_fault_inside_is_a_500_with_an_id_and_the_daemon_goes_on(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    await rig.outbox.db.reader.close()
    status, problem, _ = await ask(rig, "GET", "/queue")
    assert (status, problem["code"]) == (500, "internal")
    assert problem["request_id"] in problem["hint"]
    assert (await get(rig, "/healthz"))["healthy"]


async def test_the_socket_is_for_its_group_and_gone_after_the_stop(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig:
        mode = rig.socket.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
    assert not rig.socket.exists()


async def test_a_dead_daemons_socket_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "run/pisyncd.sock"))
    left.close()
    async with gateway(tmp_path) as rig:
        assert (await get(rig, "/healthz"))["healthy"]


async def test_a_living_daemons_socket_is_left_alone(rig: Rig) -> None:
    with pytest.raises(AlreadyRunning):
        async with serving(rig.memory, rig.outbox):
            pass
    assert (await get(rig, "/healthz"))["healthy"]


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pisyncd.sock"
    path.write_text("precious")
    with pytest.raises(SocketUnusable, match="is not a socket"):
        await bind(path, "root")
    assert path.read_text() == "precious"
    with pytest.raises(SocketUnusable, match="longer than"):
        await bind(tmp_path / ("x" * 120), "root")
    with pytest.raises(SocketUnusable):
        await bind(path / "below-a-file", "root")


async def test_without_a_socket_the_daemon_goes_on(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    rig.memory.config = msgspec.structs.replace(rig.memory.config, runtime_dir=tmp_path / "file")
    async with serving(rig.memory, rig.outbox) as path:
        assert path is None


async def test_a_group_that_does_not_exist_is_no_obstacle(tmp_path: Path) -> None:
    listener = await bind(tmp_path / "pisyncd.sock", "no-such-group")
    assert stat.S_IMODE((tmp_path / "pisyncd.sock").stat().st_mode) == MODE
    listener.close()


async def test_answers_are_json_with_a_newline_for_curl(rig: Rig) -> None:
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", "--unix-socket", str(rig.socket), "http://pisync/healthz", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.endswith(b"\n")
    assert json.loads(out)["healthy"] is True


async def test_a_folder_named_like_its_root_is_not_mistaken_for_it(rig: Rig) -> None:
    await rig.offer(b"learning/a.json")
    for path in ("learning/a.json", "learning/learning/a.json"):
        assert (await why(rig, path))["path"] == "learning/learning/a.json"
    await rig.offer(b"a.json")
    assert (await why(rig, "learning/a.json"))["path"] == "learning/a.json"
    assert (await why(rig, "learning/nothing"))["code"] == "unknown"
