"""RecordsClient, both faces, against a server on a real socket that answers by docs/records.md."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pisyncd.client import ClientError, Record, RecordsClient, blocking
from pisyncd.core import merge, record, recordwire
from pisyncd.core.problems import Refusal

from .rig import Asked, Server, problem, program

WRITER = "d-5f0c8e21aa03b7c4"


class Book:
    """Records in memory, reconciled by the device's own rules, answered as the contract says."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], record.State] = {}
        self.queries: list[str] = []
        self.offline = False

    async def answer(self, request: web.Request) -> web.Response:
        self.queries.append(request.query_string)
        try:
            return self._answered(request, await request.json() if request.can_read_body else {})
        except Refusal as refusal:
            return problem(refusal.status, refusal.code, **refusal.headers)

    def _answered(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        record_type, record_id = request.match_info["type"], request.match_info.get("id")
        if record_type not in record.BUILT_IN:
            raise recordwire.type_unknown(record_type, record.BUILT_IN)
        deleted = request.query.get("deleted") == "true"
        if record_id is None:
            return self._page(request, record_type, deleted)
        if request.path.endswith("/sync") and self.offline:
            raise Refusal(503, "offline", "the cloud cannot be reached", hint="it stays queued")
        rule, key = record.BUILT_IN[record_type], (record_type, record_id)
        state = self.states.get(key, record.EMPTY)
        seen = merge.view(state, rule)
        if not (seen.present or (seen.exists and deleted)) and request.method != "PUT":
            raise recordwire.unknown(*key)
        if (wanted := request.headers.get("If-Match")) and wanted != f'"{record.etag(state)}"':
            raise recordwire.stale(record.etag(state))
        pen = merge.Pen.of_device(WRITER, 1_800_000_000_000, trusted=True)
        if request.method in ("PUT", "PATCH"):
            write = merge.put if request.method == "PUT" else merge.patch
            self.states[key] = write(state, rule, body["fields"], pen)
        elif request.method == "DELETE":
            self.states[key] = merge.delete(state, rule, pen)
        return web.json_response({"success": True, "data": self._shown(key)})

    def _page(self, request: web.Request, record_type: str, deleted: bool) -> web.Response:
        ids = sorted(each for kind, each in self.states if kind == record_type)
        ids = [each for each in ids if each > request.query.get("cursor", "")]
        ids = [each for each in ids if deleted or not self._shown((record_type, each))["deleted"]]
        page = ids[: int(request.query.get("limit", "100"))]
        following = page[-1] if len(ids) > len(page) else None
        data = [self._shown((record_type, each)) for each in page]
        return web.json_response({"success": True, "data": data, "pagination": {"next_cursor": following}})

    def _shown(self, key: tuple[str, str]) -> dict[str, Any]:
        state = self.states[key]
        seen = merge.view(state, record.BUILT_IN[key[0]])
        brief = {"id": "cf_1", "field": "percent", "open": False, "explanation": "percent: 85 was kept over 80."}
        return {
            "type": key[0],
            "id": key[1],
            "fields": dict(seen.fields),
            "deleted": seen.deleted,
            "version": state.version,
            "etag": record.etag(state),
            "last_updated_at": "2026-03-02T08:00:00.000Z",
            "last_synced_at": None,
            "sync_status": "pending",
            "conflicts": [brief] if "percent" in seen.fields else [],
        }


class BookServer(Server):
    """The rig's server with a book behind its routes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.book = Book()

    async def _answer(self, request: web.Request) -> web.Response:
        parts = request.path.split("/")
        if parts[:3] != ["", "api", "records"]:
            return await super()._answer(request)
        request.match_info.update(dict(zip(("type", "id"), parts[3:5], strict=False)))
        headers = dict(request.headers)
        if forced := self.answering(Asked(method=request.method, path=request.path, headers=headers, body=None)):
            return forced
        return await self.book.answer(request)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BookServer]:
    made = BookServer(tmp_path / "pisyncd.sock")
    made.start()
    yield made
    made.stop()


class Both:
    """One of the two faces, called the same way."""

    def __init__(self, face: str, **options: Any) -> None:
        self.client: Any = RecordsClient(**options) if face == "async" else blocking.RecordsClient(**options)

    async def __call__(self, verb: str, *arguments: Any, **more: Any) -> Any:
        if isinstance(self.client, RecordsClient):
            answer = getattr(self.client, verb)(*arguments, **more)
            return [each async for each in answer] if inspect.isasyncgen(answer) else await answer
        answer = await asyncio.to_thread(getattr(self.client, verb), *arguments, **more)
        return await asyncio.to_thread(list, answer) if inspect.isgenerator(answer) else answer


@pytest.fixture(params=["async", "blocking"])
async def call(request: pytest.FixtureRequest, server: BookServer) -> AsyncIterator[Both]:
    yield Both(request.param, socket=server.path)


async def test_a_record_is_made_read_changed_and_deleted(call: Both) -> None:
    assert await call("get", "progress", "prog_1") is None
    made = await call("put", "progress", "prog_1", {"percent": 40, "moduleId": "m"})
    assert (made.fields, made.version, made.sync_status) == ({"percent": 40, "moduleId": "m"}, {WRITER: 1}, "pending")
    assert made.conflicts[0].explanation.startswith("percent: 85") and not made.conflicts[0].open
    read = await call("get", "progress", "prog_1")
    assert read == made and isinstance(read, Record)
    patched = await call("patch", "progress", "prog_1", {"percent": 75, "moduleId": None})
    assert patched.fields == {"percent": 75}
    gone = await call("delete", "progress", "prog_1")
    assert gone.deleted and gone.fields == {}
    assert await call("get", "progress", "prog_1") is None
    assert (await call("get", "progress", "prog_1", deleted=True)).deleted
    with pytest.raises(AttributeError):
        gone.deleted = False


async def test_a_list_goes_over_all_pages_and_stops_where_it_is_told(call: Both, server: BookServer) -> None:
    pen = merge.Pen.of_cloud("c-91aa", 1)
    for number in range(250):
        state = merge.put(record.EMPTY, record.BUILT_IN["profile"], {"n": number}, pen)
        server.book.states["profile", f"u{number:03d}"] = state
    await call("delete", "profile", "u007")
    ids = [each.id for each in await call("list", "profile")]
    assert len(ids) == 249 and ids == sorted(ids) and "u007" not in ids
    assert len(await call("list", "profile", deleted=True)) == 250
    server.book.queries.clear()
    assert [each.id for each in await call("list", "profile", limit=3)] == ["u000", "u001", "u002"]
    assert server.book.queries == ["limit=3"]
    assert len(await call("list", "profile", limit=101)) == 101
    assert await call("list", "profile", limit=0) == [] and await call("list", "enrollment") == []


async def test_a_conditional_write_tells_that_it_came_too_late(call: Both) -> None:
    first = await call("put", "profile", "u1", {"language": "de"})
    second = await call("put", "profile", "u1", {"language": "fr"}, if_match=first)
    assert second.etag != first.etag
    for late in (first, first.etag):
        with pytest.raises(ClientError) as refused:
            await call("patch", "profile", "u1", {"language": "it"}, if_match=late)
        assert (refused.value.code, refused.value.status, refused.value.retryable) == ("version-mismatch", 412, False)
    with pytest.raises(ClientError):
        await call("delete", "profile", "u1", if_match=first)
    assert (await call("get", "profile", "u1")).fields == {"language": "fr"}


async def test_an_update_begins_anew_when_somebody_was_first(call: Both, server: BookServer) -> None:
    await call("put", "profile", "u1", {"visits": [1]})
    other = blocking.RecordsClient(socket=server.path)
    meddled, until = 0, 2

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        nonlocal meddled
        if meddled < until:
            meddled += 1
            thread = threading.Thread(target=other.patch, args=("profile", "u1", {f"by_other_{meddled}": True}))
            thread.start()
            thread.join()
        return {**fields, "visits": [*fields["visits"], 2]}

    changed = await call("update", "profile", "u1", change, tries=3)
    assert changed.fields == {"visits": [1, 2], "by_other_1": True, "by_other_2": True}
    until = 4
    with pytest.raises(ClientError) as lost:
        await call("update", "profile", "u1", change, tries=2)
    assert lost.value.code == "version-mismatch" and meddled == 4
    in_place = await call("update", "profile", "u1", lambda fields: fields["visits"].append(3))
    assert in_place.fields["visits"] == [1, 2, 3]
    with pytest.raises(ClientError) as missing:
        await call("update", "profile", "u2", change)
    assert (missing.value.code, missing.value.status) == ("record-unknown", 404)
    with pytest.raises(ZeroDivisionError):
        await call("update", "profile", "u1", lambda fields: 1 // 0)


def test_nothing_is_lost_when_many_threads_update(server: BookServer) -> None:
    client = blocking.RecordsClient(socket=server.path)
    client.put("profile", "u1", {"seen": []})

    def add(number: int) -> None:
        client.update("profile", "u1", lambda fields: {"seen": [*fields["seen"], number]}, tries=100)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(20)))
    record_now = client.get("profile", "u1")
    assert record_now is not None and sorted(record_now.fields["seen"]) == list(range(20))


async def test_sync_now_waits_for_both_directions_or_says_why_not(call: Both, server: BookServer) -> None:
    await call("put", "enrollment", "e1", {"courseId": "c"})
    await call("put", "profile", "u1", {"language": "de"})
    assert (await call("sync_enrollment_now", "e1")).fields == {"courseId": "c"}
    assert (await call("sync_profile_now", "u1")).id == "u1"
    server.book.offline = True
    with pytest.raises(ClientError) as offline:
        await call("sync_now", "profile", "u1")
    assert (offline.value.code, offline.value.status, offline.value.retryable) == ("offline", 503, True)
    hold = threading.Event()
    server.answering = lambda asked: (hold.wait(60), None)[1] if asked.path.endswith("/sync") else None
    with pytest.raises(ClientError) as slow:
        await call("sync_now", "profile", "u1", timeout_s=0.05)
    hold.set()
    assert (slow.value.code, slow.value.status, slow.value.retryable) == ("no-answer", None, True)
    assert "0.05 s" in slow.value.detail and "same again is safe" in slow.value.hint


async def test_in_the_cloud_sync_now_gives_the_record_after_its_webhooks(call: Both, server: BookServer) -> None:
    await call("put", "profile", "u1", {"language": "de"})
    delivered = web.json_response({"success": True, "data": {"deliveries": []}})
    server.answering = lambda asked: delivered if asked.path.endswith("/sync") else None
    assert (await call("sync_profile_now", "u1")).fields == {"language": "de"}


def _said(text: str, asked: Asked) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def _noted(tokens: list[str | None], asked: Asked) -> None:
    tokens.append(asked.headers.get("Authorization"))


async def test_what_is_wrong_is_said(call: Both, server: BookServer, tmp_path: Path) -> None:
    with pytest.raises(ClientError) as unknown:
        await call("get", "nonsense", "x")
    assert (unknown.value.code, unknown.value.status) == ("record-type-unknown", 404)
    for verb in ("put", "patch"):
        for fields in ({"odd": object()}, {"nan": float("nan")}, ["no", "fields"]):
            with pytest.raises(ClientError) as wrong:
                await call(verb, "profile", "u1", fields)
            assert wrong.value.code == "request-invalid"
    with pytest.raises(ClientError) as header:
        await call("put", "profile", "u1", {}, if_match="x\r\nInjected: yes")
    assert header.value.code == "request-invalid"
    for text in ("<html>login</html>", "[]", "{}", '{"data": {"type": "profile"}}', '{"data": {"conflicts": 3}}'):
        server.answering = partial(_said, text)
        with pytest.raises(ClientError) as strange:
            await call("get", "profile", "u1")
        assert strange.value.code == "answer-strange" and strange.value.retryable


async def test_a_page_that_comes_for_ever_is_not_read_for_ever(call: Both, server: BookServer) -> None:
    made = await call("put", "profile", "u1", {"language": "de"})
    whole = {"type": "profile", "id": "u1", "fields": {}, "version": made.version, "etag": made.etag, "deleted": False}
    page = json.dumps({"data": [whole], "pagination": {"next_cursor": "same"}})
    server.answering = partial(_said, page)
    assert len(await call("list", "profile")) == 2


async def test_a_daemon_that_is_away_and_an_address_with_a_token(server: BookServer, tmp_path: Path) -> None:
    for face in ("async", "blocking"):
        away = Both(face, socket=tmp_path / "none.sock")
        with pytest.raises(ClientError) as silent:
            await away("put", "profile", "u1", {})
        assert (silent.value.code, silent.value.retryable) == ("not-running", True)
        assert "queue" not in silent.value.hint
        asked: list[str | None] = []
        server.answering = partial(_noted, asked)
        there = Both(face, url=f"http://127.0.0.1:{server.port}", token="one")
        await there("put", "profile", "u1", {})
        there.client.set_token("two")
        assert (await there("get", "profile", "u1")).fields == {}
        assert asked == ["Bearer one", "Bearer two"]
        with pytest.raises(ValueError, match="token"):
            there.client.set_token("a b")
    with pytest.raises(ValueError, match="https"):
        RecordsClient(url="http://cloud.example.org")
    with pytest.raises(TypeError, match="flush_s"):
        blocking.RecordsClient(flush_s=3)  # type: ignore[call-arg]


async def test_the_loop_turns_while_a_list_is_read_and_it_can_be_left(server: BookServer) -> None:
    client = RecordsClient(socket=server.path)
    for number in range(3):
        await client.put("profile", f"u{number}", {"n": number})
    async for found in client.list("profile"):
        assert found.id == "u0"
        break
    loop, turned = asyncio.get_running_loop(), asyncio.Event()
    server.answering = lambda asked: asyncio.run_coroutine_threadsafe(turned.wait(), loop).result(60) and None
    reading = asyncio.create_task(client.get("profile", "u1"))
    loop.call_soon(turned.set)
    assert (await reading) is not None
    turned.clear()

    async def read_all() -> list[Record]:
        return [each async for each in client.list("profile")]

    waiting = asyncio.create_task(read_all())
    while not server.book.queries or not waiting:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    turned.set()


def test_only_the_standard_library_is_needed(server: BookServer) -> None:
    code = """
import sys
from pisyncd.client.blocking import RecordsClient
client = RecordsClient(socket=sys.argv[1])
print(client.put("profile", "u1", {"language": "de"}).fields["language"])
"""
    child = program(code, str(server.path))
    try:
        said, errors = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    assert said == "de\n", errors
