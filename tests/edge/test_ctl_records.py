"""pisyncctl records and pisyncctl sync TYPE ID: a real process against a real gateway and outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pisyncd.core import merge, record, recordwire
from pisyncd.core.edits import Delete, Put

from .gateway_rig import Rig, gateway
from .test_ctl import ctl

MANUAL = record.TypeRule(strategy="manual")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


async def _pulled(rig: Rig, record_type: str, record_id: str, fields: dict[str, object]) -> None:
    """The cloud wrote the same record beside what is here."""
    rule = MANUAL if record_type == "attendance" else record.BUILT_IN[record_type]
    state = merge.put(record.EMPTY, rule, fields, merge.Pen.of_cloud("c-91aa", 1_700_000_000_000))
    rules = {**record.BUILT_IN, "attendance": MANUAL}
    change = recordwire.Change(type=record_type, id=record_id, state=state)
    etag = record.rules_etag(rules)
    page = recordwire.Changes(changes=[change], cursor="k.1", more=False, rules_etag=etag, rules=rules)
    await rig.outbox.records.apply(page, sweeping=False)


async def test_records_by_type_by_id_and_one(rig: Rig) -> None:
    nothing = await ctl(rig, "records")
    assert nothing.code == 0 and "never" in nothing.out
    for number in range(3):
        await rig.outbox.records.write("progress", f"prog_{number}", Put({"percent": 10 * number, "moduleId": "m"}))
    await rig.outbox.records.write("progress", "prog_2", Delete())
    counted = await ctl(rig, "records")
    assert counted.code == 75
    assert ["progress", "2"] in [line.split() for line in counted.out.splitlines()]
    assert (await ctl(rig, "records", "--json")).json["records"]["waiting"] == 3
    listed = await ctl(rig, "records", "progress", "--limit", "1")
    assert listed.code == 75 and "prog_0" in listed.out and "--after prog_0" in listed.out
    assert "prog_1" in (await ctl(rig, "records", "progress", "--after", "prog_0")).out
    assert "deleted" in (await ctl(rig, "records", "progress", "--deleted")).out
    one = await ctl(rig, "records", "progress", "prog_1")
    assert (
        one.code == 75 and "PENDING" in one.out and ["percent", "10"] in [line.split() for line in one.out.splitlines()]
    )
    as_json = (await ctl(rig, "records", "progress", "prog_1", "--json")).json
    assert as_json["data"]["fields"] == {"percent": 10, "moduleId": "m"}
    assert (await ctl(rig, "records", "enrollment")).out == "none\n"


async def test_a_conflict_is_told_in_a_sentence_and_an_open_one_needs_a_person(rig: Rig) -> None:
    await rig.outbox.records.write("enrollment", "e1", Put({"courseId": "algebra"}))
    await _pulled(rig, "enrollment", "e1", {"courseId": "geometry"})
    told = await ctl(rig, "records", "enrollment", "e1")
    assert "was kept over" in told.out and "the cloud" in told.out and told.code == 75
    await rig.outbox.records.write("attendance", "a1", Put({"present": True}))
    await _pulled(rig, "attendance", "a1", {"present": False})
    open_one = await ctl(rig, "records", "attendance", "a1")
    assert open_one.code == 1 and "! to be decided: " in open_one.out
    counted = await ctl(rig, "records")
    assert counted.code == 1 and "1 to be decided" in counted.out
    assert ["other", "types", "1"] in [line.split() for line in counted.out.splitlines()]


async def test_sync_of_one_record_waits_and_says_why_not(rig: Rig) -> None:
    await rig.outbox.records.write("profile", "u1", Put({"language": "de"}))
    done = await ctl(rig, "sync", "profile", "u1")
    assert (done.code, rig.memory.asked) == (75, ["profile/u1"]) and "language" in done.out
    rig.memory.not_synced = "offline"
    away = await ctl(rig, "sync", "profile", "u1", "--json")
    assert away.code == 75 and away.json["code"] == "offline" and away.json["hint"]
    assert (await ctl(rig, "sync", "profile")).code == 2
    assert (await ctl(rig, "sync")).code == 0 and rig.memory.asked[-1] == "sync"


async def test_what_is_not_there_is_1_and_strange_fields_cannot_move_the_cursor(rig: Rig) -> None:
    for arguments in (("records", "nonsense"), ("records", "progress", "none"), ("sync", "progress", "a b")):
        assert (await ctl(rig, *arguments)).code == 1
    fields = {"language": "\x1b[2J" + "x" * 300, "f" * 64: ["ü" * 90], "z": None, "deep": {"a": {"b": [1, 2]}}}
    await rig.outbox.records.write("profile", "x" * 128, Put(fields))
    await _pulled(rig, "profile", "x" * 128, {"language": "\x1b[2J" + "y" * 300})
    for shown in (("records",), ("records", "profile"), ("records", "profile", "x" * 128)):
        said = await ctl(rig, *shown)
        assert said.out and "\x1b" not in said.out
        assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize(
    "words", [("records", "x\udcff"), ("sync", "progress", "\udcff"), ("records", "progress", "\udcff")]
)
async def test_bytes_that_are_no_text_are_refused(rig: Rig, words: tuple[str, ...]) -> None:
    said = await ctl(rig, *words)
    assert said.code == 1 and "Traceback" not in said.err
    assert (await ctl(rig, "records", "progress", "--after", "\udcff")).code == 1
