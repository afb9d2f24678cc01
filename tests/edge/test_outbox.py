"""The outbox on a real SQLite database."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from pisyncd.core import transfer as rules
from pisyncd.core.backoff import Breaker
from pisyncd.core.errors import Rejected, SchemaTooNew, SourceGone, StorageBusy
from pisyncd.outbox import open_outbox, salvage
from pisyncd.outbox.books import Cycle
from pisyncd.outbox.db import connect

from .outbox_rig import FakeClock, digest, sighting

CYCLE = Cycle(
    outcome="success",
    attempted=3,
    files_synced=3,
    errors=0,
    bytes_sent=30,
    speed_mbps=1.5,
    duration_ms=500,
    error_code=None,
)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def outbox(tmp_path, clock):
    async with open_outbox(tmp_path / "outbox.db", clock) as opened:
        yield opened


async def claim(outbox, *paths):
    wanted = [each for each in await outbox.files.next_in_turn(100) if not paths or each.path in paths]
    members = [(each, digest(each.mtime_ns)) for each in wanted]
    return await outbox.files.claim(members, kind="bundle", spool="x", length=100, sha256=digest(1), priority=5)


async def states(outbox):
    return {state: count for state, (count, _) in (await outbox.queue.by_state()).items()}


async def test_a_sighting_becomes_pending_with_its_message_in_one_transaction(outbox):
    added = await outbox.files.add([sighting(b"a", 1), sighting(b"b", 1)])
    assert (added.new, added.changed, added.unchanged) == (2, 0, 0)
    [message] = await outbox.messages.batch(10)
    assert message.seq == 1
    assert b'"upload.queued"' in bytes(message.itemData)
    again = await outbox.files.add([sighting(b"a", 1), sighting(b"b", 2)])
    assert (again.new, again.changed, again.unchanged) == (0, 1, 1)
    assert await states(outbox) == {"pending": 2}


async def test_the_order_is_priority_then_age(outbox):
    await outbox.files.add([sighting(b"old", 1)])
    await outbox.files.add([sighting(b"urgent", 2, priority=9), sighting(b"later", 3)])
    assert [each.path for each in await outbox.files.next_in_turn(10)] == [b"urgent", b"old", b"later"]


async def test_a_file_that_changes_on_its_way_is_superseded_and_sent_anew_afterwards(outbox):
    await outbox.files.add([sighting(b"a", 1), sighting(b"b", 1)])
    begun = await claim(outbox)
    await outbox.files.add([sighting(b"a", 2)])
    assert await states(outbox) == {"pending": 1, "superseded": 1, "uploading": 1}
    assert await outbox.files.next_in_turn(10) == [], "the newer version must not overtake the older one"
    assert await outbox.files.complete(begun, bytes_sent=1, duration_ms=1) == 1
    assert [each.mtime_ns for each in await outbox.files.next_in_turn(10)] == [2]
    assert await states(outbox) == {"complete": 1, "pending": 1}


async def test_a_version_that_changed_before_its_claim_stays_pending(outbox):
    await outbox.files.add([sighting(b"a", 1)])
    [seen] = await outbox.files.next_in_turn(1)
    await outbox.files.add([sighting(b"a", 2)])
    claimed = await outbox.files.claim(
        [(seen, digest(1))], kind="file", spool=None, length=10, sha256=digest(1), priority=5
    )
    assert claimed is None
    assert await states(outbox) == {"pending": 1}
    assert await outbox.files.transfers_begun() == []


async def test_a_refused_file_is_listed_ledgered_and_blocks_nobody(outbox):
    await outbox.files.add([sighting(b"bad", 1), sighting(b"good", 1)])
    bad, good = await outbox.files.next_in_turn(10)
    await outbox.files.fail([bad], Rejected("no", code="path-invalid", hint="rename it"))
    assert [each.path for each in await outbox.files.next_in_turn(10)] == [good.path]
    [failure] = await outbox.queue.failures(10)
    assert (failure["error_code"], failure["error_hint"]) == ("path-invalid", "rename it")
    [entry] = await outbox.ledger.newest(10)
    assert (entry["what"], entry["reason"], entry["detail"]) == ("file-refused", "path-invalid", "r/bad")
    assert (await outbox.messages.batch(10))[0].itemType == "loss", "losses go before anything else"
    assert await outbox.files.retry() == 1
    assert await states(outbox) == {"pending": 2}


async def test_a_failed_file_that_changed_is_offered_again(outbox):
    await outbox.files.add([sighting(b"a", 1)])
    await outbox.files.fail(await outbox.files.next_in_turn(1), SourceGone())
    await outbox.files.add([sighting(b"a", 1)])
    assert [each.mtime_ns for each in await outbox.files.next_in_turn(10)] == [1], "it came back"
    begun = await claim(outbox)
    await outbox.files.complete(begun, bytes_sent=0, duration_ms=0)
    assert await states(outbox) == {"complete": 1}


async def test_a_postponed_file_waits_in_outbox_time_across_a_reboot_with_a_wrong_clock(tmp_path, clock):
    path = tmp_path / "outbox.db"
    async with open_outbox(path, clock) as outbox:
        await outbox.files.add([sighting(b"a", 1)])
        await outbox.files.postpone(await outbox.files.next_in_turn(1), Rejected(), outbox.db.now_ms() + 60_000)
    clock.reboot()
    async with open_outbox(path, clock) as outbox:
        assert await outbox.files.next_in_turn(1) == []
        clock.pass_s(59)
        assert await outbox.files.next_in_turn(1) == []
        clock.pass_s(1)
        assert len(await outbox.files.next_in_turn(1)) == 1


async def test_what_is_begun_survives_a_restart_and_the_breaker_too(tmp_path, clock):
    path = tmp_path / "outbox.db"
    async with open_outbox(path, clock) as outbox:
        await outbox.files.add([sighting(b"a", 1)])
        begun = await claim(outbox)
        await outbox.files.located(begun.id, "http://cloud/api/files/1", 7)
        await outbox.memory.set_breaker("cloud", Breaker(failures=4, due_at_ms=99_000))
    async with open_outbox(path, clock) as outbox:
        [again] = await outbox.files.transfers_begun()
        assert (again.url, again.offset, again.kind) == ("http://cloud/api/files/1", 7, "bundle")
        assert await outbox.memory.breaker("cloud") == Breaker(failures=4, due_at_ms=99_000)
        await outbox.files.give_back(again)
        assert await states(outbox) == {"pending": 1}


async def test_content_that_was_delivered_is_known(outbox):
    await outbox.files.add([sighting(b"a", 5)])
    begun = await claim(outbox)
    assert not await outbox.files.knows_content(digest(5))
    await outbox.files.complete(begun, bytes_sent=1, duration_ms=1)
    assert await outbox.files.knows_content(digest(5))
    await outbox.files.forget_contents([digest(5)])
    assert not await outbox.files.knows_content(digest(5))


async def test_messages_leave_only_when_their_number_is_acknowledged(outbox):
    for _ in range(5):
        await outbox.cycles.record(CYCLE, {"device_id": "d", "timestamp": "t"})
    items = await outbox.messages.batch(3)
    assert [each.seq for each in items] == [1, 2, 3]
    stream = items[0].stream
    assert await outbox.messages.accept_through({stream: 2}) == 2
    assert await outbox.messages.accept_through({stream: 1, "unknown": 9}) == 0
    assert [each.seq for each in await outbox.messages.batch(10)] == [3, 4, 5]
    assert (await outbox.messages.owed())[0] == 3


async def test_a_message_the_cloud_will_never_take_is_emptied_once_and_ledgered(outbox):
    await outbox.cycles.record(CYCLE, {"device_id": "d"})
    [item] = await outbox.messages.batch(1)
    assert await outbox.messages.hollow_out(item, "message-too-large", outbox.ledger)
    assert not await outbox.messages.hollow_out(item, "message-too-large", outbox.ledger)
    emptied = next(each for each in await outbox.messages.batch(9) if each.id == item.id)
    assert (emptied.itemType, emptied.seq) == ("dropped", item.seq)
    assert await outbox.ledger.count() == 1


async def test_a_stream_whose_past_the_cloud_has_lost_begins_anew_with_the_same_ids(outbox):
    for _ in range(4):
        await outbox.cycles.record(CYCLE, {"device_id": "d"})
    old = await outbox.messages.batch(9)
    await outbox.messages.accept_through({old[0].stream: 2})
    await outbox.messages.restart_stream(old[0].stream, 3)
    await outbox.cycles.record(CYCLE, {"device_id": "d"})
    new = await outbox.messages.batch(9)
    assert [each.seq for each in new] == [1, 2, 3]
    assert [each.id for each in new[:2]] == [each.id for each in old[2:]]
    assert {each.stream for each in new} != {old[0].stream}


async def test_reports_are_shed_at_the_ceiling_and_counted_learning_data_never(outbox):
    outbox.messages.queue_max = 2
    for number in range(5):
        await outbox.files.add([sighting(b"%d" % number, 1)])
    assert (await outbox.messages.owed())[0] == 2
    assert await states(outbox) == {"pending": 5}
    await outbox.messages.tell_shed(outbox.ledger)
    [entry] = await outbox.ledger.newest(1)
    assert (entry["what"], entry["count"]) == ("reports-shed", 3)


async def test_nothing_of_a_broken_transaction_stays(outbox):
    with pytest.raises(RuntimeError):
        async with outbox.db.transaction() as tx:
            await outbox.messages.append(tx, "event", "event", {"eventType": "x"})
            raise RuntimeError
    assert await outbox.messages.batch(10) == []
    await outbox.files.add([sighting(b"a", 1)])


async def test_a_full_disk_is_trouble_that_passes(tmp_path, clock):
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:
        await outbox.db._writer.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StorageBusy) as caught:
            for number in range(1000):
                await outbox.files.add([sighting(b"%d" % number * 100, each) for each in range(3)])
        assert caught.value.code == "storage-full"
        held = (await outbox.queue.owed())[0]
        await outbox.db._writer.execute("PRAGMA max_page_count = 4000")
        await outbox.files.add([sighting(b"more", 1)])
        assert (await outbox.queue.owed())[0] == held + 1


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path, clock):
    path = tmp_path / "outbox.db"
    async with open_outbox(path, clock):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(SchemaTooNew) as caught:
        async with open_outbox(path, clock):
            pass
    assert (caught.value.exit_code, caught.value.code) == (78, "schema-too-new")
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_a_damaged_outbox_is_set_aside_and_its_messages_carried_over(tmp_path, clock):
    path = tmp_path / "outbox.db"
    async with open_outbox(path, clock) as outbox:
        for number in range(200):
            await outbox.cycles.record(CYCLE, {"device_id": "d", "pad": "x" * 500, "number": number})
        ids = {each.id for each in await outbox.messages.batch(500)}
    tear(path, leave=0.6)
    async with open_outbox(path, clock) as outbox:
        [entry] = await outbox.ledger.newest(5)
        assert entry["what"] == "outbox-damaged"
        carried = {each.id for each in await outbox.messages.batch(500) if each.itemType == "sync_event"}
        assert carried
        assert carried <= ids
        assert len(carried) == entry["count"]
    assert [each.name for each in tmp_path.glob("*.damaged-1")] == ["outbox.db.damaged-1"]


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500, b"SQLite format 3\0" + bytes(5000)])
async def test_start_always_succeeds(tmp_path, clock, content):
    path = tmp_path / "outbox.db"
    path.write_bytes(content)
    async with open_outbox(path, clock) as outbox:
        assert (await outbox.files.add([sighting(b"a", 1)])).new == 1


async def filled(path, clock, count=200):
    """An outbox with that many messages, closed in good order; their ids."""
    async with open_outbox(path, clock) as outbox:
        for number in range(count):
            await outbox.cycles.record(CYCLE, {"device_id": "d", "pad": "x" * 500, "number": number})
        return {each.id for each in await outbox.messages.batch(500)}


async def carried(outbox):
    return {each.id for each in await outbox.messages.batch(500) if each.itemType == "sync_event"}


async def test_damage_that_came_after_a_stop_in_good_order_is_found(tmp_path, clock):
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock)
    tear(path, leave=0.6)
    Path(f"{path}-wal").unlink()
    async with open_outbox(path, clock) as outbox:
        assert (await outbox.ledger.newest(1))[0]["what"] == "outbox-damaged"
        assert await carried(outbox) <= ids


async def test_damage_that_only_a_run_meets_is_set_aside_by_the_next_start(tmp_path, clock):
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock)
    with pytest.raises(ExceptionGroup):
        async with open_outbox(path, clock):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise ExceptionGroup("activities", [error])
    async with open_outbox(path, clock) as outbox:
        assert await carried(outbox) == ids
    async with open_outbox(path, clock) as outbox:
        assert await carried(outbox) == ids
    assert len(list(tmp_path.glob("*.damaged-?"))) == 1


async def test_an_outbox_that_another_program_holds_is_not_damaged(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("pisyncd.outbox.db.BUSY_S", 0.0)
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock, 3)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusy):
            async with open_outbox(path, clock):
                pass
    async with open_outbox(path, clock) as outbox:
        assert await carried(outbox) == ids
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_a_power_cut_before_the_salvage_loses_nothing(tmp_path, clock):
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock, 3)
    salvage.set_aside(path)
    await (await connect(path, clock)).close()  # the new one is there, and empty
    async with open_outbox(path, clock) as outbox:
        assert await carried(outbox) == ids
        assert [entry["count"] for entry in await outbox.ledger.newest(5)] == [3]
    async with open_outbox(path, clock) as outbox:
        assert len(await outbox.ledger.newest(5)) == 1


async def test_rows_that_make_no_sense_do_not_stop_the_salvage(tmp_path, clock):
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock, 3)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("""
            DROP TABLE contents; CREATE TABLE contents (sha256);
            INSERT INTO contents VALUES (NULL), (7), ('text'), (x'00');
            CREATE TABLE rubbish AS SELECT * FROM messages; DROP TABLE messages; ALTER TABLE rubbish RENAME TO messages;
            INSERT INTO messages (stream, seq, id, item_type, body) VALUES ('nobody', 9, 'x', 'event', '{}');
            INSERT INTO messages (stream, seq, id, item_type, body) VALUES ('event', 9, NULL, 'event', '{}');
            INSERT INTO messages (stream, seq, id, item_type, body) VALUES ('event', 10, 'y', 'event', '[');
            INSERT INTO messages SELECT 'event', 11, id, item_type, body, 5, '', 0, 0, 0, 0 FROM messages LIMIT 1;
        """)
    salvage.suspect(path)
    async with open_outbox(path, clock) as outbox:
        assert await carried(outbox) == ids


@pytest.mark.parametrize("at", [18, 19, 44, 59, 60, 61])
@pytest.mark.parametrize("value", [0, 3, 200])
async def test_a_header_that_makes_no_sense_is_damage(tmp_path, clock, at, value):
    path = tmp_path / "outbox.db"
    ids = await filled(path, clock, 3)
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)
    async with open_outbox(path, clock) as outbox:
        assert len(await carried(outbox)) in (0, len(ids))
        assert (await outbox.files.add([sighting(b"a", 1)])).new == 1


async def test_an_outbox_that_was_cut_to_nothing_is_told(tmp_path, clock):
    path = tmp_path / "outbox.db"
    path.touch()
    async with open_outbox(path, clock) as outbox:
        assert [entry["what"] for entry in await outbox.ledger.newest(5)] == ["outbox-damaged"]


async def test_the_schema_knows_only_states_that_the_rules_know(tmp_path, clock):
    db = await connect(tmp_path / "outbox.db", clock)
    async with db.reader.execute("SELECT sql FROM sqlite_schema WHERE name = 'files'") as cursor:
        [sql] = await cursor.fetchone()
    await db.close()
    for state in {state for state, _ in rules.TRANSITIONS} | set(rules.TRANSITIONS.values()):
        assert f"'{state}'" in sql


def tear(path: Path, *, leave: float) -> None:
    """Overwrites the end of the file with rubbish and leaves the trace of an unclean stop."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * leave) // 4096 * 4096)
        file.write(b"\xa5" * (size - file.tell()))
    Path(f"{path}-wal").touch()


async def test_who_is_cancelled_while_beginning_leaves_no_transaction_behind(tmp_path: Path) -> None:
    async with open_outbox(tmp_path / "outbox.db", FakeClock()) as outbox:  # type: ignore[arg-type]

        async def write() -> None:
            async with outbox.db.transaction():
                pass

        for turns in range(6):
            task = asyncio.create_task(write())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await write()
