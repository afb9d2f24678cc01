"""The audit log: who did what to whom and when, with hashes; nobody can change it, and no secret is in it."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud

from cloud import cli
from cloud.flows import audit, identity, purge
from cloud.services import wall_ms
from cloud.store import drivers
from cloud.store.db import Database

USER = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


async def add(db: Database, count: int = 1, **changes: Any) -> None:
    entry: dict[str, Any] = {"actor": "key:amina", "action": "record.updated", "target": "progress/p-1", "detail": {}}
    async with db.transaction() as tx:
        for number in range(count):
            await audit.record(tx, **{"now_ms": 1_000 * (number + 1), **entry, **changes})


async def asked(cloud: Cloud, query: str = "", *, role: str = "admin") -> tuple[int, Any]:
    return await cloud.call("GET", f"/api/audit{query}", headers=await cloud.key(role))


def actions(answer: Any) -> list[str]:
    return [one["action"] for one in answer["data"]]


def test_equal_values_have_the_same_hash() -> None:
    assert audit.hash_of({"a": 1, "b": [2, None]}) == audit.hash_of({"b": [2, None], "a": 1})
    assert audit.hash_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert audit.hash_of({"a": 1}) != audit.hash_of({"a": "1"})


async def test_devices_and_keys_stand_in_it(db: Database) -> None:
    await identity.enroll(db, "pi-1", 1, actor="cli:amina")
    token = await identity.rotate(db, "pi-1", 2, keep_old_s=60, actor="cli:amina")
    await identity.revoke(db, "pi-1", 3, actor="cli:amina")
    await identity.enroll(db, "pi-1", 4)
    key = await identity.create_key(db, "report", "viewer", 5, actor="cli:amina")
    await identity.revoke_key(db, "report", 6, actor="cli:amina")
    async with db.reading() as tx:
        rows = (await audit.entries(tx, limit=50))[::-1]
    assert [(row["action"], row["target"], row["actor"]) for row in rows] == [
        ("device.enrolled", "pi-1", "cli:amina"),
        ("device.rotated", "pi-1", "cli:amina"),
        ("device.revoked", "pi-1", "cli:amina"),
        ("device.enrolled", "pi-1", "system"),
        ("key.created", "report", "cli:amina"),
        ("key.revoked", "report", "cli:amina"),
    ]
    enrolled, rotated, revoked, again, made, ended = rows
    assert enrolled["before_hash"] is None
    assert enrolled["after_hash"] == rotated["before_hash"] == revoked["before_hash"] == again["after_hash"]
    assert revoked["after_hash"] == again["before_hash"] != enrolled["after_hash"]
    assert (made["before_hash"], ended["after_hash"]) == (None, None)
    assert made["after_hash"] == ended["before_hash"]
    assert json.loads(made["detail"]) == {"role": "viewer"}
    everything = json.dumps([[str(each) for each in row] for row in rows])
    for secret in (token, key):
        assert secret not in everything
        assert hashlib.sha256(secret.encode()).hexdigest() not in everything


async def test_what_is_not_done_leaves_no_entry(db: Database) -> None:
    await identity.enroll(db, "pi-1", 1)
    with pytest.raises(identity.AlreadyThere):
        await identity.enroll(db, "pi-1", 2)
    with pytest.raises(identity.NotThere):
        await identity.revoke(db, "pi-2", 3)
    with pytest.raises(identity.NotThere):
        await identity.revoke_key(db, "nobody", 4)
    await identity.create_key(db, "twice", "viewer", 5)
    with pytest.raises(identity.AlreadyThere):
        await identity.create_key(db, "twice", "admin", 6)
    async with db.reading() as tx:
        assert await audit.count(tx, audit.ALL) == 2


@pytest.mark.parametrize("statement", ["UPDATE audit SET after_hash = NULL", "DELETE FROM audit"])
async def test_the_database_itself_refuses_to_change_it(database_url: str, db: Database, statement: str) -> None:
    await add(db, 3, before_hash="0" * 64, after_hash="1" * 64)
    if db.dialect == "sqlite":
        import sqlite3

        with sqlite3.connect(database_url) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    else:
        import asyncpg

        connection = await asyncpg.connect(database_url)
        try:
            for each in (statement, "TRUNCATE audit"):
                with pytest.raises(asyncpg.PostgresError, match="append-only"):
                    await connection.execute(each)
        finally:
            await connection.close()
    async with db.reading() as tx:
        rows = await audit.entries(tx, limit=10)
    assert [(row["before_hash"], row["after_hash"]) for row in rows] == [("0" * 64, "1" * 64)] * 3


async def test_pages_go_on_where_the_last_ended_whatever_comes(cloud: Cloud) -> None:
    db = cloud.services.db
    await add(db, 7, actor="key:b")
    headers = await cloud.key("admin")
    _, first = await cloud.call("GET", "/api/audit?actor=key:b&limit=3", headers=headers)
    assert first["pagination"] | {"next_cursor": ""} == {
        "page": 1, "limit": 3, "total": 7, "total_pages": 3, "next_cursor": "",
    }  # fmt: skip
    await add(db, 2, actor="key:b")
    cursor, seen = first["pagination"]["next_cursor"], [one["id"] for one in first["data"]]
    while cursor:
        _, page = await cloud.call("GET", f"/api/audit?actor=key:b&limit=3&cursor={cursor}", headers=headers)
        seen += [one["id"] for one in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert (len(seen), seen) == (7, sorted(set(seen), reverse=True))
    _, second = await cloud.call("GET", "/api/audit?actor=key:b&limit=3&page=2", headers=headers)
    assert len(second["data"]) == 3
    assert set(second["data"][0]) == {
        "id", "at", "actor", "action", "target", "detail", "before_hash", "after_hash", "last_updated_at",
    }  # fmt: skip


async def test_filters(cloud: Cloud) -> None:
    db = cloud.services.db
    day_ms = 24 * 3600 * 1000
    await add(db, action="record.created", now_ms=1 * day_ms)
    await add(db, action="record.deleted", now_ms=2 * day_ms)
    await add(db, action="recordXcreated", now_ms=3 * day_ms, actor="system")
    await add(db, action="profile.seen", target=audit.target_of("profile", USER), now_ms=4 * day_ms)
    for query, expected in (
        ("?action=record.created", ["record.created"]),
        ("?action=record.*", ["record.deleted", "record.created"]),
        ("?action=record_created", []),
        ("?action=record%25", []),
        ("?actor=system&action=record*", ["recordXcreated"]),
        (f"?target=profile/{USER}", ["profile.seen"]),
        (f"?target=profile/{hashlib.sha256(USER.encode()).hexdigest()}", ["profile.seen"]),
        ("?target=progress/p-1&from=1970-01-03&to=1970-01-04", ["record.deleted"]),
        ("?from=1970-01-04T00:00:00Z&to=1970-01-05T00:00:00.001Z", ["profile.seen", "recordXcreated"]),
    ):
        status, answer = await asked(cloud, query)
        assert (status, actions(answer)) == (200, expected), query
        assert answer["pagination"]["total"] == len(expected)


async def test_a_purged_user_is_found_by_the_id_and_stands_by_its_hash(cloud: Cloud) -> None:
    await purge.purge(cloud.services.db, USER, reason="request 17", actor="cli:amina", now_ms=wall_ms)
    for target in (USER, USER.upper(), hashlib.sha256(USER.encode()).hexdigest()):
        _, answer = await asked(cloud, f"?target={target}")
        assert actions(answer) == ["user.purged"]
        assert USER not in json.dumps(answer["data"])


@pytest.mark.parametrize(
    "query",
    ["?from=x", "?to=2026-13-01", "?limit=0", "?limit=501", "?page=0", "?cursor=x", "?actor=%00", "?action=%0a",
     f"?target={'x' * 301}"],
)  # fmt: skip
async def test_bad_queries_are_named(cloud_lite: Cloud, query: str) -> None:
    status, answer = await asked(cloud_lite, query)
    assert (status, answer["code"]) == (422, "validation")
    assert answer["errors"][0]["pointer"] == f"query:{query[1:].partition('=')[0]}"


async def test_it_is_for_admins(cloud_lite: Cloud) -> None:
    assert (await asked(cloud_lite, role="operator"))[0] == 403
    assert (await cloud_lite.call("GET", "/api/audit", headers=await cloud_lite.enroll("pi-1")))[0] == 403
    assert (await cloud_lite.call("GET", "/api/audit"))[0] == 401
    assert (await cloud_lite.call("DELETE", "/api/audit", headers=await cloud_lite.key("admin")))[0] == 405


async def test_what_people_do_over_http_names_their_key(cloud_lite: Cloud) -> None:
    operator = await cloud_lite.key("operator")
    path = "/api/records/progress/p-1"
    await cloud_lite.call("PUT", path, headers=operator, json={"fields": {"percent": 1}})
    await cloud_lite.call("PATCH", path, headers=operator, json={"fields": {"percent": 2}})
    await cloud_lite.call("PATCH", path, headers=operator, json={"fields": {"percent": 2}})
    await cloud_lite.call("DELETE", path, headers=operator)
    device = await cloud_lite.enroll("pi-1")
    await cloud_lite.call("PUT", "/api/records/progress/p-2", headers=device, json={"fields": {"percent": 1}})
    _, answer = await asked(cloud_lite, "?action=record.*")
    assert actions(answer) == ["record.deleted", "record.updated", "record.created"]
    deleted, updated, created = answer["data"]
    assert all(one["actor"].startswith("key:k-") for one in answer["data"])
    assert created["before_hash"] is None
    assert created["after_hash"] == updated["before_hash"]
    assert updated["after_hash"] == deleted["before_hash"] != deleted["after_hash"]


def test_the_command_line_shows_and_filters_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main([*arguments, "--data", str(tmp_path)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    run("enroll", "pi-1")
    run("key", "create", "me", "--role", "admin")
    code, shown, _ = run("audit", "--json", "--action", "device.*")
    (entry,) = map(json.loads, shown.splitlines())
    assert (code, entry["action"], entry["target"]) == (0, "device.enrolled", "pi-1")
    assert entry["actor"] == f"cli:{getpass.getuser()}"
    assert (entry["before_hash"], len(entry["after_hash"])) == (None, 64)
    code, shown, _ = run("audit", "--target", "me")
    heads, line = shown.splitlines()
    assert (code, heads.split()) == (0, ["WHEN", "WHO", "WHAT", "WHOM", "BEFORE", "AFTER"])
    assert ("key.created" in line, "device" in line) == (True, False)
    code, shown, said = run("audit", "--to", "2001-01-01")
    assert (code, shown, said.strip()) == (0, "", "no entry is as asked for")
    code, _, said = run("audit", "--from", "yesterday")
    assert (code, "--from 'yesterday' is no time" in said) == (1, True)
    with pytest.raises(SystemExit, match="2"):
        run("audit", "--actor", "cli:\udcff")
    assert "not UTF-8" in capsys.readouterr().err


def test_the_command_line_shows_whole_names_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        async with drivers.opened(str(tmp_path / "pisync.db")) as db:
            await add(db, target="progress/progress-of-a-learner-17")
            await add(db, target=audit.target_of("profile", USER))

    asyncio.run(fill())
    assert cli.main(["audit", "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "progress/progress-of-a-learner-17 " in shown
    assert f"profile/{hashlib.sha256(USER.encode()).hexdigest()[:16]} " in shown
