"""Somebody waits until a record is at the cloud and what the cloud has is here."""

import asyncio
import contextlib

import pytest
from aiohttp import web

from pisyncd.activities.receiver import Receiver
from pisyncd.activities.sender import Sender
from pisyncd.activities.syncnow import SyncNow
from pisyncd.core import pull
from pisyncd.core.edits import Put
from pisyncd.core.errors import CloudBusy
from pisyncd.outbox import open_outbox
from pisyncd.runtime.activity import Bell, Pulse, Stop, supervise
from pisyncd.runtime.clock import Clock

from .records_rig import RecordCloud, online, proof, uplink_to


class Rig:
    """Sender and receiver as they run in the daemon, without anybody who wakes them for records."""

    def __init__(self, outbox, way, uplink, cloud):
        self.outbox, self.way, self.cloud, self.stop = outbox, way, cloud, Stop()
        self.hanging = Bell()
        self.sender = Sender(outbox, uplink, way, batch_items=100, timeout_s=5)
        self.receiver = Receiver(outbox, uplink, way, self.stop, pull.Rule())
        self.now = SyncNow(outbox, way, self.sender, self.receiver, self.stop)

    async def put(self, record_id, **fields):
        await self.outbox.records.write("progress", record_id, Put(fields=fields))

    async def shows(self, record_id):
        kept = await self.outbox.records.read("progress", record_id)
        return None if kept is None else dict(kept.fields)

    async def begun(self, record_id):
        """A call that waits for the cloud, which has got the batch."""
        ring = self.hanging.next()
        task = asyncio.create_task(self.now.record("progress", record_id))
        await ring.wait()
        return task


@pytest.fixture
async def rig(tmp_path, aiohttp_server):
    cloud = RecordCloud()
    url = str((await aiohttp_server(cloud.app())).make_url("/"))
    async with open_outbox(tmp_path / "outbox.db", Clock()) as outbox:
        way = online(outbox)
        uplink = uplink_to(url, way)
        made = Rig(outbox, way, uplink, cloud)
        held = cloud.held.next()
        pulse = Pulse(outbox.db.clock.boottime_ms)
        running = asyncio.create_task(supervise([made.sender, made.receiver], pulse, made.stop, 5.0))
        await held.wait()
        yield made
        made.stop.set()
        await running
        await uplink.close()


async def test_the_write_is_there_and_what_the_cloud_has_is_here(rig):
    rig.cloud.holds = False
    await rig.put("a", percent=10)
    rig.cloud.write("progress", "a", {"score": 5})
    assert await rig.now.record("progress", "a") == ""
    assert rig.cloud.shows("progress", "a") == {"percent": 10, "score": 5}
    assert await rig.shows("a") == {"percent": 10, "score": 5}
    kept = await rig.outbox.records.read("progress", "a")
    assert not kept.waiting


async def test_ten_at_once_take_few_requests(rig):
    for number in range(10):
        await rig.put(f"p{number}", percent=number)
    told = await asyncio.gather(*(rig.now.record("progress", f"p{number}") for number in range(10)))
    assert told == [""] * 10
    assert sorted(rig.cloud.states) == [("progress", f"p{number}") for number in range(10)]
    assert sum("wait" not in asked for asked in rig.cloud.asked) <= 10


async def test_of_a_record_that_is_not_here_what_the_cloud_has_is_fetched(rig):
    other = RecordCloud()
    other.write("progress", "b", {"percent": 3})
    # the request that is being held has not been told
    rig.cloud.states, rig.cloud.order, rig.cloud.head = other.states, other.order, other.head
    assert await rig.now.record("progress", "b") == ""
    assert await rig.shows("b") == {"percent": 3}


async def test_offline_and_paused_are_told_at_once_and_the_write_stays(rig):
    await rig.way.set_paused(True)
    await rig.put("a", percent=10)
    assert await rig.now.record("progress", "a") == "paused"
    await rig.way.set_paused(False)
    rig.way.observe("no-interface", "the cable is out")
    assert await rig.now.record("progress", "a") == "offline"
    assert (await rig.outbox.records.read("progress", "a")).waiting


async def test_while_the_cloud_asks_for_patience_its_reason_is_told(rig):
    await rig.way.failed(CloudBusy(code="too-busy", retry_after_s=60))
    assert await rig.now.record("progress", "a") == "too-busy"


@pytest.mark.parametrize(("end", "told"), [("pause", "paused"), ("link", "offline"), ("stop", "stopping")])
async def test_a_call_that_waits_ends_when_it_is_hopeless(rig, end, told):
    release = asyncio.Event()
    hang(rig, release)
    await rig.put("a", percent=10)
    call = await rig.begun("a")
    if end == "pause":
        await rig.way.set_paused(True)
    elif end == "link":
        rig.way.observe("no-interface", "the cable is out")
    else:
        rig.stop.set()
    assert await asyncio.wait_for(call, 5) == told
    release.set()


async def test_a_cloud_that_does_not_answer_ends_it_after_a_while(rig):
    release = asyncio.Event()
    hang(rig, release)
    await rig.put("a", percent=10)
    assert await rig.now.record("progress", "a", timeout_s=0.1) == "timeout"
    release.set()


async def test_trouble_of_the_cloud_is_told(rig):
    async def busy(batch, request):
        return web.json_response({}, status=503, headers=proof(request))

    rig.cloud.instead = busy
    await rig.put("a", percent=10)
    assert await rig.now.record("progress", "a") == "http-503"


def hang(rig, release):
    async def later(batch, request):
        rig.hanging.set()
        with contextlib.suppress(asyncio.CancelledError):
            await release.wait()
        return web.json_response({}, status=503, headers=proof(request))

    rig.cloud.instead = later
