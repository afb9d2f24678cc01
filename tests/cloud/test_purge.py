"""Events cannot be changed or deleted; one user can be forgotten, here and in the export, and the audit tells."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path

import asyncpg
import pytest
from conftest import Cloud
from export_helpers import DAY_MS, START_MS, USERS, Store, Warehouse, export, run
from feed_helpers import device, until

from cloud.flows import export_status, purge
from cloud.flows.recording import Recording
from cloud.flows.records import Author
from cloud.flows.retention import Retention
from cloud.services import wall_ms
from cloud.store import drivers
from cloud.store.db import Database
from cloud.store.exportdir import ExportDir
from cloud.store.sqlite import SqliteDatabase
from pisyncd.core import merge
from pisyncd.core.edits import Put
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import BUILT_IN, EMPTY

GONE = USERS[1]
RECORD_TABLES = (
    "conflict", "record", "subscription", "webhook_attempt", "webhook_delivery", "webhook_event", "webhook_inbound",
)  # fmt: skip
NO_RECORDS = dict.fromkeys(RECORD_TABLES, 0)
REFUSED = (sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)


@pytest.fixture
def store(database_url: str, db: Database) -> Store:
    return Store(database_url)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "export")


async def forget(db: Database, user: str = GONE) -> purge.Purge:
    return await purge.purge(db, user, reason="request 2026-17", actor="amina", now_ms=wall_ms)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE attempt_events SET payload_json = '{}'",
        "UPDATE attempt_events SET user_id = 'x' WHERE ord = 1",
        "DELETE FROM attempt_events",
        "DELETE FROM attempt_events WHERE ord = 1",
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
    ],
)
async def test_nothing_changes_what_was_recorded(store: Store, db: Database, sql: str) -> None:
    """By a connection of its own that knows nothing of PiSync."""
    await store.add_events(0, 10)
    await forget(db, USERS[4])
    before = await store.all("SELECT * FROM attempt_events"), await store.all("SELECT * FROM audit")
    with pytest.raises(REFUSED, match="append-only"):
        await store.run(sql)
    assert (await store.all("SELECT * FROM attempt_events"), await store.all("SELECT * FROM audit")) == before


@pytest.mark.parametrize("table", ["attempt_events", "audit"])
async def test_postgres_refuses_to_truncate(postgres_url: str, table: str) -> None:
    async with drivers.opened(postgres_url):
        store = Store(postgres_url)
        await store.add_events(0, 1)
        for more in ("", " CASCADE"):
            with pytest.raises(REFUSED, match="append-only"):
                await store.run(f"TRUNCATE {table}{more}")


async def test_sqlite_refuses_to_replace_through_the_service(tmp_path: Path) -> None:
    url = str(tmp_path / "pisync.db")
    async with drivers.opened(url) as db:
        store = Store(url)
        await store.add_events(0, 3)
        assert isinstance(db, SqliteDatabase)
        copy = "INSERT OR REPLACE INTO attempt_events SELECT * FROM attempt_events WHERE ord = 2"
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            await db._writer.execute_fetchall(copy)
        assert await store.value("SELECT count(*) FROM attempt_events") == 3


async def test_a_permit_is_for_one_user_and_ends_with_the_purge(store: Store, db: Database) -> None:
    await store.add_events(0, 10)
    await forget(db)
    assert await store.value("SELECT count(*) FROM purge_permit") == 0
    await store.run("INSERT INTO purge_permit (user_id) VALUES (?)", GONE)
    with pytest.raises(REFUSED, match="append-only"):
        await store.run("DELETE FROM attempt_events WHERE user_id = ?", USERS[2])


async def test_a_user_is_forgotten_and_nobody_else(store: Store, db: Database) -> None:
    await store.add_world()
    await store.add_events(0, 50)
    await store.add_telemetry(0, 60)
    body = json.dumps({"userId": GONE.upper(), "score": 3})
    for table in ("message", "rejected_item"):
        more = ", code, detail" if table == "rejected_item" else ""
        marks = ", 'c', 'd'" if table == "rejected_item" else ""
        await store.many(
            f"INSERT INTO {table} (dk, item_id, item_type, digest, body, received_at_ms{more}) "
            f"VALUES (1, ?, 'progress', ?, ?, 1{marks})",
            [("a", b"a", body), ("b", b"b", "{}")],
        )
    await store.run(
        "INSERT INTO batch_log (dk, user_id, batch_id, items, successful, failed, conflicts, duplicates, "
        "received_at_ms, duration_ms) VALUES (1, ?, 'b', 1, 1, 0, 0, 0, 1, 1)",
        GONE,
    )
    seen = await purge.preview(db, GONE)
    done = await forget(db, GONE.upper())
    assert done.removed == seen == {
        "attempt_events": 10, "telemetry": 10, "session_answer": 1, "learner_session": 1, "batch_log": 1, "message": 1,
        "rejected_item": 1, **NO_RECORDS,
    }  # fmt: skip
    left = {table: await store.value(f"SELECT count(*) FROM {table}") for table in purge.TABLES}
    assert left == {
        "attempt_events": 40, "telemetry": 50, "session_answer": 4, "learner_session": 4, "batch_log": 0, "message": 1,
        "rejected_item": 1, **NO_RECORDS,
    }  # fmt: skip
    ((actor, action, target, detail),) = await store.all("SELECT actor, action, target, detail FROM audit")
    assert (actor, action, target) == ("amina", "user.purged", hashlib.sha256(GONE.encode()).hexdigest())
    assert json.loads(detail)["removed"] == done.removed
    assert GONE not in detail
    assert set((await forget(db)).removed.values()) == {0}


async def test_sqlite_keeps_no_trace_in_its_file(tmp_path: Path) -> None:
    url = str(tmp_path / "pisync.db")
    async with drivers.opened(url) as db:
        store = Store(url)
        await store.add_world()
        await store.add_events(0, 500)
        await store.add_telemetry(0, 100)
        await forget(db)
        for name in ("pisync.db", "pisync.db-wal"):
            assert GONE.encode() not in (tmp_path / name).read_bytes()


# Records, and what was told of them


async def test_a_purge_reaches_devices(cloud: Cloud) -> None:
    """By a site's subscription, by the device's own writes, by the user's, and in the middle of waiting."""
    db, records = cloud.services.db, cloud.services.records
    at_site, by_user = await device(cloud, "pi-a", site=["A"]), await device(cloud, "pi-u", user=[GONE, USERS[2]])
    elsewhere = await device(cloud, "pi-b", site=["B"])
    author = Author(actor="key:amina")
    await records.write(author, "profile", GONE, Put({"name": "Amina", "siteId": "A"}))
    await records.write(author, "progress", "p1", Put({"userId": GONE.upper(), "percent": 50, "siteId": "A"}))
    await records.write(author, "progress", "p2", Put({"userId": USERS[2], "percent": 60, "siteId": "A"}))
    # It was another's before; that one must not lose it.
    await records.write(author, "progress", "p3", Put({"userId": GONE, "percent": 70, "siteId": "A"}))
    await records.write(author, "progress", "p3", Put({"userId": USERS[2], "percent": 70, "siteId": "A"}))
    await records.write(author, "progress", "p4", Put({"siteId": "B"}))
    assert sorted(await at_site.pull()) == sorted([GONE, "p1", "p2", "p3"])
    assert await by_user.pull() == [GONE, "p1", "p2", "p3"]
    await elsewhere.pull()
    waits = [asyncio.create_task(each.ask(wait=900)) for each in (at_site, by_user)]
    await until(lambda: cloud.services.feed.held == 2)
    done = await forget(db)
    assert (done.removed["record"], done.removed["subscription"]) == (2, 1)
    changes = (await waits[0])[1]["data"]["changes"]
    assert [(each["type"], each["id"], each["gone"]) for each in changes] == [
        ("profile", GONE, True),
        ("progress", "p1", True),
    ]
    assert (await waits[1])[0] == 410
    assert await at_site.pull() == [f"-{GONE}", "-p1"]
    assert sorted(at_site.copy) == ["p2", "p3"]
    assert await by_user.pull() == ["410", "p2", "p3"]
    assert sorted(by_user.copy) == ["p2", "p3"]
    assert await elsewhere.pull() == []
    assert set((await forget(db)).removed.values()) == {0}


async def test_nothing_of_a_record_is_left_but_its_name(cloud: Cloud, database_url: str) -> None:
    db, records, store = cloud.services.db, cloud.services.records, Store(database_url)
    author = Author(actor="key:amina")
    await records.write(author, "profile", GONE, Put({"name": "Amina Diallo", "siteId": "A"}))
    await records.write(author, "profile", USERS[2], Put({"name": "Binta", "siteId": "A"}))
    state = merge.put(EMPTY, BUILT_IN["profile"], {"name": "Amina D."}, Pen(writer="d-0001", at_ms=1, clock=2))
    async with db.transaction() as tx:
        work = await Recording.begin(tx, records.rules, [("profile", GONE)], wall_ms())
        entry = work.entry(("profile", GONE))
        work.change(entry, merge.join(entry.state, state), author)
        await work.save()
    await store.run(
        "INSERT INTO webhook_inbound (id, digest, answer, received_at_ms) VALUES ('w', ?, ?, ?)",
        b"x",
        f'"{GONE}"',
        wall_ms(),
    )
    assert await store.value("SELECT count(*) FROM conflict") == 1
    await _deliver(store)
    seen = await purge.preview(db, GONE)
    done = await forget(db)
    assert done.removed == seen
    assert done.removed["conflict"] == done.removed["record"] == done.removed["webhook_inbound"] == 1
    assert done.removed["webhook_event"] == done.removed["webhook_attempt"] == done.removed["webhook_delivery"] == 2
    assert await store.value("SELECT count(*) FROM webhook_event") == 1
    assert await store.value("SELECT count(*) FROM webhook_delivery") == 1
    rows = await store.all("SELECT state, fields, deleted, purged FROM record WHERE id = ?", GONE)
    assert rows == [("{}", "{}", 1, 1)]
    assert await store.all("SELECT kind, gone FROM record_scope WHERE id = ?", GONE) == [("site", 1)]
    for table in ("record", "conflict", "webhook_event", "webhook_delivery", "webhook_attempt", "message", "audit"):
        assert "Amina" not in str(await store.all(f"SELECT * FROM {table}"))
    with pytest.raises(Refusal) as caught:
        await records.write(author, "profile", GONE, Put({"name": "Amina"}))
    assert caught.value.code == "record-purged"
    assert (await records.read("profile", USERS[2])).view.fields["name"] == "Binta"


async def _deliver(store: Store) -> None:
    """Two were told of the user, one by name and one inside, and one of another; those were tried."""
    for name, user, body in (("1", GONE, "Amina"), ("2", "", f"Amina is {GONE.upper()}"), ("3", USERS[2], "Binta")):
        await store.run(
            "INSERT INTO webhook_event (id, type, resource_type, resource_id, body, user_id, created_at_ms) "
            "VALUES (?, 'profile.updated', 'profile', 'r', ?, ?, ?)",
            name,
            body,
            user,
            wall_ms(),
        )
    for (ord_,) in await store.all("SELECT ord FROM webhook_event"):
        await store.run(
            "INSERT INTO webhook_delivery (endpoint_id, event_ord, resource, kind, state, due_at_ms, created_at_ms) "
            "VALUES ('e', ?, 'r', 'event', 'pending', 4102444800000, 1)",
            ord_,
        )
    await store.run(
        "INSERT INTO webhook_attempt (delivery_id, endpoint_id, at_ms, duration_ms, answer) "
        "SELECT id, 'e', 1, 1, 'Amina' FROM webhook_delivery WHERE event_ord IN "
        "(SELECT ord FROM webhook_event WHERE body LIKE 'Amina%')"
    )


async def test_all_of_it_or_nothing(store: Store, db: Database) -> None:
    await store.add_events(0, 10)
    if store.is_postgres:
        await store.run("CREATE TRIGGER t BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change()")
    else:
        await store.run("CREATE TRIGGER t BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(REFUSED):
        await forget(db)
    assert await store.value("SELECT count(*) FROM attempt_events WHERE user_id = ?", GONE) == 2
    assert await store.value("SELECT count(*) FROM purge_permit") == 0


async def test_files_of_the_export_are_rewritten_under_their_names(
    store: Store, db: Database, warehouse: Warehouse
) -> None:
    await store.add_world()
    await store.add_events(0, 100)
    await store.add_events(100, 1, at_ms=START_MS + 9 * DAY_MS)
    lonely = await store.value("SELECT user_id FROM attempt_events WHERE ord = 101")
    await store.add_events(102, 3, at_ms=START_MS + 9 * DAY_MS)
    await store.add_telemetry(0, 60)
    await export(db, warehouse.root, rows_max=101)
    names = warehouse.files("attempt_events")
    assert len(names) == 3
    done = await forget(db, lonely)
    assert done.stale_ranges == 3
    assert [one.state for one in await export_status.statuses(db)] == ["stale", "stale", "current", "stale"]
    report = await export(db, warehouse.root)
    assert report.rewritten == 2
    for dataset, key in (("attempt_events", "id"), ("telemetry", "event_id")):
        assert warehouse.value(f"SELECT count(*) FROM {{{dataset}}} WHERE user_id = '{lonely}'") == 0
        kept = sorted(row[0] for row in await store.all(f"SELECT {key} FROM {dataset}"))
        assert warehouse.ids(dataset) == kept
        assert warehouse.value(f"SELECT count(DISTINCT {key}) FROM {{{dataset}!}}") == len(kept)
    # The file that held nothing else is gone, with its place in the manifest; the others keep their names.
    assert warehouse.files("attempt_events") == [name for name in names if name != names[1]]
    assert len(warehouse.manifest("attempt_events")["files"]) == 2
    assert warehouse.value(f"SELECT count(*) FROM {{sessions}} WHERE user_id = '{lonely}'") == 0


async def test_what_retention_took_from_the_store_is_taken_from_the_files_too(
    store: Store, db: Database, warehouse: Warehouse
) -> None:
    await store.add_telemetry(0, 300)
    await export(db, warehouse.root, rows_max=100)
    later = START_MS + 100 * DAY_MS
    await Retention(db, lambda: later, keep_days=90, export_on=True).telemetry()
    assert await store.value("SELECT count(*) FROM telemetry") == 0
    await forget(db)
    await export(db, warehouse.root)
    assert len(warehouse.ids("telemetry")) == 250
    assert warehouse.value(f"SELECT count(*) FROM {{telemetry}} WHERE user_id = '{GONE}'") == 0


async def test_a_user_who_comes_back_is_exported(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_events(0, 10)
    await export(db, warehouse.root)
    await forget(db)
    await store.add_events(10, 10)
    await export(db, warehouse.root)
    await forget(db, USERS[2])
    await export(db, warehouse.root)
    assert warehouse.value(f"SELECT count(*) FROM {{attempt_events}} WHERE user_id = '{GONE}'") == 2
    assert warehouse.ids() == sorted(row[0] for row in await store.all("SELECT id FROM attempt_events"))


class _Between(ExportDir):
    """Somebody at another terminal purges a user right after a file got its name and before that is marked."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self._url = url
        self.outcome = ""

    def publish(self, temporary: Path, dataset: str, relative: str) -> None:
        super().publish(temporary, dataset, relative)
        if not self.outcome and relative.endswith(".parquet"):
            done = run("purge-user", GONE, "--reason", "request 1", "--yes", url=self._url, root=None)
            self.outcome = done.stdout + done.stderr


async def test_a_purge_while_a_range_is_written(store: Store, db: Database, warehouse: Warehouse) -> None:
    await store.add_events(0, 100)
    directory = _Between(warehouse.root, store.url)
    report = await export(db, directory, rows_max=40)
    assert "20 rows are removed" in directory.outcome
    assert report.trouble is None
    assert warehouse.ids() == sorted(row[0] for row in await store.all("SELECT id FROM attempt_events"))
    assert warehouse.manifest("attempt_events")["rows"] == 80


async def test_at_the_terminal(store: Store, db: Database, tmp_path: Path) -> None:
    await store.add_events(0, 10)

    def cli(*arguments: str) -> tuple[int, str, str]:
        done = run(*arguments, url=store.url, root=tmp_path / "export")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    code, _, said = await asyncio.to_thread(cli, "purge-user", GONE, "--reason", "request 17")
    assert (code, "--yes" in said, "attempt_events: 2 rows" in said) == (1, True, True)
    assert await store.value("SELECT count(*) FROM attempt_events") == 10
    code, shown, _ = await asyncio.to_thread(cli, "purge-user", GONE, "--reason", "request 17", "--yes")
    assert (code, shown.startswith("2 rows are removed")) == (0, True)
    code, shown, _ = await asyncio.to_thread(cli, "audit", "--json")
    entry = json.loads(shown)
    assert (entry["action"], entry["detail"]["reason"]) == ("user.purged", "request 17")
    assert GONE not in shown
    code, shown, _ = await asyncio.to_thread(cli, "audit")
    assert (code, "user.purged" in shown) == (0, True)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("user", "reason", "code"),
    [
        ("amina", "request", "user-id-invalid"),
        (GONE + "\n", "request", "user-id-invalid"),
        ("%", "request", "user-id-invalid"),
        (GONE, " ", "reason-missing"),
        (GONE, "two\nlines", "reason-missing"),
        (GONE, "amina@example.org asked", "personal-data"),
        (GONE, f"request of {GONE}", "personal-data"),
    ],
)
def test_what_is_not_taken(user: str, reason: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        purge.check(user, reason)
    assert caught.value.code == code
