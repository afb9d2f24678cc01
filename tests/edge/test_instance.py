"""Which writer an outbox is: the same on its board, another on another one, and another after it was set back."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from pisyncd.core import record
from pisyncd.core.edits import Patch, Put
from pisyncd.core.recordwire import Changes
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.outbox.instance import Board, read_board

from .outbox_rig import FakeClock

PI = Board(machine="m1", serial="10000000a1b2c3d4", macs=("b8:27:eb:00:00:01",))
OTHER_PI = Board(machine="m1", serial="10000000ffffffff", macs=("b8:27:eb:00:00:02",))


async def who(path: Path, board: Board) -> tuple[str, str]:
    async with open_outbox(path, FakeClock(), board) as outbox:  # type: ignore[arg-type]
        return outbox.instance.id, outbox.instance.outbox_id


async def streams(outbox: Outbox) -> list[str]:
    return [item.stream or "" for item in await outbox.messages.batch(100)]


def machine(root: Path, *, machine_id: str = "", serial: str = "", macs: dict[str, str] | None = None) -> Path:
    for name, address in (macs or {}).items():
        (root / "sys/class/net" / name).mkdir(parents=True)
        (root / "sys/class/net" / name / "address").write_text(address + "\n")
    if machine_id:
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text(machine_id + "\n")
    if serial:
        (root / "proc/device-tree").mkdir(parents=True)
        (root / "proc/device-tree/serial-number").write_bytes(serial.encode() + b"\0")
    return root


def test_what_tells_a_board_from_others_is_read(tmp_path: Path) -> None:
    macs = {
        "eth0": "b8:27:eb:12:34:56",
        "wlan0": "B8:27:EB:65:43:21",
        "lo": "00:00:00:00:00:00",
        "docker0": "b8:42:ac:11:00:02",
        "veth12ab": "b8:42:ac:11:00:03",
        "br-1234": "b8:42:ac:11:00:04",
        "eth1": "02:42:ac:11:00:02",
        "usb0": "00:00:00:12:34:56",
        "can0": "",
        "odd0": "zz:zz",
    }
    root = machine(tmp_path, machine_id="abc", serial="10000000a1b2c3d4", macs=macs)
    board = read_board(root)
    assert board == Board(machine="abc", serial="10000000a1b2c3d4", macs=("b8:27:eb:12:34:56", "b8:27:eb:65:43:21"))
    assert board.hardware == "serial:10000000a1b2c3d4"


def test_where_nothing_can_be_read_nothing_is_made_up(tmp_path: Path) -> None:
    assert read_board(tmp_path) == Board()
    assert read_board(tmp_path).hardware == ""
    assert read_board() == read_board(), "this machine"


A, B, C = "b8:27:eb:00:00:01", "b8:27:eb:00:00:02", "b8:27:eb:00:00:03"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PI, PI, True),
        (PI, OTHER_PI, False),
        (PI, Board(machine="reinstalled", serial=PI.serial), True),
        (Board(macs=(A,)), Board(macs=(A, B)), True),
        (Board(macs=(A, B)), Board(macs=(A,)), True),
        (Board(macs=(A, B)), Board(macs=(B, C)), False),
        (Board(macs=(A,)), Board(macs=(B,)), False),
        (Board(machine="c1"), Board(machine="c1"), True),
        (Board(machine="c1"), Board(machine="c2"), False),
        (Board(machine="c1", macs=(A,)), Board(machine="c1"), True),
        (Board(), PI, True),
    ],
)
def test_when_a_board_is_another_one(one: Board, other: Board, same: bool) -> None:
    assert one.is_same(other) is same
    assert other.is_same(one) is same


async def test_it_stays_the_same_on_its_board(tmp_path: Path) -> None:
    first = await who(tmp_path / "outbox.db", PI)
    assert first == await who(tmp_path / "outbox.db", PI)
    assert record.is_record_id(first[0])
    assert first[0].startswith("d-")
    assert (await who(tmp_path / "other.db", PI))[0] != first[0], "another database on the same board is another writer"


async def test_a_copied_card_is_a_new_writer_with_new_streams_and_both_send_what_waited(tmp_path: Path) -> None:
    path, copy = tmp_path / "outbox.db", tmp_path / "copy.db"
    async with open_outbox(path, FakeClock(), PI) as outbox:  # type: ignore[arg-type]
        await outbox.records.write("progress", "p", Put({"attempts": 1}))
        original, before = outbox.instance.id, await streams(outbox)
    shutil.copy(path, copy)
    writers = set()
    for place, board in ((path, PI), (copy, OTHER_PI)):
        async with open_outbox(place, FakeClock(), board) as outbox:  # type: ignore[arg-type]
            written = await outbox.records.write("progress", "p", Patch({"attempts": 5}))
            own = written.kept.state.registers["attempts"]
            assert sum(write.value for write in own) == 5
            writers.add(outbox.instance.id)
            assert before[0] in await streams(outbox), "what waited keeps its stream: the cloud knows it by that"
            assert len(set(await streams(outbox))) == (1 if place == path else 2)
            assert original in outbox.instance.mine
    assert len(writers) == 2
    assert original in writers
    assert (await who(copy, OTHER_PI))[0] == (writers - {original}).pop(), "and stays that one"


async def test_as_another_device_it_is_a_new_writer_and_fetches_anew(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first = await who(path, PI)
    named, renamed = (msgspec.structs.replace(PI, device=name) for name in ("pi-1", "pi-2"))
    assert await who(path, named) == first, "an outbox of before takes the name"
    assert await who(path, PI) == first == await who(path, named)
    async with open_outbox(path, FakeClock(), named) as outbox:  # type: ignore[arg-type]
        page = Changes(changes=[], cursor="k.1", more=False, rules_etag="")
        await outbox.records.apply(page, sweeping=False)
    async with open_outbox(path, FakeClock(), renamed) as outbox:  # type: ignore[arg-type]
        assert outbox.instance.id != first[0]
        assert first[0] in outbox.instance.mine
        assert (await outbox.records.cursor(), await outbox.records.sweeping()) == ("", True)
        second = outbox.instance.id
    assert (await who(path, renamed))[0] == second


async def test_a_container_without_hardware_goes_by_its_machine_id(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first = await who(path, Board(machine="c1"))
    assert first == await who(path, Board(machine="c1"))
    second = await who(path, Board(machine="c2"))
    assert first[0] != second[0]
    assert first[1] != second[1]


async def test_a_database_that_was_set_back_is_never_the_same_twice(tmp_path: Path) -> None:
    path, backup = tmp_path / "outbox.db", tmp_path / "backup.db"
    first = await who(path, PI)
    shutil.copy(path, backup)
    seen = {first}
    for _ in range(2):
        shutil.copy(backup, path)
        async with open_outbox(path, FakeClock(), PI) as outbox:  # type: ignore[arg-type]
            await outbox.records.write("progress", "p", Put({"percent": 1}))
            await outbox.instance.renew("seq-conflict")
            await outbox.records.write("progress", "p", Put({"percent": 2}))
            seen.add((outbox.instance.id, outbox.instance.outbox_id))
            kept = await outbox.records.read("progress", "p")
            assert kept is not None
            assert set(kept.state.version) == {first[0], outbox.instance.id}
            assert len(set(await streams(outbox))) == 2
            await outbox.messages.accept_through(dict.fromkeys(await streams(outbox), 1))
            assert await outbox.records.repush() == 1, "what it wrote under its former name is its own"
        assert (outbox.instance.id, outbox.instance.outbox_id) == await who(path, PI)
    assert len(seen) == 3


async def test_an_outbox_of_before_keeps_its_streams(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with open_outbox(path, FakeClock(), PI) as outbox:  # type: ignore[arg-type]
        outbox_id = outbox.instance.outbox_id
        async with outbox.db.transaction() as tx:
            await tx.execute("DELETE FROM cursors WHERE name = 'instance'")
            await tx.execute("INSERT INTO cursors VALUES ('stream.record', ?)", (f"record-{outbox_id}-4",))
    async with open_outbox(path, FakeClock(), PI) as outbox:  # type: ignore[arg-type]
        assert outbox.instance.outbox_id == outbox_id
        await outbox.records.write("progress", "p", Put({}))
        assert await streams(outbox) == [f"record-{outbox_id}-4"]


async def test_streams_of_before_go_on_under_a_name_of_now(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with open_outbox(path, FakeClock(), PI) as outbox:  # type: ignore[arg-type]
        await outbox.records.write("progress", "p", Put({"percent": 1}))
        await outbox.records.write("progress", "p", Put({"percent": 2}))
        (old, _), ids = await streams(outbox), {item.id for item in await outbox.messages.batch(9)}
        await outbox.messages.accept_through({old: 1})
        await outbox.instance.renew("seq-conflict")
        await outbox.records.write("progress", "p", Put({"percent": 3}))
        await outbox.messages.restart_stream(old, 2)
        own = outbox.instance.outbox_id
        assert sorted(await streams(outbox)) == [f"record-{own}", f"record-{own}-1"]
        assert len(ids & {item.id for item in await outbox.messages.batch(9)}) == 1
        await outbox.messages.restart_stream(f"record-{own}", 1)
        assert sorted(await streams(outbox)) == [f"record-{own}-1", f"record-{own}-2"]
        await outbox.records.write("progress", "p", Put({"percent": 4}))
        assert (await streams(outbox)).count(f"record-{own}-2") == 2
