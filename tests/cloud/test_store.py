"""The store's contract, on both drivers."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import asyncpg
import pytest

from cloud.flows import identity
from cloud.store import drivers as store
from cloud.store import migrations
from cloud.store.db import Database, DuplicateRow, load_queries
from pisyncd.core.errors import ConfigError, SchemaTooNew, StorageBusy


def test_both_dialects_know_the_same_queries() -> None:
    assert load_queries("sqlite").keys() == load_queries("postgres").keys()


def test_both_dialects_have_the_same_schema_steps() -> None:
    lite, full = migrations.steps("sqlite"), migrations.steps("postgres")
    assert [step.name for step in lite] == [step.name for step in full]
    assert [step.version for step in lite] == list(range(1, len(lite) + 1))


def test_a_script_is_split_into_statements_with_triggers_whole() -> None:
    script = "-- why\nCREATE TABLE a (x);\n\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\n  SELECT 1;\n  SELECT 2;\nEND;\n"
    assert len(migrations.statements(script)) == 2
    with pytest.raises(ValueError, match="does not end"):
        migrations.statements("CREATE TABLE a (x)")


async def test_migrating_again_changes_nothing(db: Database) -> None:
    assert await db.migrate() == migrations.steps(db.dialect)[-1].version


async def test_two_that_start_together_migrate_once(database_url: str) -> None:
    async def start() -> int:
        async with store.opened(database_url) as database:
            return await database.migrate()

    versions = await asyncio.gather(*(start() for _ in range(4)))
    assert len(set(versions)) == 1


async def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    async with store.opened(database_url):
        pass
    insert = "INSERT INTO schema_migration VALUES (999, '0999_later', 0)"
    if store.is_postgres_url(database_url):
        connection = await asyncpg.connect(database_url)
        await connection.execute(insert)
        await connection.close()
    else:
        with sqlite3.connect(database_url) as lite:
            lite.execute(insert)
        lite.close()
    with pytest.raises(SchemaTooNew, match="999"):
        async with store.opened(database_url):
            pass


async def test_a_transaction_is_whole_or_nothing(db: Database) -> None:
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await tx.value("add_device", device_id="pi-1", now_ms=1)
            raise RuntimeError
    async with db.reading() as tx:
        assert await tx.one("device_by_id", device_id="pi-1") is None


async def test_a_cancelled_transaction_leaves_no_trace_and_no_lock(db: Database) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        async with db.transaction() as tx:
            await tx.value("add_device", device_id="pi-1", now_ms=1)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.transaction() as tx:
        assert await tx.one("device_by_id", device_id="pi-1") is None
        await tx.value("add_device", device_id="pi-2", now_ms=1)


async def test_cancelling_at_any_await_leaves_the_database_usable(db: Database) -> None:
    async def work(number: int) -> None:
        async with db.transaction() as tx:
            await tx.value("add_device", device_id=f"pi-{number}", now_ms=1)
            await tx.run("identity_changed")

    for turns in range(12):
        task = asyncio.create_task(work(turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await work(100)
    async with db.reading() as tx:
        assert await tx.one("device_by_id", device_id="pi-100") is not None


async def test_transactions_of_many_tasks_do_not_mix(db: Database) -> None:
    async def raise_generation() -> None:
        async with db.transaction() as tx:
            await tx.run("identity_changed")

    async with db.reading() as tx:
        before = await tx.value("identity_generation")
    await asyncio.gather(*(raise_generation() for _ in range(25)))
    async with db.reading() as tx:
        assert await tx.value("identity_generation") == before + 25


async def test_a_repeated_key_is_a_duplicate_row(db: Database) -> None:
    with pytest.raises(DuplicateRow):
        async with db.transaction() as tx:
            await tx.value("add_device", device_id="pi-1", now_ms=1)
            await tx.value("add_device", device_id="pi-1", now_ms=1)


async def test_run_counts_the_rows_that_changed(db: Database) -> None:
    async with db.transaction() as tx:
        assert await tx.run("identity_changed") == 1
        assert await tx.run("revoke_key", name="nobody", now_ms=1) == 0


async def test_an_error_of_the_caller_stays_what_it_is(db: Database) -> None:
    with pytest.raises(OSError, match="mine") as caught:
        async with db.transaction():
            raise OSError("mine")
    assert not isinstance(caught.value, StorageBusy)


async def test_what_was_committed_survives_closing(database_url: str) -> None:
    async with store.opened(database_url) as database:
        await identity.enroll(database, "pi-1", 1)
    async with store.opened(database_url) as database, database.reading() as tx:
        assert await tx.one("device_by_id", device_id="pi-1") is not None


async def test_a_place_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageBusy, match="cannot open"):
        await store.connect(str(tmp_path / "file" / "pisync.db"))


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(StorageBusy, match="cannot reach"):
        await store.connect("postgresql://nobody@127.0.0.1:1/none")


async def test_a_url_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError):
        await store.connect("postgresql://host:notaport/x")
