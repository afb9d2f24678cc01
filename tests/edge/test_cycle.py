"""The sync cycle: what it counts, when it is told, and that offline is not a failure."""

import asyncio

import pytest

from pisyncd.activities import cycle
from pisyncd.activities.cycle import SyncCycle, Tally
from pisyncd.activities.lanes import Counters
from pisyncd.activities.way import Way, WayRules
from pisyncd.core import backoff, link
from pisyncd.core.transfer import ChunkRule
from pisyncd.meters import Goodput
from pisyncd.outbox import open_outbox

from .outbox_rig import FakeClock, sighting

RULES = WayRules(link=link.Rule(), backoff=backoff.Policy(), chunk=ChunkRule())


def seen(*, attempted=0, files=0, errors=0, sent=0, active_s=0.0):
    return Tally(
        attempted=attempted, files_synced=files, errors=errors, bytes_sent=sent, active_s=active_s, error_code=None
    )


@pytest.mark.parametrize(
    ("happened", "online", "expected"),
    [
        (seen(), True, "idle"),
        (seen(), False, "offline"),
        (seen(attempted=3), False, "offline"),
        (seen(attempted=3, files=3), True, "success"),
        (seen(attempted=3, files=3), False, "success"),
        (seen(attempted=3, files=2, errors=1), True, "partial"),
        (seen(attempted=3, errors=1), True, "failed"),
        (seen(attempted=3, errors=1), False, "failed"),
    ],
)
def test_outcomes(happened, online, expected):
    assert cycle.outcome(happened, online=online) == expected


@pytest.mark.parametrize(
    ("result", "asked", "since_s", "drained", "told"),
    [
        ("offline", True, 1e9, True, False),
        ("idle", False, 100, False, False),
        ("idle", False, 90_000, False, True),
        ("idle", True, 0, False, True),
        ("success", False, 10, True, True),
        ("success", False, 10, False, False),
        ("failed", False, 61, False, True),
    ],
)
def test_what_is_told(result, asked, since_s, drained, told):
    says = cycle.reports(result, asked=asked, since_event_s=since_s, heartbeat_s=86_400, drained=drained)
    assert says == told


def test_speed_is_bits_over_the_time_in_which_anything_was_sent():
    assert seen(sent=1_250_000, active_s=10.0).speed_mbps == 1.0
    assert seen(sent=100, active_s=10.0).speed_mbps is None
    assert seen(sent=1_250_000, active_s=0.0).speed_mbps is None


class Rig:
    def __init__(self, outbox, clock):
        self.outbox, self.clock = outbox, clock
        self.counters = Counters()
        self.way = Way(outbox, RULES)
        self.way.observe("proven", "test")
        self.cycle = SyncCycle(
            outbox,
            self.way,
            Goodput(now_s=lambda: clock.now_ms / 1000),
            self.counters,
            device_id="d",
            interval_s=300,
            heartbeat_s=86_400,
            scheduled=True,
            reported=lambda: None,
            owed=outbox.queue.anything_owed,
        )

    async def events(self):
        return [each for each in await self.outbox.messages.batch(500) if each.itemType == "sync_event"]

    async def outcomes(self):
        return [row["outcome"] for row in await self.outbox.cycles.newest(50)]


@pytest.fixture
async def rig(tmp_path):
    clock = FakeClock()
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        yield Rig(outbox, clock)


async def test_work_that_is_done_is_told_at_once_then_at_most_every_minute(rig):
    rig.counters.attempted = rig.counters.files_synced = 5
    await rig.cycle.step()
    assert len(await rig.events()) == 1
    rig.counters.attempted = rig.counters.files_synced = 6
    assert await rig.cycle.step() == pytest.approx(60, abs=1)
    assert len(await rig.events()) == 1
    rig.clock.pass_s(60)
    await rig.cycle.step()
    assert len(await rig.events()) == 2
    assert await rig.outcomes() == ["success", "success"]


async def test_weeks_without_work_or_link_write_one_row_and_tell_nothing_but_a_daily_word(rig):
    rig.way.observe("no-interface", "cable out")
    for _ in range(100):
        rig.clock.pass_s(300)
        await rig.cycle.step()
    assert await rig.outcomes() == ["offline"]
    assert await rig.events() == []
    rig.way.observe("proven", "back")
    for _ in range(300):
        rig.clock.pass_s(300)
        await rig.cycle.step()
    assert len(await rig.events()) == 2, "one heartbeat at once, one a day later"


async def test_asked_for_means_now(rig):
    rig.cycle.ask()
    await rig.cycle.step()
    assert len(await rig.events()) == 1


async def test_a_long_transfer_is_told_every_interval_while_it_goes_on(rig):
    await rig.outbox.files.add([sighting(b"waits", 1)])
    for number in range(1, 4):
        rig.counters.attempted = rig.counters.files_synced = number
        rig.clock.pass_s(300)
        await rig.cycle.step()
    assert len(await rig.events()) == 3


async def test_what_happened_until_the_end_is_told_and_nothing_else(rig):
    await rig.cycle.close()
    assert await rig.events() == []
    rig.counters.errors = 2
    rig.counters.error_code = "cloud-busy"
    await rig.cycle.close()
    assert len(await rig.events()) == 1
    assert await rig.outcomes() == ["failed"]


async def test_two_ends_side_by_side_tell_the_work_once(rig):
    rig.counters.attempted = rig.counters.files_synced = 5
    await asyncio.gather(rig.cycle.step(), rig.cycle.conclude())
    assert len(await rig.events()) == 1


async def test_the_cloud_may_change_the_pace_within_bounds(rig):
    for asked, kept in ((1, 60), (600, 600), (1e6, 3600)):
        rig.cycle.pace(asked)
        assert rig.cycle.interval_s == kept
