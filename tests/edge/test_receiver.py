"""Changes of records on their way to the device: held requests, pages, and what one that fails must not do."""

import asyncio

import pytest
from aiohttp import web

from pisyncd.activities.receiver import Receiver
from pisyncd.core import pull, recordwire
from pisyncd.core.backoff import Breaker
from pisyncd.core.edits import Put
from pisyncd.outbox import open_outbox
from pisyncd.runtime.activity import Stop

from .outbox_rig import FakeClock
from .records_rig import RecordCloud, online, problem, proof, uplink_to
from .test_outbox import CYCLE

HOUR_S = 3600
QUIET = pull.Rule(wait_s=0)


class Rig:
    """A receiver that is stepped by hand."""

    def __init__(self, outbox, way, uplink, clock, cloud):
        self.outbox, self.way, self.uplink, self.clock, self.cloud = outbox, way, uplink, clock, cloud
        self.stop = Stop()
        self.receiver = self.again()

    def again(self, rule=pull.Rule(), **more):  # noqa: B008
        self.receiver = Receiver(self.outbox, self.uplink, self.way, self.stop, rule, **more)
        self.stop.rouses(self.receiver.wake)
        return self.receiver

    async def shows(self, record_type, record_id):
        kept = await self.outbox.records.read(record_type, record_id)
        return None if kept is None else dict(kept.fields)

    async def held(self):
        """A step whose request the cloud is holding."""
        ring = self.cloud.held.next()
        task = asyncio.create_task(self.receiver.step())
        await ring.wait()
        return task


@pytest.fixture
async def rig(tmp_path, aiohttp_server):
    cloud, clock = RecordCloud(), FakeClock()
    url = str((await aiohttp_server(cloud.app())).make_url("/"))
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        way = online(outbox)
        uplink = uplink_to(url, way)
        yield Rig(outbox, way, uplink, clock, cloud)
        await uplink.close()


async def test_what_is_there_comes_page_by_page_and_then_the_cloud_is_listened_to(rig):
    rig.cloud.page_max = 10
    for number in range(25):
        rig.cloud.write("progress", f"p{number}", {"percent": number})
    assert [await rig.receiver.step() for _ in range(3)] == [0.0, 0.0, 1.0]
    assert (await rig.outbox.records.counts()).records == 25
    rig.clock.pass_s(1)
    step = await rig.held()
    rig.cloud.write("progress", "p7", {"percent": 70})
    assert await step == 1.0
    assert await rig.shows("progress", "p7") == {"percent": 70}
    assert [asked.get("wait") for asked in rig.cloud.asked] == ["300", None, None, "300"]
    assert [asked.get("since") for asked in rig.cloud.asked] == [None, "a.10", "a.20", "a.25"]


async def test_a_restart_goes_on_from_the_cursor(rig):
    rig.cloud.write("progress", "a", {"percent": 1})
    await rig.receiver.step()
    await rig.again(QUIET).step()
    assert rig.cloud.asked[-1]["since"] == "a.1"


async def test_a_cursor_that_has_expired_fetches_all_anew_and_drops_what_is_no_more(rig):
    for name in ("kept", "dropped"):
        rig.cloud.write("progress", name, {"percent": 1})
    await rig.receiver.step()
    rig.cloud.epoch = "b"
    del rig.cloud.order["progress", "dropped"]
    rig.clock.pass_s(1)
    assert await rig.receiver.step() == 0.0
    await rig.receiver.step()
    assert await rig.shows("progress", "kept") == {"percent": 1}
    assert await rig.shows("progress", "dropped") is None


async def test_what_was_written_here_outlives_a_cloud_that_was_set_back(rig):
    rig.cloud.write("progress", "theirs", {"percent": 1})
    await rig.receiver.step()
    await rig.outbox.records.write("progress", "mine", Put(fields={"percent": 2}))
    (item,) = await rig.outbox.messages.batch(9)
    await rig.outbox.messages.accept_through({item.stream: item.seq})
    rig.cloud.epoch, rig.cloud.order = "b", {}
    rig.clock.pass_s(1)
    assert await rig.receiver.step() == 0.0
    await rig.receiver.step()
    assert await rig.shows("progress", "theirs") is None
    assert await rig.shows("progress", "mine") == {"percent": 2}
    assert (await rig.outbox.records.read("progress", "mine")).waiting, "it is owed again"


async def test_a_page_that_has_to_wait_for_what_was_written_here_comes_a_moment_later(rig):
    await rig.outbox.records.write("progress", "a", Put(fields={"percent": 1}))
    state = (await rig.outbox.records.read("progress", "a")).state
    rig.cloud.keep("progress", "a", state)
    waiting = asyncio.create_task(rig.receiver.fetch_all())
    await asyncio.sleep(0)
    assert await rig.receiver.step() == 1.0
    assert not waiting.done()
    rig.outbox.records.confirm()
    await rig.receiver.step()
    assert await waiting == ""


async def test_what_the_device_is_not_entitled_to_any_more_goes(rig):
    rig.cloud.write("profile", "u1", {"name": "Ada"})
    await rig.receiver.step()
    rig.cloud.take_away("profile", "u1")
    rig.clock.pass_s(1)
    await rig.receiver.step()
    assert await rig.shows("profile", "u1") is None


async def test_a_cloud_that_does_not_hold_is_not_hammered(rig):
    rig.cloud.holds = False
    pauses = []
    for _ in range(5):
        pauses.append(await rig.receiver.step())
        before = len(rig.cloud.asked)
        assert await rig.receiver.step() == pauses[-1]
        assert len(rig.cloud.asked) == before, "woken early, it still waits"
        rig.clock.pass_s(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("end", ["pause", "stop", "link", "asked"])
async def test_a_wait_ends_at_once(rig, end):
    step = await rig.held()
    if end == "pause":
        await rig.way.set_paused(True)
    elif end == "stop":
        rig.stop.set()
    elif end == "link":
        rig.way.observe("no-interface", "the cable is out")
    else:
        rig.receiver.ask()
    await asyncio.wait_for(step, 5)
    if end == "asked":
        await rig.receiver.step()
        assert "wait" not in rig.cloud.asked[-1]
    else:
        assert len(rig.cloud.asked) == 1
    assert rig.way.breaker.failures == 0


async def test_others_that_wake_it_do_not_end_a_wait(rig):
    step = await rig.held()
    rig.way.rouse()
    rig.receiver.occasion()
    rig.cloud.write("progress", "a", {"percent": 1})
    await step
    assert len(rig.cloud.asked) == 1


async def abort(request):
    request.transport.abort()
    return web.Response()


async def busy_proxy(request):
    return web.Response(status=504)


@pytest.mark.parametrize("cut", [abort, busy_proxy])
async def test_a_wait_that_is_cut_after_a_while_says_nothing_of_the_link(rig, cut, monkeypatch):
    monkeypatch.setattr("pisyncd.holding.HELD_MIN_S", 0.0)

    async def later(request):
        rig.clock.pass_s(100)
        return await cut(request)

    rig.cloud.odd = [later]
    assert await rig.receiver.step() == 1.0
    assert (rig.way.link.doubts, rig.way.breaker.failures) == (0, 0)
    rig.clock.pass_s(1)
    step = await rig.held()
    assert rig.cloud.asked[-1]["wait"] == "80", "shorter than what the way had taken"
    rig.stop.set()
    await step


async def test_a_connection_that_breaks_at_once_is_doubted(rig):
    rig.cloud.odd = [abort] * 4  # a request on a connection that has just died is sent twice
    assert await rig.receiver.step() == 1.0
    assert (rig.way.link.doubts, rig.way.breaker.failures) == (1, 0)
    rig.clock.pass_s(1)
    await rig.receiver.step()
    assert rig.way.link.state == "limited"
    assert await rig.receiver.step() == 3600


async def test_a_way_that_forgets_what_is_quiet_is_given_less_to_forget(rig):
    release = asyncio.Event()

    async def silence(request):
        await release.wait()
        return web.Response()

    receiver = rig.again(pull.Rule(wait_s=0.2), timeout_s=0.1)
    rig.cloud.odd = [silence]
    assert await receiver.step() == 1.0
    assert receiver._past.held_s == pull.HELD_MIN_S
    assert rig.way.link.doubts == 1
    release.set()


def says(status, code, **headers):
    async def answer(request):
        return problem(request, status, code, **headers)

    return answer


async def nonsense(request):
    return web.json_response({"data": {"changes": 7}}, headers=proof(request))


@pytest.mark.parametrize(
    "answer",
    [
        says(503, "too-many-waiting", **{"Retry-After": "60"}),
        says(404, "not-found"),
        says(422, "enum"),
        says(403, "forbidden"),
        nonsense,
    ],
)
async def test_trouble_with_changes_does_not_hold_up_files_and_messages(rig, answer):
    rig.cloud.odd = [answer]
    assert 45 <= await rig.receiver.step() <= 63
    assert rig.way.breaker.failures == 0
    assert rig.way.link.state == "full"


@pytest.mark.parametrize(("status", "rule"), [(503, QUIET), (401, pull.Rule())])
async def test_a_cloud_that_is_in_trouble_is_everybodys(rig, status, rule):
    rig.cloud.odd = [says(status, "x")]
    await rig.again(rule).step()
    assert rig.way.breaker.failures == 1


async def open_breaker(rig):
    await rig.way._set_breaker(Breaker(failures=3, due_at_ms=rig.outbox.db.now_ms()), None)


async def test_the_trial_is_the_senders_while_messages_wait(rig):
    await open_breaker(rig)
    await rig.outbox.cycles.record(CYCLE, {"device_id": "d"})
    assert await rig.receiver.step() == 2
    assert rig.cloud.asked == []
    assert rig.way.admit("sender").trial, "nobody else has it"


async def test_a_trial_is_short_and_closes_the_breaker(rig):
    await open_breaker(rig)
    await rig.receiver.step()
    assert "wait" not in rig.cloud.asked[0]
    assert rig.way.breaker.failures == 0


async def test_without_waiting_it_asks_on_occasions_that_lie_apart(rig):
    receiver = rig.again(QUIET)
    rig.cloud.write("progress", "a", {"percent": 1})
    await receiver.step()
    rig.clock.pass_s(1)
    assert await receiver.step() == pytest.approx(QUIET.idle_s - 1)
    receiver.occasion()
    assert await receiver.step() == pytest.approx(QUIET.spacing_s - 1)
    assert len(rig.cloud.asked) == 1
    rig.clock.pass_s(QUIET.spacing_s)
    await receiver.step()
    assert len(rig.cloud.asked) == 2
    receiver.expect()
    await receiver.step()
    assert len(rig.cloud.asked) == 3


async def test_a_device_without_records_listens_for_an_hour_and_then_is_quiet(rig):
    rig.cloud.holds = False
    await rig.receiver.step()
    rig.clock.pass_s(HOUR_S)
    assert await rig.receiver.step() > HOUR_S
    assert len(rig.cloud.asked) == 1
    await rig.outbox.records.write("progress", "a", Put(fields={"percent": 1}))
    rig.cloud.holds = True
    step = await rig.held()
    rig.stop.set()
    await step


async def test_other_types_are_fetched_from_the_beginning(rig):
    rig.cloud.write("progress", "a", {"percent": 1})
    await rig.receiver.step()
    receiver = rig.again(types=("progress", "profile"))
    assert await receiver.step() == 0.0
    await receiver.step()
    assert [asked.get("since") for asked in rig.cloud.asked] == [None, "a.1", None]
    assert rig.cloud.asked[-1]["types"] == "profile,progress"
    rig.clock.pass_s(1)
    step = await rig.held()
    assert rig.cloud.asked[-1]["since"] == "aprofile,progress.1"
    rig.stop.set()
    await step


async def test_what_was_not_asked_for_stays_when_all_is_fetched_anew(rig):
    for name in ("kept", "dropped"):
        rig.cloud.write("profile", name, {"grade": 1})
    rig.cloud.write("progress", "here", {"percent": 1})
    await rig.receiver.step()
    del rig.cloud.order["profile", "dropped"]
    receiver = rig.again(QUIET, types=("profile",))
    rig.cloud.order = {key: number for key, number in rig.cloud.order.items() if key[0] == "profile"}
    assert await receiver.step() == 0.0
    await receiver.step()
    shown = [await rig.shows(*key) for key in (("profile", "kept"), ("profile", "dropped"), ("progress", "here"))]
    assert shown == [{"grade": 1}, None, {"percent": 1}]


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(rig, monkeypatch):
    monkeypatch.setattr("pisyncd.holding.PAGE_BYTES_MAX", 3000)
    for number in range(100):
        rig.cloud.write("profile", f"u{number}", {"note": "x" * 30})
    while await rig.receiver.step() == 0.0:
        pass
    assert (await rig.outbox.records.counts()).records == 100
    limits = [int(asked["limit"]) for asked in rig.cloud.asked]
    assert (max(limits), min(limits)) == (recordwire.PAGE_MAX, 15)
    assert rig.way.link.doubts == 0


async def test_who_waits_for_a_fetch_gets_what_was_there_when_it_asked(rig):
    step = await rig.held()
    waiting = [asyncio.create_task(rig.receiver.fetch_all()) for _ in range(10)]
    await step
    rig.cloud.write("profile", "u1", {"name": "Ada"})
    await rig.receiver.step()
    assert await asyncio.gather(*waiting) == [""] * 10
    assert await rig.shows("profile", "u1") == {"name": "Ada"}
    assert len(rig.cloud.asked) == 2


async def test_who_waits_is_told_why_nothing_comes(rig):
    rig.way.observe("no-interface", "the cable is out")
    waiting = asyncio.create_task(rig.receiver.fetch_all())
    await asyncio.sleep(0)
    await rig.receiver.step()
    assert await waiting == "offline"
    waiting = asyncio.create_task(rig.receiver.fetch_all())
    rig.stop.set()
    assert await waiting == "stopping"


def test_its_deadline_fits_the_longest_wait(rig):
    assert rig.again(pull.Rule(wait_s=900)).deadline_s > 900 + 30 + 300
