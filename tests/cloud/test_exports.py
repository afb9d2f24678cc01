"""The export: every row once, by date, incrementally, in files that DuckDB reads; and what happens when it cannot."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import pytest
from export_helpers import DAY_MS, START_MS, Store, Warehouse, environment, export, run, uuid
from tus_helpers import until

from cloud.flows import export_status
from cloud.store import drivers
from cloud.store.db import Database
from cloud.store.exportdir import AlreadyExporting, ExportDir
from pisyncd.core.errors import ConfigError, StorageBusy


@pytest.fixture
def store(database_url: str, db: Database) -> Store:
    return Store(database_url)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "export")


async def holds_exactly(store: Store, warehouse: Warehouse) -> None:
    """DuckDB finds by glob and by manifest exactly what the store has, each row once."""
    for dataset, key in (("attempt_events", "id"), ("telemetry", "event_id")):
        kept = sorted(row[0] for row in await store.all(f"SELECT {key} FROM {dataset}"))
        assert warehouse.ids(dataset) == kept
        if kept:
            total = warehouse.all(f"SELECT count(*), count(DISTINCT {key}), count(DISTINCT ord) FROM {{{dataset}!}}")
            assert total == [(len(kept),) * 3]
        manifest = warehouse.manifest(dataset)
        listed = {entry["path"]: entry for entry in manifest["files"]}
        assert {str(path.relative_to(warehouse.root / dataset)) for path in warehouse.files(dataset)} == set(listed)
        assert manifest["rows"] == len(kept) == sum(entry["rows"] for entry in listed.values())
        for path in warehouse.files(dataset):
            entry = listed[str(path.relative_to(warehouse.root / dataset))]
            data = path.read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert not list((warehouse.root / ".tmp").iterdir())


async def test_every_row_once_by_date(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_world()
    await store.add_events(0, 3000)
    await store.add_telemetry(0, 500, at_ms=START_MS + 5 * DAY_MS)
    report = await export(db, warehouse.root)
    assert (report.ranges, report.rows, report.trouble) == (4, 3507, None)
    await holds_exactly(store, warehouse)
    by_date = warehouse.all("SELECT CAST(event_date AS VARCHAR), count(*) FROM {attempt_events} GROUP BY 1 ORDER BY 1")
    assert by_date == [("2026-01-01", 1440), ("2026-01-02", 1440), ("2026-01-03", 120)]
    assert warehouse.value("SELECT count(*) FROM {attempt_events} WHERE CAST(event_ts AS DATE) <> event_date") == 0
    assert warehouse.value("SELECT count(*) FROM {sessions}") == 5


async def test_what_a_row_becomes(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_world()
    await store.add_events(0, 2)
    await export(db, warehouse.root)
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        path = warehouse.files("attempt_events")[0]
        rows = duck.execute(
            f"SELECT * REPLACE (epoch_ms(event_ts) AS event_ts, epoch_ms(client_ts) AS client_ts, "
            f"epoch_ms(device_ts) AS device_ts, epoch_ms(occurred_at) AS occurred_at) FROM '{path}' ORDER BY ord"
        )
        names = [column[0] for column in rows.description]
        first, second = (dict(zip(names, row, strict=True)) for row in rows.fetchall())
        kinds = dict(duck.execute(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM '{path}')").fetchall())
    assert kinds["event_ts"] == "TIMESTAMP WITH TIME ZONE"
    assert (kinds["payload_json"], kinds["seq"], kinds["clock_trusted"]) == ("VARCHAR", "BIGINT", "BOOLEAN")
    assert (first["id"], first["event_ts"], first["device_id"]) == (uuid(0, 1), START_MS, "pi-1")
    assert (first["occurred_at"], first["time_kind"], json.loads(first["payload_json"])) == (
        START_MS, "exact", {"position": 0},
    )  # fmt: skip
    assert first["occurred_error_ms"] in (50, 51)
    assert (second["device_id"], second["occurred_at"], second["time_kind"]) == ("pi-2", None, "open")
    assert (first["clock_trusted"], second["clock_trusted"], first["question_id"]) == (False, True, None)


async def test_only_what_is_new_is_written(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_events(0, 100)
    await export(db, warehouse.root)
    before = {path: path.stat().st_mtime_ns for path in warehouse.files("attempt_events")}
    await export(db, warehouse.root)
    assert {path: path.stat().st_mtime_ns for path in warehouse.files("attempt_events")} == before
    await store.add_events(100, 50)
    report = await export(db, warehouse.root)
    assert (report.ranges, report.rows) == (3, 50)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    await holds_exactly(store, warehouse)


async def test_ranges_hold_at_most_so_many_rows(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_events(0, 1050)
    report = await export(db, warehouse.root, rows_max=100)
    assert report.ranges == 11 + 2
    assert await export_status.watermark(db, export_status.exporting.ATTEMPT_EVENTS) == 1050
    assert warehouse.manifest("attempt_events")["watermark"] == 1050
    await holds_exactly(store, warehouse)


async def test_times_that_no_warehouse_holds_are_null(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_world()
    await store.add_events(0, 1, at_ms=START_MS)
    await store.add_telemetry(0, 3)
    if not store.is_postgres:
        await store.run("DROP TRIGGER attempt_events_no_update")
    else:
        await store.run("DROP TRIGGER attempt_events_no_update ON attempt_events")
    await store.run("UPDATE attempt_events SET client_ts = ?, wall_ms = ?, boottime_ms = ?", 2**62, -(2**62), 2**53)
    await export(db, warehouse.root)
    (row,) = warehouse.all("SELECT client_ts, device_ts, year(occurred_at AT TIME ZONE 'UTC') FROM {attempt_events}")
    assert row[:2] == (None, None)
    assert row[2] <= 9999


async def test_writers_do_not_stop_and_nothing_is_missed(store: Store, db: Database, warehouse: Warehouse) -> None:
    done = asyncio.Event()

    async def write(first: int) -> None:
        for portion in range(15):
            await store.add_events(first + portion * 20, 20)
            await store.add_telemetry(first + portion * 20, 20)

    async def write_all() -> None:
        await asyncio.gather(*(write(number * 1000) for number in range(4)))
        done.set()

    writing = asyncio.create_task(write_all())
    runs = 0
    while not done.is_set():
        await export(db, warehouse.root, rows_max=70)
        runs += 1
    await writing
    await export(db, warehouse.root, rows_max=70)
    assert runs >= 1
    assert len(warehouse.ids()) == 1200
    await holds_exactly(store, warehouse)


async def test_an_ord_that_is_committed_late_is_waited_for(postgres_url: str, warehouse: Warehouse) -> None:
    async with drivers.opened(postgres_url) as db:
        store = Store(postgres_url)
        await store.add_events(0, 10)
        slow = await asyncpg.connect(postgres_url)
        sql = (
            "INSERT INTO attempt_events (id, event_version, event_type, event_ts, session_id, user_id, payload_json, "
            "digest, dk) VALUES ($1, 1, 'QUESTION_VIEWED', $2, 's', 'u', '{}', ''::bytea, 0)"
        )
        block = slow.transaction()
        await block.start()
        await slow.execute(sql, "late", START_MS)
        await store.add_events(10, 10)
        with pytest.raises(StorageBusy):
            await export(db, warehouse.root)
        assert warehouse.ids() == []
        exporting = asyncio.create_task(export(db, warehouse.root))

        async def waits() -> Any:
            return await store.value("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND NOT granted")

        await until(waits)
        await block.commit()
        await slow.close()
        await exporting
        assert "late" in warehouse.ids()
        await holds_exactly(store, warehouse)


async def test_one_at_a_time(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_events(0, 10)
    with ExportDir(warehouse.root).held(), pytest.raises(AlreadyExporting):
        await export(db, warehouse.root)
    both = await asyncio.gather(
        *(asyncio.to_thread(run, "export", "--once", url=store.url, root=warehouse.root) for _ in range(3))
    )
    assert {one.returncode for one in both} <= {0, 75}, [one.stderr for one in both]
    assert any(one.returncode == 0 for one in both)
    await holds_exactly(store, warehouse)


async def test_two_services_with_directories_of_their_own(postgres_url: str, tmp_path: Path) -> None:
    async with drivers.opened(postgres_url) as db, db.reading() as tx:
        await Store(postgres_url).add_events(0, 10)
        assert await tx.value("export_alone")
        other = await asyncio.to_thread(run, "export", url=postgres_url, root=tmp_path / "other")
    assert other.returncode == 75
    assert "another export" in other.stderr.lower()


async def test_a_row_that_does_not_fit_holds_up_no_other(tmp_path: Path, warehouse: Warehouse) -> None:
    url = str(tmp_path / "pisync.db")
    async with drivers.opened(url) as db:
        store = Store(url)
        await store.add_events(0, 30)
        await store.run("DROP TRIGGER attempt_events_no_update")
        await store.run("UPDATE attempt_events SET seq = 'many' WHERE ord = 15")
        report = await export(db, warehouse.root, rows_max=10)
        assert report.trouble is not None
        assert report.rows == 20
        await export(db, warehouse.root, rows_max=10)
        (status, *_) = await export_status.statuses(db)
        assert (status.state, status.watermark, status.lag_rows, status.failed) == ("failing", 10, 10, 1)
        assert status.trouble is not None
        assert (status.trouble.attempts, status.trouble.from_ord) == (2, 10)
        assert "range-unexportable" in (status.trouble.error or "")
        told = await asyncio.to_thread(run, "export", url=url, root=warehouse.root)
        assert told.returncode == 1
        assert "Traceback" not in told.stderr
        await store.run("UPDATE attempt_events SET seq = 15 WHERE ord = 15")
        assert (await export(db, warehouse.root, rows_max=10)).trouble is None
        (status, *_) = await export_status.statuses(db)
        assert (status.state, status.watermark, status.failed) == ("current", 30, 0)
        await holds_exactly(store, warehouse)


async def test_another_directory_is_refused_and_can_begin_anew(
    store: Store, db: Database, warehouse: Warehouse, tmp_path: Path
) -> None:
    await store.add_events(0, 10)
    await export(db, warehouse.root)
    with pytest.raises(ConfigError, match="is not the directory"):
        await export(db, tmp_path / "typo")
    used = await asyncio.to_thread(run, "export", "--anew", url=store.url, root=warehouse.root)
    assert (used.returncode, "twice" in used.stderr) == (1, True)
    fresh = Warehouse(tmp_path / "fresh" / "export")
    anew = await asyncio.to_thread(run, "export", "--anew", "--json", url=store.url, root=fresh.root)
    assert anew.returncode == 0, anew.stderr
    assert json.loads(anew.stdout)["rows"] == 10
    await holds_exactly(store, fresh)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path = tmp_path / "small"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "pisync-test", path], capture_output=True)
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


async def test_a_full_disk_is_told_and_tried_again(store: Store, db: Database, small_disk: Path) -> None:
    warehouse = Warehouse(small_disk / "export")
    await store.add_events(0, 20_000)
    told = await asyncio.to_thread(run, "export", url=store.url, root=warehouse.root, export_rows_max=4000)
    assert told.returncode == 75, told.stderr
    assert "Traceback" not in told.stderr
    (status, *_) = await export_status.statuses(db)
    assert status.state == "failing"
    assert status.trouble is not None
    assert "storage-full" in (status.trouble.error or "")
    assert set(warehouse.ids()) <= {uuid(n, 1) for n in range(20_000)}
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert (await export(db, warehouse.root, rows_max=4000)).trouble is None
    await holds_exactly(store, warehouse)


def test_without_pyarrow_it_says_so(tmp_path: Path) -> None:
    url = str(tmp_path / "pisync.db")
    assert run("enroll", "pi-1", url=url, root=None).returncode == 0
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pyarrow'] = None\n")
    env = {**environment(tmp_path / "export"), "PYTHONPATH": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-m", "cloud", "export", "--database", url], capture_output=True, text=True, env=env
    )
    assert told.returncode == 78, told.stderr
    assert "pip install -c requirements.lock '.[cloud,export]'" in told.stderr


def test_the_service_does_not_load_pyarrow() -> None:
    code = "import cloud.cli, cloud.main, sys; print([name for name in sys.modules if 'arrow' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
