"""This device's copy of records: a write and its message are one, and what the cloud tells joins it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pisyncd.core import admitting, merge, record, recordwire, wire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.errors import StorageBusy
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import State, TypeRule, Write
from pisyncd.core.recordwire import Change, Changes
from pisyncd.outbox import Outbox, open_outbox, reconciling
from pisyncd.outbox.instance import Board
from pisyncd.outbox.records import Records, Written

from .outbox_rig import FakeClock

BOARD = Board(serial="1")
CLOUD = "c-91aa"


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    async with open_outbox(tmp_path / "outbox.db", FakeClock(), BOARD) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def records(outbox: Outbox) -> Records:
    return outbox.records


def pushed(item: wire.Item) -> tuple[recordwire.Pushed, State]:
    body = recordwire.decode_pushed(bytes(item.itemData))
    return body, record.checked_state(bytes(body.state))


async def waiting(outbox: Outbox) -> list[wire.Item]:
    return [item for item in await outbox.messages.batch(10_000) if (item.stream or "").startswith("record-")]


async def acknowledge(outbox: Outbox) -> None:
    """The cloud has everything."""
    await outbox.messages.accept_through({item.stream or "": item.seq or 0 for item in await waiting(outbox)})


def page(
    *changes: Change, cursor: str = "a.1", more: bool = False, rules: dict[str, TypeRule] | None = None
) -> Changes:
    return Changes(changes=list(changes), cursor=cursor, more=more, rules_etag="e", rules=rules)


def by_cloud(record_type: str, record_id: str, fields: dict[str, Any], before: State = record.EMPTY) -> Change:
    state = merge.put(before, record.BUILT_IN[record_type], fields, Pen.of_cloud(CLOUD, 5_000))
    return Change(type=record_type, id=record_id, state=state)


async def refusal(records: Records, record_type: str, record_id: str, edit: Edit, **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await records.write(record_type, record_id, edit, **more)
    return caught.value


# Writing


async def test_a_write_and_its_message_are_one(outbox: Outbox, records: Records) -> None:
    rung: list[int] = []
    records.changed = lambda: rung.append(1)
    written = await records.write("progress", "p1", Put({"percent": 7}))
    assert (written.created, written.changed, written.kept.waiting) == (True, True, True)
    (item,) = await waiting(outbox)
    assert (item.itemType, item.id, item.seq) == ("progress", written.kept.message_id, 1)
    body, state = pushed(item)
    assert (body.type, body.id, body.base) == ("progress", "p1", {})
    assert state == written.kept.state
    assert state.version == {records.writer: 1}
    second = await records.write("progress", "p1", Patch({"percent": 9}))
    assert (second.created, second.kept.fields) == (False, {"percent": 9})
    body, _ = pushed((await waiting(outbox))[1])
    assert body.base == {records.writer: 1}
    assert rung == [1, 1]


async def test_a_write_that_changes_nothing_sends_nothing(outbox: Outbox, records: Records) -> None:
    await records.write("enrollment", "e", Put({"courseId": "c"}))
    await acknowledge(outbox)
    edits: list[Edit] = [Put({"courseId": "c"}), Patch({"courseId": "c"}), Patch({}), Patch({"absent": None})]
    for edit in edits:
        written = await records.write("enrollment", "e", edit)
        assert (written.changed, written.created, written.kept.waiting) == (False, False, False)
    await records.write("enrollment", "e", Delete())
    again = await records.write("enrollment", "e", Delete())
    assert (again.changed, again.kept.deleted) == (False, True)
    assert len(await waiting(outbox)) == 1


async def test_a_deleted_record_leaves_a_tombstone_and_can_be_made_again(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "p", Put({"percent": 7}))
    gone = (await records.write("progress", "p", Delete())).kept
    assert (gone.deleted, gone.fields) == (True, {})
    assert await records.page("progress", "", 10) == []
    assert [each.id for each in await records.page("progress", "", 10, deleted=True)] == ["p"]
    assert (await refusal(records, "progress", "p", Patch({"percent": 1}))).code == "record-unknown"
    assert (await records.write("progress", "p", Put({"score": 1}))).created
    assert (await records.read("progress", "p")).fields == {"score": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("record_type", "record_id", "edit", "status", "code"),
    [
        ("nothing", "p", Put({}), 404, "record-type-unknown"),
        ("progress", "", Put({}), 422, "validation"),
        ("progress", "../p", Put({}), 422, "validation"),
        ("progress", "p" * 129, Put({}), 422, "validation"),
        ("progress", "p", Patch({"percent": 1}), 404, "record-unknown"),
        ("progress", "p", Delete(), 404, "record-unknown"),
        ("progress", "p", Put({"percent": "much"}), 422, "validation"),
        ("progress", "p", Put({"a b": 1}), 422, "validation"),
        ("progress", "p", Put({"email": "amina@example.org"}), 422, "personal-data"),
        ("progress", "p", Put({"attempts": 10**400}), 422, "validation"),
        ("progress", "p", Put({"x": 1e308 * 10}), 422, "validation"),
        ("progress", "p", Put({"x": "\0"}), 422, "validation"),
        ("progress", "p", Put({f"f{n}": n for n in range(101)}), 422, "validation"),
        ("enrollment", "e", Put({"x": "y" * 33_000}), 413, "record-too-large"),
        ("enrollment", "e", Put({"x": [[[[[[[[[1]]]]]]]]]}), 422, "validation"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    outbox: Outbox, records: Records, record_type: str, record_id: str, edit: Edit, status: int, code: str
) -> None:
    refused = await refusal(records, record_type, record_id, edit)
    assert (refused.status, refused.code) == (status, code)
    assert await waiting(outbox) == []
    assert (await records.counts()).records == 0


async def test_a_profile_may_hold_a_name(records: Records) -> None:
    assert (await records.write("profile", "u1", Put({"name": "Amina", "email": "amina@example.org"}))).created


async def test_a_record_never_grows_beyond_what_the_cloud_takes(records: Records) -> None:
    await records.write("profile", "u", Put({"a": "x" * 20_000}))
    assert (await refusal(records, "profile", "u", Patch({"b": "y" * 20_000}))).status == 413
    await asyncio.gather(*(records.write("progress", "p", Patch({f"f{n}": 1}, create=True)) for n in range(100)))
    assert (await refusal(records, "progress", "p", Patch({"one_more": 1}))).code == "too-many-fields"


async def test_a_condition_is_looked_at_inside_the_transaction(outbox: Outbox, records: Records) -> None:
    first = await records.write("progress", "p", Put({"attempts": 0}))
    etag = record.etag(first.kept.state)
    tries = [records.write("progress", "p", Patch({"attempts": n}), if_match={etag}) for n in range(1, 9)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, Written) for each in outcomes) == 1
    lost = [each for each in outcomes if isinstance(each, Refusal)]
    assert {(each.status, each.code) for each in lost} == {(412, "version-mismatch")}
    kept = await records.read("progress", "p")
    assert kept is not None
    assert {each.headers["ETag"] for each in lost} == {f'"{record.etag(kept.state)}"'}
    assert (await refusal(records, "progress", "new", Put({}), if_match={"*"})).status == 412
    assert (await refusal(records, "progress", "new", Put({}), if_match={""})).status == 412
    assert (await records.write("progress", "p", Delete(), if_match={"*"})).changed
    assert (await refusal(records, "progress", "p", Put({}), if_match={"*"})).status == 412


async def test_many_at_once_lose_nothing(outbox: Outbox, records: Records) -> None:
    await asyncio.gather(
        *(records.write("progress", f"p{n % 7}", Patch({f"by{n}": n}, create=True)) for n in range(210))
    )
    found = await records.page("progress", "", 100)
    assert sum(len(each.fields) for each in found) == 210
    assert all(each.state.version == {records.writer: 30} for each in found)
    items = await waiting(outbox)
    assert len({item.id for item in items}) == len(items) == 210
    assert [item.seq for item in items] == list(range(1, 211))


async def test_a_given_id_is_the_messages_unless_it_is_in_use(outbox: Outbox, records: Records) -> None:
    assert (await records.write("progress", "a", Put({}), message_id="m-1")).kept.message_id == "m-1"
    assert (await records.write("progress", "b", Put({}), message_id="m-1")).kept.message_id not in (None, "m-1")
    assert len(await waiting(outbox)) == 2


async def test_a_full_disk_takes_nothing_and_forgets_nothing(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "p", Put({"percent": 1}))
    used = (await outbox.db._writer.execute_fetchall("PRAGMA page_count"))[0][0]  # type: ignore[index]
    await outbox.db._writer.execute(f"PRAGMA max_page_count = {used + 2}")
    with pytest.raises(StorageBusy) as caught:
        await records.write("profile", "u", Put({"text": "x" * 30_000}))
    assert caught.value.code == "storage-full"
    with pytest.raises(StorageBusy):
        await records.apply(page(by_cloud("profile", "u", {"text": "x" * 30_000}), cursor="b"), sweeping=False)
    assert (await records.read("profile", "u"), await records.cursor()) == (None, "")
    await outbox.db._writer.execute("PRAGMA max_page_count = 100000")
    await records.write("profile", "u", Put({"text": "x" * 30_000}))
    assert len(await waiting(outbox)) == 2


async def test_records_are_never_shed_and_go_first(outbox: Outbox, records: Records) -> None:
    outbox.messages.queue_max = 1
    async with outbox.db.transaction() as tx:
        for _ in range(3):
            await outbox.messages.append(tx, wire.STREAM_EVENT, "event", {})
        await outbox.messages.append(tx, "learn10", "event", {})
    for number in range(3):
        await records.write("progress", f"p{number}", Put({}))
    order = [(item.stream or "").partition("-")[0] for item in await outbox.messages.batch(10)]
    assert order == ["learn10", "record", "record", "record", "event"]
    assert await outbox.anything_owed()


# Acknowledged


async def test_a_record_waits_until_its_last_write_is_acknowledged(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "p", Put({"percent": 1}))
    await records.write("progress", "p", Put({"percent": 2}))
    await records.write("progress", "q", Put({}))
    (stream,) = {item.stream or "" for item in await waiting(outbox)}
    assert (await records.counts()).waiting == 2
    await outbox.messages.accept_through({stream: 1})
    assert (await records.read("progress", "p")).waiting  # type: ignore[union-attr]
    await outbox.messages.accept_through({stream: 3})
    kept = await records.read("progress", "p")
    assert kept is not None
    assert (kept.waiting, kept.refused, kept.synced_wall_ms) == (False, False, outbox.db.clock.wall_ms())
    assert (await records.counts()).waiting == 0


async def test_what_the_cloud_refuses_is_said_to_be_refused(outbox: Outbox, records: Records) -> None:
    for name in ("a", "b", "c"):
        await records.write("progress", name, Put({}))
    first, second, third = await waiting(outbox)
    await outbox.messages.hollow_out(third, "item-invalid", outbox.ledger)
    await outbox.messages.accept_through({first.stream or "": 3}, {"item-invalid": [second]}, outbox.ledger)
    shown = {name: await records.read("progress", name) for name in ("a", "b", "c")}
    assert [each.refused for each in shown.values() if each is not None] == [False, True, True]
    assert (await records.counts()).waiting == 0
    await records.write("progress", "b", Patch({"percent": 1}))
    await acknowledge(outbox)
    assert not (await records.read("progress", "b")).refused  # type: ignore[union-attr]


async def test_what_the_cloud_refuses_as_removed_for_good_goes_with_its_decisions(
    outbox: Outbox, records: Records
) -> None:
    await records.write("assessment", "gone", Put({"grade": 1}))
    await records.apply(page(by_cloud("assessment", "gone", {"grade": 2})), sweeping=False)
    await records.write("assessment", "kept", Put({}))
    await records.write("assessment", "gone", Put({"grade": 3}))
    assert await records.decisions_of("assessment", "gone")
    first, _, last = await waiting(outbox)
    stream = first.stream or ""
    await outbox.messages.accept_through({stream: 1}, {"record-purged": [first]}, outbox.ledger)
    # what was written after it is refused in its turn
    assert await records.read("assessment", "gone") is None and await records.decisions_of("assessment", "gone") == []
    await outbox.messages.accept_through({stream: 3}, {"record-purged": [last]}, outbox.ledger)
    kept = await records.read("assessment", "kept")
    assert kept is not None and not kept.waiting and not kept.refused
    told = [(each["what"], each["reason"]) for each in await outbox.ledger.newest(9)]
    assert told == [("message-refused", "record-purged")] * 2


# What the cloud tells


async def test_a_page_joins_the_copy_and_its_cursor_commits_with_it(outbox: Outbox, records: Records) -> None:
    applied = await records.apply(page(by_cloud("profile", "u", {"class": "4b"}), cursor="k.7"), sweeping=False)
    assert (applied.count, applied.dropped, applied.skipped) == (1, 0, 0)
    kept = await records.read("profile", "u")
    assert kept is not None
    assert (kept.fields, kept.waiting, kept.updated_wall_ms) == ({"class": "4b"}, False, 5_000)
    assert await records.cursor() == "k.7"
    assert await records.pulled_wall_ms() == outbox.db.clock.wall_ms()
    assert await waiting(outbox) == []


async def test_what_was_decided_is_explained_newest_first(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "p", Put({"percent": 7, "score": 3}))
    change = by_cloud("progress", "p", {"percent": 99, "score": 1})
    for _ in range(2):
        await records.apply(page(change), sweeping=False)
    kept = await records.read("progress", "p")
    assert kept is not None
    assert kept.fields == {"percent": 99, "score": 3}
    assert kept.waiting, "the write here is still owed"
    assert [each.field for each in await records.decisions_of("progress", "p")] == ["score", "percent"]
    assert [each.field for each in await records.decisions_of("progress", "p", 1)] == ["score"]


async def test_a_conflict_stays_open_until_a_write_has_seen_both_sides(outbox: Outbox, records: Records) -> None:
    rules = {**record.BUILT_IN, "attendance": TypeRule(strategy="manual")}
    await records.apply(page(rules=rules), sweeping=False)
    await records.write("attendance", "a", Put({"present": True}))
    state = merge.put(record.EMPTY, rules["attendance"], {"present": False}, Pen.of_cloud(CLOUD, 1))
    await records.apply(page(Change(type="attendance", id="a", state=state)), sweeping=False)
    assert (await records.counts()).open == 1
    assert [each.open for each in await records.decisions_of("attendance", "a")] == [True]
    await records.write("attendance", "a", Put({"present": False}))
    assert (await records.counts()).open == 0
    assert (await waiting(outbox))[0].itemType == "record"


async def test_rules_are_kept_and_what_is_shown_follows_them(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        records = outbox.records
        assert records.rules == record.BUILT_IN
        assert await records.rules_etag() == record.rules_etag(record.BUILT_IN)
        await records.write("assessment", "a", Put({"grade": 1}))
        await records.apply(page(by_cloud("assessment", "a", {"grade": 2})), sweeping=False)
        assert (await records.read("assessment", "a")).fields == {"grade": 1}  # type: ignore[union-attr]
        rules = {"assessment": TypeRule(strategy="manual"), "Not A Type": TypeRule(strategy="manual")}
        await records.apply(page(rules=rules), sweeping=False)
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        assert outbox.records.rules == {**record.BUILT_IN, "assessment": TypeRule(strategy="manual")}
        assert await outbox.records.rules_etag() == "e"
        assert (await outbox.records.counts()).open == 1


async def test_hostile_pages_never_stop_the_line(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "mine", Put({"percent": 5}))
    write = Write(CLOUD, 1, 1, 3, True)
    good = State(version={CLOUD: 1}, registers={"": (write,)})
    many = {f"c-{n:04x}": 1 for n in range(300)}
    hostile = [
        Change(type="nothing", id="a", state=good),
        Change(type="progress", id="../../etc", state=good),
        Change(type="progress", id="b"),
        Change(type="progress", id="c", state=State()),
        Change(type="progress", id="d", state=State(version={"x": 1}, registers={"": (write,)})),
        Change(
            type="progress", id="e", state=State(version={CLOUD: 1}, registers={"": (Write(CLOUD, 2, 1, 3, True),)})
        ),
        Change(type="progress", id="f", state=State(version=many, registers={"": (write,)})),
        Change(type="progress", id="g", state=State(version={CLOUD: 1}, registers={"a b": (write,)})),
        Change(type="progress", id="h", state=State(version={CLOUD: 1}, registers={"": (write, write)})),
        Change(type="progress", id="i", state=State(version={CLOUD: 1}, registers={"": ()})),
        Change(type="assessment", id="j", state=good),
        Change(type="progress", id="k", state=_holding(10**400)),
        Change(type="progress", id="l", state=_holding("x" * 600_000)),
        Change(type="progress", id="m", state=_holding(_nested(900))),
        Change(type="nothing", id="n", gone=True),
        Change(type="progress", id="mine", state=_holding([1], register="attempts")),
    ]
    applied = await records.apply(
        page(*hostile, by_cloud("progress", "z", {"percent": 1}), cursor="k.9"), sweeping=False
    )
    assert applied.skipped == 14
    assert await records.cursor() == "k.9"
    assert [each.id for each in await records.page("progress", "", 100)] == ["mine", "z"]
    assert (await records.read("progress", "mine")).fields["percent"] == 5  # type: ignore[union-attr]
    assert (await records.write("progress", "mine", Patch({"attempts": 3}))).kept.fields["attempts"] == 3


def _holding(value: Any, register: str = "x") -> State:
    writes = {name: (Write(CLOUD, 1, 1, 3, each),) for name, each in (("", True), (register, value))}
    return State(version={CLOUD: 1}, registers=writes)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


async def test_what_the_device_may_not_have_any_more_goes_when_nothing_of_it_waits(
    outbox: Outbox, records: Records
) -> None:
    changes = [by_cloud("progress", name, {"percent": 1}) for name in ("kept", "gone")]
    await records.apply(page(*changes), sweeping=False)
    await records.write("progress", "kept", Patch({"percent": 2}))
    gone = [Change(type="progress", id=name, gone=True) for name in ("kept", "gone", "never")]
    applied = await records.apply(page(*gone), sweeping=False)
    assert applied.dropped == 1
    assert [each.id for each in await records.page("progress", "", 9)] == ["kept"]
    await acknowledge(outbox)
    assert await records.page("progress", "", 9) == []
    assert await records.decisions_of("progress", "gone") == []


async def test_what_is_written_after_it_was_taken_away_stays(outbox: Outbox, records: Records) -> None:
    await records.write("progress", "p", Put({"percent": 1}))
    await records.apply(page(Change(type="progress", id="p", gone=True)), sweeping=False)
    await records.write("progress", "p", Put({"percent": 2}))
    await acknowledge(outbox)
    assert [each.id for each in await records.page("progress", "", 9)] == ["p"]


async def test_what_does_not_come_again_in_a_full_fetch_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        records = outbox.records
        there = {name: by_cloud("progress", name, {"percent": 1}) for name in ("a", "b", "c", "d")}
        await records.apply(page(*there.values()), sweeping=False)
        await records.write("progress", "b", Patch({"percent": 5}))
        await records.begin_sweep()
        assert (await records.cursor(), await records.sweeping()) == ("", True)
        await records.apply(page(there["a"], cursor="n.1", more=True), sweeping=True)
        assert len(await records.page("progress", "", 9)) == 4, "nothing is dropped before the end"
        await records.write("progress", "new", Put({}))
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        records = outbox.records
        assert (await records.cursor(), await records.sweeping()) == ("n.1", True), "it goes on after a restart"
        applied = await records.apply(page(there["d"], cursor="n.2"), sweeping=await records.sweeping())
        assert applied.dropped == 1
        assert [each.id for each in await records.page("progress", "", 9)] == ["a", "b", "d", "new"]
        assert not await records.sweeping()
        await records.apply(page(cursor="n.3"), sweeping=False)
        assert len(await records.page("progress", "", 9)) == 4


# A cloud that has lost something


async def test_what_the_cloud_has_lost_is_owed_again(outbox: Outbox, records: Records) -> None:
    rung: list[int] = []
    await records.write("progress", "p", Put({"percent": 7}))
    await acknowledge(outbox)
    records.changed = lambda: rung.append(1)
    lost = by_cloud("progress", "p", {"score": 1})
    assert (await records.apply(page(lost), sweeping=False)).owed == 1
    (item,) = await waiting(outbox)
    body, state = pushed(item)
    assert state.version == {CLOUD: 1, records.writer: 1}
    assert body.base == {CLOUD: 1}
    assert rung == [1]
    assert (await records.apply(page(lost), sweeping=False)).owed == 0, "it waits already"
    await acknowledge(outbox)
    whole = Change(type="progress", id="p", state=state)
    assert (await records.apply(page(whole), sweeping=False)).owed == 0


async def test_what_the_cloud_has_lost_of_others_goes_here_too_and_ones_own_stays(
    outbox: Outbox, records: Records
) -> None:
    await records.apply(page(by_cloud("profile", "u", {"lost": 1})), sweeping=False)
    await records.write("profile", "u", Patch({"own": 2}))
    await acknowledge(outbox)
    restored = merge.put(record.EMPTY, record.BUILT_IN["profile"], {"new": 3}, Pen.of_cloud("c-0002", 9_000))
    await records.begin_sweep()
    applied = await records.apply(page(Change(type="profile", id="u", state=restored)), sweeping=True)
    kept = await records.read("profile", "u")
    assert kept is not None
    assert (kept.fields, applied.owed) == ({"new": 3, "own": 2}, 1)
    assert CLOUD not in kept.state.version, "the cloud would never take it from here: it would stay in this copy alone"


async def test_a_write_that_was_refused_or_renamed_is_not_pressed_upon_the_cloud(
    outbox: Outbox, records: Records
) -> None:
    await records.write("progress", "refused", Put({}))
    (item,) = await waiting(outbox)
    await outbox.messages.accept_through({item.stream or "": 1}, {"item-invalid": [item]}, outbox.ledger)
    kept = (await records.write("progress", "renamed", Put({"percent": 3}))).kept
    await acknowledge(outbox)
    changes = [
        by_cloud("progress", "refused", {"percent": 1}),
        Change(type="progress", id="renamed", state=admitting.renamed(kept.state, records.writer)),
    ]
    assert (await records.apply(page(*changes), sweeping=False)).owed == 0


async def test_all_that_was_written_here_is_owed_again_once(outbox: Outbox, records: Records) -> None:
    names = [f"p{number}" for number in range(reconciling.PART + 30)]
    await asyncio.gather(*(records.write("progress", name, Put({"percent": 1})) for name in names))
    await records.apply(page(by_cloud("profile", "of-the-cloud", {})), sweeping=False)
    assert await records.repush() == 0, "all of it waits"
    await acknowledge(outbox)
    await records.write("progress", "p0", Patch({"percent": 2}))
    assert await records.repush() == reconciling.PART + 29
    assert await records.repush() == 0
    assert (await records.counts()).waiting == reconciling.PART + 30


# A damaged outbox


async def test_records_and_decisions_are_carried_over_from_a_damaged_outbox(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    rules = {"attendance": TypeRule(strategy="manual")}
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        records, first = outbox.records, outbox.instance.id
        await records.write("progress", "p", Put({"percent": 7}))
        await records.write("progress", "q", Put({"percent": 7}))
        await records.write("progress", "lost", Put({"percent": 7}))
        await records.apply(page(by_cloud("progress", "p", {"percent": 9}), cursor="k.4", rules=rules), sweeping=False)
        await records.write("attendance", "a", Put({"there": True}))
        items = await waiting(outbox)
        async with outbox.db.transaction() as tx:
            await tx.execute("DELETE FROM messages WHERE id = ?", (items[2].id,))
            await tx.execute("UPDATE records SET state = '{\"version\": {\"x\": 1}}' WHERE id = 'q'")
    path.with_name("outbox.db.suspect").touch()
    async with open_outbox(path, FakeClock(), BOARD) as outbox:  # type: ignore[arg-type]
        records = outbox.records
        kept = await records.read("progress", "p")
        assert kept is not None
        assert (kept.fields, kept.waiting) == ({"percent": 9}, True)
        assert [each.field for each in await records.decisions_of("progress", "p")] == ["percent"]
        assert await records.read("progress", "q") is None, "cannot be read; the message of it can"
        assert (await records.read("progress", "lost")).waiting, "its message could not be read"  # type: ignore[union-attr]
        assert (await records.read("attendance", "a")).fields == {"there": True}  # type: ignore[union-attr]
        found = {pushed(item)[0].id: item for item in await waiting(outbox)}
        assert found.keys() == {"p", "q", "lost", "a"}
        assert {found[name].id for name in ("p", "q", "a")} == {items[n].id for n in (0, 1, 3)}
        assert (await records.cursor(), await records.sweeping()) == ("", True), "what was torn is fetched anew"
        assert outbox.instance.id != first
        assert first in outbox.instance.mine
        assert "3 records" in (await outbox.ledger.newest(1))[0]["detail"]
        assert msgspec.json.decode(bytes(found["a"].itemData))["type"] == "attendance"


async def test_what_this_instance_told_last_itself_need_not_come_back(outbox: Outbox, records: Records) -> None:
    written = await records.write("progress", "p1", Put({"percent": 40}))
    await acknowledge(outbox)
    echo = Change(type="progress", id="p1", version={records.writer: 1})
    applied = await records.apply(page(echo, cursor="a.7"), sweeping=False)
    assert (applied.count, applied.dropped, await records.cursor()) == (1, 0, "a.7")
    kept = await records.read("progress", "p1")
    assert kept is not None
    assert kept.state == written.kept.state


@pytest.mark.parametrize("record_id", ["p1", "p2"])
async def test_an_earlier_copy_of_the_database_notices_and_fetches_all_anew(
    outbox: Outbox, records: Records, record_id: str
) -> None:
    await records.write("progress", "p1", Put({"percent": 40}))
    await acknowledge(outbox)
    echo = Change(type="progress", id=record_id, version={records.writer: 2})
    await records.apply(page(echo, cursor="a.7"), sweeping=False)
    assert await records.cursor() == ""
    assert await records.sweeping()
