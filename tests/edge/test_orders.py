"""Reports of vitals and orders of the cloud, on a real outbox: seldom, once, and told in one transaction."""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.activities.orders import Orders
from pisyncd.activities.sampler import INTERVAL_S, Sampler
from pisyncd.core.vitals import OWN_ROOT, Command
from pisyncd.outbox import Outbox, open_outbox

from .outbox_rig import FakeClock

SYNC = Command(id="cmd_1", kind="sync")
BUNDLE = Command(id="cmd_2", kind="support-bundle")


class Rig:
    """A sampler and orders over an outbox, and what they asked for."""

    def __init__(self, outbox: Outbox, clock: FakeClock, directory: Path) -> None:
        self.outbox, self.clock, self.directory = outbox, clock, directory
        self.synced = self.queued = self.told = 0
        self.sampler = Sampler(outbox, directory, told=self._told)
        self.sampler.root = directory / "board"
        self.parts: dict[str, object] = {"status.json": {"link": "full"}}
        self.orders = Orders(
            outbox, self.sampler, directory / "outgoing", sync=self._sync, queued=self._queued, describe=self._describe
        )

    def _told(self) -> None:
        self.told += 1

    def _sync(self) -> None:
        self.synced += 1

    def _queued(self) -> None:
        self.queued += 1

    async def _describe(self) -> dict[str, object]:
        return self.parts

    async def waiting(self) -> list[dict[str, Any]]:
        items = await self.outbox.messages.batch(100)
        return [json.loads(bytes(item.itemData)) for item in items if item.itemType == "vitals"]

    async def delivered(self) -> None:
        items = await self.outbox.messages.batch(100)
        await self.outbox.messages.accept_through({item.stream: item.seq for item in items if item.stream and item.seq})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    clock = FakeClock(sure=True)
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        yield Rig(outbox, clock, tmp_path)


def warm(rig: Rig, degrees: int) -> None:
    zone = rig.sampler.root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "type").write_text("cpu-thermal")
    (zone / "temp").write_text(str(degrees * 1000))


async def test_a_report_is_written_when_it_is_worth_one(rig: Rig) -> None:
    warm(rig, 50)
    assert await rig.sampler.step() == INTERVAL_S
    (first,) = await rig.waiting()
    assert (first["temperature_c"], first["clock_trusted"], first["owed_messages"]) == (50.0, True, 0)
    warm(rig, 84)
    rig.clock.pass_s(2 * 3600)
    await rig.sampler.step()
    assert len(await rig.waiting()) == 1, "one that waits says enough"
    await rig.delivered()
    await rig.sampler.step()
    assert [each["temperature_c"] for each in await rig.waiting()] == [84.0]
    await rig.delivered()
    rig.clock.pass_s(23 * 3600)
    await rig.sampler.step()
    assert await rig.waiting() == []
    rig.clock.pass_s(3600)
    await rig.sampler.step()
    assert len(await rig.waiting()) == 1
    assert rig.told == 3


async def test_what_was_told_is_remembered_over_a_restart(rig: Rig) -> None:
    await rig.sampler.step()
    await rig.delivered()
    again = Sampler(rig.outbox, rig.directory, told=lambda: None)
    again.root = rig.sampler.root
    await again.step()
    assert await rig.waiting() == []


async def test_an_order_is_done_once_however_often_it_is_asked(rig: Rig) -> None:
    rig.orders.ask([SYNC])
    await rig.orders.step()
    assert rig.synced == 1
    assert [each["commands"] for each in await rig.waiting()] == [[{"id": "cmd_1", "state": "done"}]]
    rig.orders.ask([SYNC])
    await rig.orders.step()
    again = Orders(
        rig.outbox, rig.sampler, rig.directory / "outgoing", sync=rig._sync, queued=rig._queued, describe=rig._describe
    )
    again.ask([SYNC])
    await again.step()
    assert rig.synced == 1
    assert len(await rig.waiting()) == 1


async def test_a_bundle_is_queued_like_a_file_and_removed_when_it_has_arrived(rig: Rig) -> None:
    rig.parts = {"status.json": {"link": "full"}, "notes.txt": "x" * 5_000_000}
    rig.orders.ask([BUNDLE])
    await rig.orders.step()
    (told,) = await rig.waiting()
    assert told["commands"] == [{"id": "cmd_2", "state": "done", "detail": ".pisync/support/cmd_2.tar.gz"}]
    (version,) = await rig.outbox.files.next_in_turn(5)
    assert (version.root, version.path) == (OWN_ROOT, b"support/cmd_2.tar.gz")
    path = rig.directory / "outgoing/support/cmd_2.tar.gz"
    assert path.stat().st_size < 1_500_000
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
        status = archive.extractfile("status.json")
        assert status is not None
        assert json.load(status) == {"link": "full"}
    assert {"status.json", "journal.txt", "proc/meminfo"} <= names
    await rig.orders.step()
    assert path.exists(), "it still waits"
    await rig.outbox.files.supersede([version])
    await rig.orders.step()
    assert not path.exists()
    assert rig.queued == 1


async def test_what_cannot_be_done_is_told_with_the_reason(rig: Rig) -> None:
    (rig.directory / "outgoing").mkdir()
    (rig.directory / "outgoing" / "support").write_text("in the way")
    rig.orders.ask([BUNDLE, SYNC])
    await rig.orders.step()
    (told,) = await rig.waiting()
    assert [each["state"] for each in told["commands"]] == ["failed", "done"]
    assert "support" in told["commands"][0]["detail"]
