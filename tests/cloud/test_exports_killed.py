"""kill -9 at any moment of an export, again and again: no event is lost and none is there twice."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from pathlib import Path

import pytest
from export_helpers import USERS, Store, Warehouse, command, environment, export, run, uuid

from cloud.flows import purge
from cloud.services import wall_ms
from cloud.store.db import Database

SEEDS = range(10)


def watched(root: Path) -> int:
    """A number that changes with every file that is begun, finished or removed."""
    names = sorted(
        f"{folder}/{name}" for folder, _, files in os.walk(root, onerror=None) for name in files if name != ".lock"
    )
    return hash(tuple(names))


def killed(url: str, root: Path, chance: random.Random, **settings: object) -> bool:
    """Runs an export and kills it after a random number of changes below `root`; False when it ended before."""
    process = subprocess.Popen(
        command("export", url=url, root=root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(root, **settings),
    )
    left = chance.randint(1, 30)
    seen = watched(root)
    while process.poll() is None:
        now = watched(root)
        if now != seen:
            seen, left = now, left - 1
        if left == 0:
            break
    try:
        # And then a moment more, so that it is not always right after a change of a name.
        process.wait(timeout=chance.choice([0.0001, 0.002, 0.01, 0.03]))
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() != 0


@pytest.fixture
def store(database_url: str, db: Database) -> Store:
    return Store(database_url)


async def test_killed_again_and_again(store: Store, db: Database, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "export")
    await store.add_world()
    expected: set[str] = set()
    cut = 0
    for seed in SEEDS:
        await store.add_events(seed * 200, 200)
        await store.add_telemetry(seed * 200, 200)
        expected |= {uuid(n, 1) for n in range(seed * 200, seed * 200 + 200)}
        cut += await asyncio.to_thread(killed, store.url, warehouse.root, random.Random(seed), export_rows_max=25)
        ids = warehouse.ids()
        assert len(ids) == len(set(ids)), f"seed {seed}: rows are there twice"
        assert set(ids) <= expected
    assert cut >= len(SEEDS) // 2
    done = await asyncio.to_thread(run, "export", url=store.url, root=warehouse.root, export_rows_max=25)
    assert done.returncode == 0, done.stderr
    for dataset, key in (("attempt_events", "id"), ("telemetry", "event_id")):
        kept = sorted(row[0] for row in await store.all(f"SELECT {key} FROM {dataset}"))
        assert warehouse.ids(dataset) == kept
        assert warehouse.value(f"SELECT count(*) FROM {{{dataset}!}}") == len(kept)
        assert warehouse.manifest(dataset)["watermark"] == len(kept)
    assert sorted(warehouse.ids()) == sorted(expected)


async def test_killed_while_a_user_is_taken_out(store: Store, db: Database, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "export")
    await store.add_events(0, 1000, step_ms=300_000)
    await store.add_telemetry(0, 300)
    await export(db, warehouse.root, rows_max=150)
    gone: list[str] = []
    for seed, user in enumerate(USERS[:3]):
        await purge.purge(db, user, reason=f"request {seed}", actor="test", now_ms=wall_ms)
        gone.append(user)
        for again in range(3):
            await asyncio.to_thread(
                killed, store.url, warehouse.root, random.Random(seed * 10 + again), export_rows_max=150
            )
            ids = warehouse.ids()
            assert len(ids) == len(set(ids))
            kept = {row[0] for row in await store.all("SELECT id FROM attempt_events")}
            assert kept <= set(ids), "rows of others are lost"
    done = await asyncio.to_thread(run, "export", url=store.url, root=warehouse.root)
    assert done.returncode == 0, done.stderr
    for dataset, key in (("attempt_events", "id"), ("telemetry", "event_id")):
        assert warehouse.ids(dataset) == sorted(row[0] for row in await store.all(f"SELECT {key} FROM {dataset}"))
        left = warehouse.all(f"SELECT DISTINCT user_id FROM {{{dataset}}} WHERE user_id IS NOT NULL")
        assert sorted(left) == [(USERS[3],), (USERS[4],)]
        assert warehouse.value(f"SELECT count(*) FROM {{{dataset}!}}") == len(warehouse.ids(dataset))
        assert warehouse.manifest(dataset)["rows"] == len(warehouse.ids(dataset))
