"""The one HTTP client against real sockets: what each answer of a server, or of a stranger, comes to."""

import asyncio

import pytest
from aiohttp import web

from pisyncd.answers import ChunkMismatch
from pisyncd.core import wire
from pisyncd.core.errors import (
    CloudBusy,
    CursorExpired,
    LinkDown,
    OffsetMismatch,
    Rejected,
    StorageBusy,
    TokenRefused,
    TooLarge,
    UploadGone,
)
from pisyncd.meters import Goodput
from pisyncd.uplink import Uplink

TOKEN = "a-token"


class Server:
    """Answers every request with what the test has laid down, with or without the proof."""

    def __init__(self):
        self.status, self.headers, self.body, self.proves = 200, {}, b"", True
        self.requests, self.queries, self.holds, self.holding = [], [], None, True

    async def answer(self, request):
        self.requests.append((request.method, request.path, dict(request.headers), await request.read()))
        self.queries.append(dict(request.query))
        if self.holds is not None and self.holding:
            await self.holds.wait()
        challenge = request.headers.get(wire.CHALLENGE_HEADER, "")
        proof = {wire.PROOF_HEADER: wire.proof(TOKEN, challenge)} if self.proves else {}
        return web.Response(status=self.status, headers={**proof, **self.headers}, body=self.body)


@pytest.fixture
async def server(aiohttp_server):
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    made.url = str((await aiohttp_server(app)).make_url("/"))
    return made


@pytest.fixture
async def uplink(server):
    made = make(server.url)
    yield made
    await made.close()


def make(url, **more):
    seen = []
    uplink = Uplink(
        url=url,
        token=TOKEN,
        connect_timeout_s=5,
        stall_s=more.get("stall_s", 5),
        ca_file=None,
        seen=lambda *observed: seen.append(observed),
        told_time=seen.append,
        goodput=Goodput(),
    )
    uplink.seen = seen
    return uplink


async def test_a_proven_answer_counts_and_tells_the_time(server, uplink):
    server.body = b'{"proof": "x", "server_time": "2026-01-01T00:00:00Z"}'
    server.headers = {wire.TIME_HEADER: "1700000000000"}
    assert (await uplink.probe(5)).server_time == "2026-01-01T00:00:00Z"
    assert uplink.seen == [("proven", "our cloud has proven itself", None), 1_700_000_000_000]
    method, path, headers, _ = server.requests[0]
    assert (method, path) == ("GET", "/api/probe")
    assert headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("status", "headers", "portal"),
    [
        (200, {}, None),
        (204, {"Upload-Offset": "5"}, None),
        (302, {"Location": "http://portal.example/login"}, "http://portal.example/login"),
        (404, {}, None),
        (401, {}, None),
    ],
)
async def test_a_strangers_answer_is_no_answer(server, uplink, status, headers, portal):
    server.proves, server.status, server.headers = False, status, {**headers, wire.TIME_HEADER: "1"}
    with pytest.raises(LinkDown) as caught:
        await uplink.append(f"{server.url}api/files/1", 0, b"abc", {})
    assert caught.value.code == "portal"
    assert caught.value.portal_url == portal or portal is None
    assert [each[0] for each in uplink.seen] == ["portal"], "a stranger does not tell the time either"


async def test_a_proxy_that_is_busy_is_neither_a_portal_nor_proof(server, uplink):
    server.proves, server.status, server.headers = False, 503, {"Retry-After": "17"}
    with pytest.raises(CloudBusy) as caught:
        await uplink.head(f"{server.url}api/files/1")
    assert caught.value.retry_after_s == 17
    assert [each[0] for each in uplink.seen] == ["cloud-busy"]


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (401, {}, TokenRefused),
        (403, {}, Rejected),
        (404, {}, UploadGone),
        (410, {}, UploadGone),
        (409, {"Upload-Offset": "42"}, OffsetMismatch),
        (409, {}, Rejected),
        (413, {}, TooLarge),
        (415, {}, Rejected),
        (422, {}, Rejected),
        (423, {}, CloudBusy),
        (429, {"Retry-After": "3"}, CloudBusy),
        (460, {}, ChunkMismatch),
        (500, {}, CloudBusy),
        (507, {}, StorageBusy),
    ],
)
async def test_each_refusal_has_its_class(server, uplink, status, headers, error):
    server.status, server.headers = status, headers
    with pytest.raises(error) as caught:
        await uplink.append(f"{server.url}api/files/1", 0, b"abc", {})
    assert type(caught.value) is error
    if error is OffsetMismatch:
        assert caught.value.offset == 42


async def test_the_clouds_own_words_reach_the_technician(server, uplink):
    server.status = 422
    server.body = (
        b'{"type":"urn:pisync:problem:path-invalid","title":"x","status":422,"detail":"the path is empty",'
        b'"code":"path-invalid","hint":"rename it"}'
    )
    with pytest.raises(Rejected) as caught:
        await uplink.create(length=3, metadata={"path": b""})
    assert (caught.value.code, caught.value.detail, caught.value.hint) == (
        "path-invalid",
        "the path is empty",
        "rename it",
    )


@pytest.mark.parametrize("location", ["http://elsewhere.example/api/files/1", "//elsewhere.example/x", ""])
async def test_an_upload_address_elsewhere_never_gets_the_token(server, uplink, location):
    server.status, server.headers = 201, {"Location": location}
    if location.startswith("//"):
        progress = await uplink.create(length=3, metadata={})
        assert progress.url.startswith(server.url)
        return
    with pytest.raises(Rejected) as caught:
        await uplink.create(length=3, metadata={})
    assert caught.value.code == "location-invalid"


@pytest.mark.parametrize("offset", ["-1", "1e3", "", "٣", "9" * 30])
async def test_an_offset_that_is_no_number_is_not_believed(server, uplink, offset):
    server.status, server.headers = 204, {"Upload-Offset": offset}
    with pytest.raises(CloudBusy):
        await uplink.append(f"{server.url}api/files/1", 0, b"abc", {})


async def test_an_answer_that_is_no_json_is_trouble_that_passes(server, uplink):
    server.body = b"<html>"
    with pytest.raises(CloudBusy) as caught:
        await uplink.probe(5)
    assert caught.value.code == "answer-invalid"


async def test_nobody_there_is_a_dead_link():
    uplink = make("http://127.0.0.1:9")
    with pytest.raises(LinkDown):
        await uplink.probe(2)
    assert [each[0] for each in uplink.seen] == ["no-answer"]
    await uplink.close()


async def test_a_server_that_never_answers_is_a_stalled_link():
    async def swallow(reader, writer):
        while await reader.read(65536):
            pass

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    uplink = make(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    with pytest.raises(LinkDown) as caught:
        await uplink.probe(0.1)
    assert caught.value.code == "link-stalled"
    await uplink.close()
    silent.close()


async def test_what_was_sent_is_counted(server, uplink):
    server.status, server.headers = 204, {"Upload-Offset": "300000"}
    await uplink.append(f"{server.url}api/files/1", 0, bytes(300_000), {})
    totals = uplink.goodput.totals()
    assert totals.sent_bytes == 300_000
    assert totals.active_s > 0
    assert server.requests[0][3] == bytes(300_000)


def ask(uplink, **more):
    asked = {"since": None, "wait_s": 0.0, "limit": 5, "rules_etag": "e", "timeout_s": 5.0, **more}
    return uplink.changes(**asked)


PAGE = b'{"data":{"changes":[{"type":"profile","id":"u","gone":true}],"cursor":"k.1","more":false,"rules_etag":"e"}}'


async def test_changes_are_asked_for_as_the_cloud_wants_it(server, uplink):
    server.body = PAGE
    page = await ask(uplink, since="k&x.1", types=("profile", "progress"), wait_s=300.0)
    assert (page.changes[0].gone, page.cursor) == (True, "k.1")
    assert server.queries == [
        {"since": "k&x.1", "types": "profile,progress", "wait": "300", "limit": "5", "rules": "e"}
    ]
    await ask(uplink)
    assert server.queries[1] == {"limit": "5", "rules": "e"}
    assert uplink.goodput.totals() == (0, 0.0), "a wait is no transfer"


async def test_a_cursor_that_has_expired_is_not_a_lost_upload(server, uplink):
    server.status, server.body = (
        410,
        b"""{"type":"x","title":"x","status":410,"detail":"old","code":"cursor-expired",
        "snapshot":"/api/changes"}""",
    )
    with pytest.raises(CursorExpired):
        await ask(uplink)


async def test_a_request_that_is_held_outlasts_the_patience_for_others_and_holds_none_of_them_up(server, uplink):
    server.body, server.holds = PAGE, asyncio.Event()
    waiting = asyncio.create_task(ask(uplink, wait_s=60.0, timeout_s=0.05))
    while not server.queries:
        await asyncio.sleep(0)
    server.holding = False
    for _ in range(30):
        with pytest.raises(CloudBusy):
            await uplink.probe(5)
    assert not waiting.done()
    server.holds.set()
    assert (await waiting).cursor == "k.1"


async def test_a_request_that_is_held_for_longer_than_promised_is_a_stalled_link(server, uplink):
    server.holds = asyncio.Event()
    with pytest.raises(LinkDown) as caught:
        await ask(uplink, wait_s=0.05, timeout_s=0.05)
    assert caught.value.code == "link-stalled"
    assert [each[0] for each in uplink.seen] == ["no-answer"]
    server.holds.set()


async def test_a_strangers_answer_to_a_request_that_is_held_is_none(server, uplink):
    server.proves, server.body = False, PAGE
    with pytest.raises(LinkDown) as caught:
        await ask(uplink, wait_s=60.0)
    assert caught.value.code == "portal"
