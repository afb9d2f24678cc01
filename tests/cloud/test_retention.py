"""Generic telemetry and tombstones go after their time, learning events never; what the export owes stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import StartCloud
from export_helpers import DAY_MS, START_MS, Store, export
from feed_helpers import device, execute, write

from cloud.flows import retention
from cloud.flows.retention import Retention
from cloud.rules import retention as rules
from cloud.store.db import Database

NOW_MS = START_MS + 91 * DAY_MS


@pytest.fixture
def store(database_url: str, db: Database) -> Store:
    return Store(database_url)


def jobs(db: Database, *, export_on: bool = False) -> Retention:
    return Retention(db, lambda: NOW_MS, keep_days=90, export_on=export_on)


async def test_old_telemetry_goes_and_nothing_else(store: Store, db: Database) -> None:
    await store.add_telemetry(0, 10)
    await store.add_telemetry(10, 10, at_ms=START_MS + 2 * DAY_MS)
    await store.add_events(0, 10)
    assert await jobs(db).telemetry() == 10
    assert await jobs(db).telemetry() == 0
    assert await store.value("SELECT min(ord) FROM telemetry") == 11
    assert await store.value("SELECT count(*) FROM attempt_events") == 10


async def test_refused_items_go_messages_stay(store: Store, db: Database) -> None:
    await store.add_world()
    for table, more, values in (("message", "", ""), ("rejected_item", ", code, detail", ", 'c', 'd'")):
        await store.many(
            f"INSERT INTO {table} (dk, item_id, item_type, digest, body, received_at_ms{more}) "
            f"VALUES (1, ?, 'progress', ?, '{{}}', ?{values})",
            [("old", b"a", START_MS), ("new", b"b", NOW_MS)],
        )
    assert await jobs(db).rejected() == 1
    assert await store.all("SELECT item_id FROM rejected_item") == [("new",)]
    assert await store.value("SELECT count(*) FROM message") == 2


async def test_only_what_is_exported_goes_when_there_is_an_export(store: Store, db: Database, tmp_path: Path) -> None:
    await store.add_telemetry(0, 50)
    assert await jobs(db, export_on=True).telemetry() == 0
    await export(db, tmp_path / "export")
    await store.add_telemetry(50, 50)
    assert await jobs(db, export_on=True).telemetry() == 50
    assert await store.value("SELECT min(ord) FROM telemetry") == 51
    assert await jobs(db).telemetry() == 50


async def test_it_is_done_in_portions(store: Store, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PORTION_ROWS", 10)
    monkeypatch.setattr(retention, "PORTIONS_MAX", 3)
    await store.add_telemetry(0, 45)
    assert [await jobs(db).telemetry() for _ in range(3)] == [30, 15, 0]


async def test_the_service_does_it(start_cloud: StartCloud, database_url: str) -> None:
    cloud = await start_cloud(database=database_url, telemetry_keep_days=1)
    store = Store(database_url)
    await store.add_telemetry(0, 5)
    await store.add_telemetry(5, 5, at_ms=cloud.services.exporter._now_ms())
    await cloud.services.janitor.step()
    assert await store.value("SELECT count(*) FROM telemetry") == 5


def test_what_may_be_forgotten() -> None:
    assert rules.forget_before_ms(100 * DAY_MS, 90) == 10 * DAY_MS
    assert rules.forget_through(export_on=True, watermark=7) == 7
    assert rules.forget_through(export_on=False, watermark=7) == 2**63 - 1


# Records


async def test_tombstones_go_with_all_that_belongs_to_them(start_cloud: StartCloud, database_url: str) -> None:
    # The service's own janitor must find nothing to do meanwhile.
    cloud = await start_cloud(database=database_url, tombstone_keep_days=3650)
    db = cloud.services.db
    old_ms, young_ms = NOW_MS - 457 * DAY_MS, NOW_MS - 455 * DAY_MS
    early, late = await device(cloud, "pi-early", site=["A"]), await device(cloud, "pi-late", site=["A"])
    for number in range(4):
        await write(db, f"r{number}", ("site", "A"), at_ms=old_ms)
    await early.pull()
    await write(db, "r0", deleted=True, at_ms=old_ms)
    last = await write(db, "r1", deleted=True, purged=True, at_ms=old_ms)
    await write(db, "r2", deleted=True, at_ms=young_ms)
    await write(db, "r3", deleted=True, at_ms=old_ms)
    await conflict(db, "c1", "r0", "automatic", NOW_MS)
    await conflict(db, "c3", "r3", "open", old_ms)
    await late.pull()
    assert await jobs(db).tombstones(456) == 2
    assert await jobs(db).tombstones(456) == 0
    assert await execute(db, "SELECT value FROM generation WHERE name = 'records-forgotten'") == last
    assert await execute(db, "SELECT count(*) FROM record_scope WHERE id IN ('r0', 'r1')") == 0
    assert await execute(db, "SELECT count(*) FROM record") == 2
    assert await execute(db, "SELECT min(id) FROM conflict") == "c3"
    # Who has heard of it goes on, who has not begins anew and drops what did not come.
    assert await late.pull() == []
    assert (await early.pull())[0] == "410"
    assert sorted(early.copy) == ["r2", "r3"]


async def test_settled_decisions_go_open_ones_never(db: Database) -> None:
    for number, (state, days, ended) in enumerate(
        [("open", 400, None), ("automatic", 181, None), ("resolved", 300, 170), ("resolved", 300, 181),
         ("automatic", 179, None), ("automatic", 181, None)]
    ):  # fmt: skip
        at_ms = None if ended is None else NOW_MS - ended * DAY_MS
        await conflict(db, f"c{number}", f"r{number}", state, NOW_MS - days * DAY_MS, at_ms)
    assert await jobs(db).conflicts() == 2
    assert await execute(db, "SELECT count(*) FROM conflict WHERE id IN ('c1', 'c3')") == 0
    assert await jobs(db).conflicts() == 0


async def test_many_tombstones_go_in_portions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RECORDS_ROWS", 3)
    for number in range(7):
        await write(db, f"r{number}", deleted=True, at_ms=START_MS - 1000 * DAY_MS)
    assert await jobs(db).tombstones(456) == 7


async def conflict(
    db: Database, conflict_id: str, record_id: str, state: str, at_ms: int, ended_ms: int | None = None
) -> None:
    ended_ms = at_ms if state == "resolved" and ended_ms is None else ended_ms
    await execute(
        db,
        "INSERT INTO conflict (id, type, record_id, field, state, decision, explanation, dk, created_at_ms, "
        "resolved_at_ms) VALUES (?, 'progress', ?, '', ?, '{}', '', 0, ?, ?)",
        conflict_id,
        record_id,
        state,
        at_ms,
        ended_ms,
    )
