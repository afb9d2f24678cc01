"""Records in the cloud: written and read one by one, with what comes of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cloud.flows.records import Author, Delete, Patch, Put, Records
from cloud.store.db import Database
from pisyncd.core import record
from pisyncd.core.problems import Refusal

KEY = Author(actor="key:desk")


@pytest.fixture
async def records(db: Database) -> Records:
    """Records over a clock that goes on by a second with every look."""
    times = itertools.count(1_772_438_400_000, 1000)
    found = Records(db, lambda: next(times), record.BUILT_IN)
    await found.prepare()
    return found


async def rows(db: Database, sql: str, *params: Any) -> list[dict[str, Any]]:
    """Rows of a statement of the test's own; parameters as ?."""
    async with db.reading() as tx:
        connection = tx._connection  # type: ignore[attr-defined]
        if db.dialect == "postgres":
            for number in range(1, len(params) + 1):
                sql = sql.replace("?", f"${number}", 1)
            return [dict(row) for row in await connection.fetch(sql, *params)]
        return [dict(row) for row in await connection.execute_fetchall(sql, params)]


async def test_a_record_is_made_changed_and_deleted(records: Records, db: Database) -> None:
    heard: list[int] = []
    records.changed = lambda: heard.append(1)
    made = await records.write(KEY, "profile", "u1", Put({"language": "sw", "grade": 4}))
    assert (made.created, made.changed) == (True, True)
    changed = await records.write(KEY, "profile", "u1", Patch({"grade": 5, "language": None}))
    assert (changed.created, dict(changed.view.fields)) == (False, {"grade": 5})
    same = await records.write(KEY, "profile", "u1", Put({"grade": 5}))
    assert (same.changed, same.state, same.updated_at_ms) == (False, changed.state, changed.updated_at_ms)
    gone = await records.write(KEY, "profile", "u1", Delete())
    assert gone.view.deleted
    assert len(heard) == 3
    with pytest.raises(Refusal) as refused:
        await records.read("profile", "u1")
    assert refused.value.code == "record-unknown"
    kept = (await records.read("profile", "u1", deleted=True)).kept
    assert (kept.deleted, kept.change, len(kept.state.version)) == (True, 3, 1)
    assert await rows(db, "SELECT kind, value, gone FROM record_scope") == [{"kind": "user", "value": "u1", "gone": 0}]
    audited = await rows(db, "SELECT action, actor, before_hash, after_hash FROM audit ORDER BY id")
    assert [row["action"] for row in audited] == ["record.created", "record.updated", "record.deleted"]
    assert audited[0]["before_hash"] is None
    assert audited[1]["before_hash"] == audited[0]["after_hash"]
    assert audited[2]["after_hash"] == record.digest(kept.state)
