"""Messages on their way: company, acknowledgement, and what one poison message must not do."""

import msgspec
import pytest
from aiohttp import web

from pisyncd.activities.sender import Sender
from pisyncd.activities.way import Way, WayRules
from pisyncd.core import backoff, link, wire
from pisyncd.core.edits import Put
from pisyncd.core.transfer import ChunkRule
from pisyncd.meters import Goodput
from pisyncd.outbox import open_outbox
from pisyncd.uplink import Uplink

from .outbox_rig import FakeClock, sighting
from .test_outbox import CYCLE

TOKEN = "a-token"
RULES = WayRules(link=link.Rule(), backoff=backoff.Policy(), chunk=ChunkRule())


class Endpoint:
    """POST /api/telemetry/batch as the protocol says, with a watermark per stream and a taste of its own."""

    def __init__(self):
        self.received, self.batches, self.next = {}, [], {}
        self.refuses = lambda item: False
        self.keeps_apart = lambda item: False
        self.says = {"status": "failed", "code": "item-invalid"}
        self.status = 200
        self.forgets = False

    async def answer(self, request):
        headers = {wire.PROOF_HEADER: wire.proof(TOKEN, request.headers[wire.CHALLENGE_HEADER])}
        batch = msgspec.json.decode(await request.read(), type=wire.Batch)
        if self.status != 200 or any(self.refuses(item) for item in batch.items):
            return web.Response(status=self.status if self.status != 200 else 422, headers=headers)
        self.batches.append(batch)
        for item in batch.items:
            if item.seq == self.received.get(item.stream, 0) + 1 and not self.forgets:
                self.received[item.stream] = item.seq
        outcome = {
            **dict.fromkeys(("processed", "successful", "failed", "conflicts", "duplicates"), 0),
            "results": [
                {"itemId": item.id, "timestamp": "2026-01-01T00:00:00Z", **self.says}
                for item in batch.items
                if self.keeps_apart(item)
            ],
            "syncTime": "2026-01-01T00:00:00Z",
            "receivedThrough": {item.stream: self.received.get(item.stream, 0) for item in batch.items},
        }
        return web.json_response({"success": True, "data": outcome, "next": self.next}, headers=headers)


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
async def rig(tmp_path, endpoint, aiohttp_server):
    app = web.Application()
    app.router.add_post("/api/telemetry/batch", endpoint.answer)
    server = await aiohttp_server(app)
    clock = FakeClock()
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        way = Way(outbox, RULES)
        uplink = Uplink(
            url=str(server.make_url("/")),
            token=TOKEN,
            connect_timeout_s=5,
            stall_s=5,
            ca_file=None,
            seen=way.observe,
            told_time=clock.confirm,
            goodput=Goodput(),
        )
        way.observe("proven", "test")
        sender = Sender(outbox, uplink, way, batch_items=100, timeout_s=5)
        yield outbox, sender, clock, way
        await uplink.close()


async def cycles(outbox, count):
    for number in range(count):
        await outbox.cycles.record(CYCLE, {"device_id": "d", "number": number})


async def test_a_report_waits_for_company_a_sync_event_does_not(rig, endpoint):
    outbox, sender, clock, _ = rig
    await outbox.files.add([sighting(b"a", 1)])
    assert await sender.step() == pytest.approx(12, abs=0.1)
    assert endpoint.batches == []
    clock.pass_s(12)
    assert await sender.step() == 0
    await cycles(outbox, 1)
    assert await sender.step() == 0
    assert [len(each.items) for each in endpoint.batches] == [1, 1]
    assert await sender.step() == 3600
    assert await outbox.messages.batch(9) == []


async def test_what_is_not_acknowledged_stays(rig, endpoint):
    outbox, sender, _, way = rig
    await cycles(outbox, 3)
    endpoint.status = 503
    assert await sender.step() > 0
    assert len(await outbox.messages.batch(9)) == 3
    assert way.breaker.failures == 1


async def test_a_cloud_that_acknowledges_nothing_is_waited_for_not_hammered(rig, endpoint):
    outbox, sender, _, way = rig
    await cycles(outbox, 1)
    endpoint.forgets = True
    assert await sender.step() > 0
    assert way.breaker.failures == 1
    assert len(await outbox.messages.batch(9)) == 1


async def test_one_poison_message_is_found_emptied_and_the_others_arrive(rig, endpoint):
    outbox, sender, _, _ = rig
    await cycles(outbox, 20)
    endpoint.refuses = lambda item: item.itemType == "sync_event" and item.itemData["number"] == 13
    for _ in range(40):
        await sender.step()
    arrived = [item for batch in endpoint.batches for item in batch.items if item.stream.startswith("sync")]
    assert [item.seq for item in arrived] == list(range(1, 21))
    assert [item.seq for item in arrived if item.itemType == "dropped"] == [14]
    assert (await outbox.ledger.newest(1))[0]["what"] == "message-refused"


async def test_a_cloud_that_was_restored_from_a_backup_gets_what_is_still_held(rig, endpoint):
    outbox, sender, _, _ = rig
    await cycles(outbox, 3)
    await sender.step()
    endpoint.received.clear()
    await cycles(outbox, 2)
    ids = [each.id for each in await outbox.messages.batch(9)]
    await sender.step()
    await sender.step()
    assert await outbox.messages.batch(9) == []
    assert [item.id for item in endpoint.batches[-1].items] == ids
    assert [item.seq for item in endpoint.batches[-1].items] == [1, 2]


async def test_the_clouds_pace_is_obeyed_within_bounds(rig, endpoint):
    outbox, sender, _, _ = rig
    paced = []
    sender.paced = paced.append
    endpoint.next = {"sync_in_s": 900, "batch_max_events": 1}
    await cycles(outbox, 30)
    await sender.step()
    await cycles(outbox, 30)
    await sender.step()
    assert paced == [900, 900]
    assert [len(each.items) for each in endpoint.batches] == [30, 10]


async def test_what_the_cloud_refuses_by_itself_leaves_a_loss_and_a_refused_loss_does_not(rig, endpoint):
    outbox, sender, _, _ = rig
    await cycles(outbox, 3)
    endpoint.keeps_apart = lambda item: item.itemType == "loss" or item.itemData["number"] == 1
    assert await sender.step() == 0
    losses = await outbox.ledger.newest(9)
    told = [(each["what"], each["reason"], each["count"]) for each in losses]
    assert told == [("message-refused", "item-invalid", 1)]
    assert losses[0]["detail"].endswith(" 2 sync_event")
    await sender.step()
    assert await outbox.messages.batch(9) == []
    assert await outbox.ledger.count() == 1


async def test_a_body_is_no_larger_than_the_cloud_asks_for(rig, endpoint):
    outbox, sender, _, _ = rig
    endpoint.next = {"batch_max_bytes": 1}
    for _ in range(2):
        for number in range(10):
            await outbox.cycles.record(CYCLE, {"device_id": "d", "number": number, "pad": "x" * 20_000})
        await sender.step()
    assert [len(each.items) for each in endpoint.batches] == [10, 3]
    assert len(await outbox.messages.batch(99)) == 7


RESOLUTION = {"conflictId": "cf_1", "strategy": "last-write-wins", "winner": "server"}


async def write(outbox, record_id, **fields):
    await outbox.records.write("progress", record_id, Put(fields=fields))


async def waits(outbox, record_id):
    return (await outbox.records.read("progress", record_id)).waiting


async def test_a_record_waits_for_no_company(rig, endpoint):
    outbox, sender, _, _ = rig
    await outbox.files.add([sighting(b"a", 1)])
    await write(outbox, "a", percent=10)
    assert await sender.step() == 0
    assert [[item.itemType for item in each.items] for each in endpoint.batches] == [["progress", "event"]]
    assert not await waits(outbox, "a")


async def test_a_conflict_with_a_resolution_is_taken_and_its_outcome_is_expected(rig, endpoint):
    outbox, sender, _, _ = rig
    met = []
    sender.met = lambda: met.append(1)
    endpoint.keeps_apart = lambda item: item.itemType == "progress"
    endpoint.says = {"status": "conflict", "resolution": RESOLUTION}
    await write(outbox, "a", percent=10)
    assert await sender.step() == 0
    assert (await outbox.ledger.count(), await waits(outbox, "a"), met) == (0, False, [1])


async def test_a_conflict_without_a_resolution_is_a_loss(rig, endpoint):
    outbox, sender, _, _ = rig
    endpoint.keeps_apart = lambda item: item.itemType == "progress"
    endpoint.says = {"status": "conflict", "code": "id-conflict"}
    await write(outbox, "a", percent=10)
    await sender.step()
    assert [each["reason"] for each in await outbox.ledger.newest(9)] == ["id-conflict"]


async def test_a_number_that_another_copy_has_used_makes_this_one_another_writer_once(rig, endpoint):
    outbox, sender, _, _ = rig
    before = outbox.instance.id
    old = outbox.instance.outbox_id
    endpoint.keeps_apart = lambda item: old in item.stream
    endpoint.says = {"status": "conflict", "code": "seq-conflict"}
    for number in range(30):
        await write(outbox, f"p{number}", percent=number)
    sender._items = 10
    endpoint.next = {"batch_max_events": 10}
    for _ in range(8):
        await sender.step()
    assert outbox.instance.id != before
    assert len(outbox.instance.mine) == 2, "what waited in the old streams met the same and changed nothing"
    taken = [item for each in endpoint.batches for item in each.items if outbox.instance.outbox_id in item.stream]
    assert {msgspec.convert(item.itemData, dict)["id"] for item in taken if item.itemType == "progress"} == {
        f"p{number}" for number in range(30)
    }
    assert not any([await waits(outbox, f"p{number}") for number in range(30)])


async def test_a_cloud_that_has_lost_what_it_had_asks_for_records_again(rig, endpoint):
    outbox, sender, _, _ = rig
    sender.forgotten = outbox.records.repush
    for name in ("a", "b"):
        await write(outbox, name, percent=10)
        await sender.step()
    endpoint.received.clear()
    await write(outbox, "b", percent=20)
    endpoint.batches.clear()
    for _ in range(3):
        await sender.step()
    sent = {msgspec.convert(item.itemData, dict)["id"] for each in endpoint.batches for item in each.items}
    assert sent == {"a", "b"}
    assert not await waits(outbox, "a")


async def test_whoever_waits_hears_of_each_delivery_that_ends(rig, endpoint):
    outbox, sender, _, _ = rig
    heard = []
    sender.ended = lambda: heard.append(1)
    await cycles(outbox, 1)
    endpoint.status = 503
    await sender.step()
    assert heard == [1]


async def test_a_cloud_that_knows_every_number_is_not_answered_for_ever(rig, endpoint):
    outbox, sender, _, _ = rig
    endpoint.keeps_apart = lambda item: item.itemType == "progress"
    endpoint.says = {"status": "conflict", "code": "seq-conflict"}
    await write(outbox, "a", percent=10)
    for _ in range(20):
        if await sender.step():
            break
    assert await outbox.messages.batch(9) == []
    assert len(outbox.instance.mine) == 5
