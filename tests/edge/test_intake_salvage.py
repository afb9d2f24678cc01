"""Learning data of a damaged outbox: carried over as it was, so that the cloud takes it for what it is."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pisyncd.core import envelope, session
from pisyncd.core.track import decode_item
from pisyncd.outbox import Outbox, open_outbox, salvage
from pisyncd.outbox.arrivals import OfSession, tracked
from pisyncd.outbox.db import connect

from .intake_rig import USER, event, new_id
from .outbox_rig import FakeClock


def of_session(**more: object) -> OfSession:
    raw = msgspec.json.encode(event(user_id=USER, **more))
    judged = envelope.judge(raw)
    assert isinstance(judged, envelope.Envelope)
    return OfSession(raw=raw, source=None, event=judged)


async def fill(outbox: Outbox, clock: FakeClock) -> session.Session:
    """Events with odd bodies at different times, and a session with a minute to go."""
    spaced = b'{"eventType": "x", "eventId": "spaced", "eventData": {"n": 1.50, "e": 1e3}}'
    await outbox.intake.take([tracked(decode_item(spaced), "spaced", USER)])
    clock.pass_s(5)
    payload = msgspec.Raw(b'{ "position" :  1 }')
    await outbox.intake.take([of_session(payload=payload, seq=number) for number in range(20)])
    asked = session.SessionIn(mode="quiz", question_ids=[new_id(), new_id()], duration_s=60)
    made, _ = await outbox.sessions.create(asked, USER)
    await outbox.sessions.answer(made.id, USER, session.AnswerIn(question_id=made.question_ids[0], selected_index=1))
    return made


async def stamps(outbox: Outbox) -> list[tuple[object, ...]]:
    return [
        (item.id, item.itemType, bytes(item.itemData), item.boot_id, item.boottime_ms, item.wall_ms, item.clock_trusted)
        for item in await outbox.messages.batch(1000)
        if item.itemType != "loss"
    ]


async def test_messages_keep_id_body_and_stamp_sessions_their_time_and_boots_their_number(tmp_path: Path) -> None:
    path, clock = tmp_path / "outbox.db", FakeClock()
    for _ in range(3):
        clock.reboot()
        async with open_outbox(path, clock):  # type: ignore[arg-type]
            pass
    async with open_outbox(path, clock) as outbox:  # type: ignore[arg-type]
        made = await fill(outbox, clock)
        before = await stamps(outbox)
        clock.pass_s(20)
        await outbox.memory.set("x", "the last sign of life")
    salvage.suspect(path)
    told_boot = clock.boot_id
    clock.reboot()
    async with open_outbox(path, clock) as outbox:  # type: ignore[arg-type]
        assert sorted(await stamps(outbox)) == sorted(before)
        assert {item.stream.partition("-")[0] for item in await outbox.messages.batch(99) if item.stream} == {
            "learn3", "learn5", "learn8", "loss",
        }  # fmt: skip
        assert outbox.boots.numbers([told_boot, clock.boot_id]) == {told_boot: 3, clock.boot_id: 4}
        clock.pass_s(39)
        answer = session.AnswerIn(question_id=made.question_ids[0], selected_index=0)
        assert (await outbox.sessions.answer(made.id, USER, answer)).rev == 3, "it goes on from the change before"
        clock.pass_s(2)
        assert (await outbox.sessions.submit(made.id, USER)).state == "expired"


async def test_what_is_told_again_after_a_repair_is_not_doubled(tmp_path: Path) -> None:
    path, clock = tmp_path / "outbox.db", FakeClock()
    events = [of_session(seq=number) for number in range(5)]
    async with open_outbox(path, clock) as outbox:  # type: ignore[arg-type]
        await outbox.intake.take(events)
    salvage.suspect(path)
    async with open_outbox(path, clock) as outbox:  # type: ignore[arg-type]
        assert {outcome.status for outcome in await outbox.intake.take(events)} == {"duplicate"}
        assert len(await stamps(outbox)) == 5


async def test_an_outbox_of_the_first_schema_is_migrated_and_counts_what_waits(tmp_path: Path) -> None:
    path, clock = tmp_path / "outbox.db", FakeClock()
    db = await connect(path, clock)  # type: ignore[arg-type]
    back = """
        DROP TABLE decisions; DROP TABLE records;
        DROP TABLE boots; DROP TABLE spooled; DROP TABLE answers; DROP TABLE sessions; DROP TABLE taken;
        DROP TRIGGER messages_added; DROP TRIGGER messages_removed; DROP TRIGGER messages_changed;
        DROP INDEX streams_by_turn; ALTER TABLE streams DROP COLUMN priority; ALTER TABLE streams DROP COLUMN bytes;
        INSERT INTO streams (stream, last_seq, accepted_seq) VALUES ('event-1', 9, 6), ('loss-1', 1, 0);
        INSERT INTO messages VALUES
            ('event-1', 7, 'a', 'event', '{"n":1}', 5, 'b', 1, 1, 0, 1),
            ('event-1', 8, 'b', 'event', '{}', 5, 'b', 1, 1, 0, 2),
            ('event-1', 9, 'c', 'event', '{}', 5, 'b', 1, 1, 0, 3),
            ('loss-1', 1, 'd', 'loss', '{}', 10, 'b', 1, 1, 0, 4);
        INSERT INTO cursors VALUES ('shed', '7');
        PRAGMA user_version = 1"""
    await db._writer.executescript(back)
    await db.close()
    async with open_outbox(path, clock) as outbox:  # type: ignore[arg-type]
        assert await outbox.messages.owed() == (4, 13, 1)
        assert [item.id for item in await outbox.messages.batch(9)] == ["d", "a", "b", "c"]
        await outbox.messages.accept_through({"event-1": 8})
        assert await outbox.messages.owed() == (2, 4, 3)
        await outbox.messages.tell_shed(outbox.ledger)
        (entry,) = await outbox.ledger.newest(1)
        assert (entry["what"], entry["count"]) == ("reports-shed", 7)
