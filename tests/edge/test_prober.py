"""The probe of the link: who answers, what a changed network resets, when the speed is measured."""

import subprocess
import sys

import pytest
from aiohttp import web

from pisyncd.activities.prober import MEASURE_BYTES, Prober
from pisyncd.activities.way import Way, WayRules
from pisyncd.core import backoff, link, wire
from pisyncd.core.errors import CloudBusy
from pisyncd.core.transfer import ChunkRule
from pisyncd.meters import Goodput
from pisyncd.outbox import open_outbox
from pisyncd.uplink import Uplink

from .outbox_rig import FakeClock, sighting

TOKEN = "a-token"
RULES = WayRules(link=link.Rule(), backoff=backoff.Policy(), chunk=ChunkRule())


class Far:
    """Whoever answers: our cloud, a portal, or a cloud that is busy."""

    def __init__(self):
        self.is_ours, self.status, self.received = True, 200, []

    async def answer(self, request):
        body = await request.read()
        self.received.append((request.method, len(body)))
        challenge = request.headers[wire.CHALLENGE_HEADER]
        proof = {wire.PROOF_HEADER: wire.proof(TOKEN, challenge)} if self.is_ours else {}
        answer = {"proof": "", "server_time": "2026-01-01T00:00:00Z", "received": len(body)}
        return web.json_response(answer, status=self.status, headers={wire.TIME_HEADER: "1700000000000", **proof})


class Rig:
    def __init__(self, outbox, clock, url):
        self.outbox, self.clock = outbox, clock
        self.way = Way(outbox, RULES, chance=lambda: 0.5)
        self.uplink = Uplink(
            url=url,
            token=TOKEN,
            connect_timeout_s=5,
            stall_s=5,
            ca_file=None,
            seen=self.way.observe,
            told_time=clock.confirm,
            goodput=Goodput(),
        )
        self.prober = Prober(self.uplink, self.way, timeout_s=5, owed=outbox.queue.anything_owed)


@pytest.fixture
def far():
    return Far()


@pytest.fixture
async def rig(tmp_path, far, aiohttp_server):
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", far.answer)
    server = await aiohttp_server(app)
    clock = FakeClock()
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        made = Rig(outbox, clock, str(server.make_url("/")))
        yield made
        await made.uplink.close()


async def test_our_cloud_makes_the_link_full_and_confirms_the_clock(rig):
    assert await rig.prober.step() == 3600, "with nothing owed, probes are rare"
    assert rig.way.link.state == "full"
    assert rig.clock.told == [1_700_000_000_000]


async def test_with_something_owed_it_looks_more_often(rig):
    await rig.outbox.files.add([sighting(b"a", 1)])
    assert await rig.prober.step() == 60


async def test_a_portal_is_told_apart_and_looked_at_again_soon(rig, far):
    far.is_ours = False
    await rig.outbox.files.add([sighting(b"a", 1)])
    assert await rig.prober.step() <= 1
    assert rig.way.link.state == "portal"
    assert rig.clock.told == [], "a stranger does not tell the time"
    far.is_ours = True
    await rig.prober.step()
    assert rig.way.link.state == "full"


async def test_a_busy_cloud_opens_the_breaker_and_a_changed_network_closes_it(rig, far):
    await rig.way.failed(CloudBusy(retry_after_s=600))
    assert isinstance(rig.way.admit("lane"), backoff.Wait)
    rig.prober.link_changed()
    await rig.prober.step()
    assert rig.way.admit("lane") == backoff.Admit(trial=False)
    assert await rig.outbox.memory.breaker("cloud") == backoff.Breaker()


async def test_the_speed_is_measured_once_by_noise_when_all_is_calm(rig, far):
    for _ in range(4):
        await rig.prober.step()
    assert [size for method, size in far.received if method == "POST"] == [MEASURE_BYTES]
    assert rig.uplink.goodput.known_bps
    assert (await rig.outbox.memory.network(rig.way.network))[1] == rig.uplink.goodput.known_bps


async def test_the_speed_is_not_measured_while_anything_is_owed(rig, far):
    await rig.outbox.files.add([sighting(b"a", 1)])
    for _ in range(3):
        rig.prober.asked(curious=True)
        await rig.prober.step()
    assert {method for method, _ in far.received} == {"GET"}


WATCHER = """
import asyncio, subprocess
from pisyncd import meters
async def main():
    changed = asyncio.Event()
    with meters.link_changes(changed.set):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        await asyncio.wait_for(changed.wait(), 20)
    print("woken")
asyncio.run(main())
"""


def test_the_kernel_tells_of_a_changed_link():
    command = ["unshare", "--net", sys.executable, "-c", WATCHER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("needs the right to make a network namespace")
    assert done.stdout == "woken\n", done.stderr
