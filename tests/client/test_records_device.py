"""RecordsClient, both faces, against the device's own gateway and outbox, and what the documentation shows."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from edge.gateway_rig import Rig, gateway

from pisyncd.client import ClientError
from pisyncd.core import merge, record, recordwire
from pisyncd.core.edits import Put

from .rig import ROOT
from .test_records import Both


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


@pytest.fixture(params=["async", "blocking"])
async def call(request: pytest.FixtureRequest, rig: Rig) -> AsyncIterator[Both]:
    yield Both(request.param, socket=rig.socket)


async def test_a_record_from_its_beginning_to_its_end(call: Both, rig: Rig) -> None:
    assert await call("get", "progress", "prog_1") is None
    made = await call("put", "progress", "prog_1", {"percent": 40, "attempts": 1, "moduleId": "m"})
    assert made.sync_status == "pending" and made.last_synced_at is None and len(made.version) == 1
    again = await call("put", "progress", "prog_1", {"percent": 40, "attempts": 1, "moduleId": "m"})
    assert again == made and (await rig.outbox.messages.owed())[0] == 1
    assert (await call("patch", "progress", "prog_1", {"moduleId": None})).fields == {"attempts": 1, "percent": 40}
    assert (await call("delete", "progress", "prog_1")).deleted
    assert await call("get", "progress", "prog_1") is None
    assert (await call("get", "progress", "prog_1", deleted=True)).deleted
    for verb, more in (("patch", ({"percent": 1},)), ("delete", ())):
        with pytest.raises(ClientError) as missing:
            await call(verb, "progress", "prog_2", *more)
        assert (missing.value.code, missing.value.status) == ("record-unknown", 404)


async def test_pages_conditions_and_changes(call: Both, rig: Rig) -> None:
    for number in range(205):
        await rig.outbox.records.write("progress", f"p{number:03d}", Put({"percent": number % 100}))
    ids = [each.id for each in await call("list", "progress")]
    assert ids == [f"p{number:03d}" for number in range(205)]
    assert len(await call("list", "progress", limit=150)) == 150
    first = await call("get", "progress", "p001")
    await call("patch", "progress", "p001", {"percent": 50}, if_match=first)
    with pytest.raises(ClientError) as late:
        await call("put", "progress", "p001", {"percent": 60}, if_match=first)
    assert (late.value.code, late.value.status) == ("version-mismatch", 412)
    changed = await call("update", "progress", "p001", lambda fields: {**fields, "percent": fields["percent"] + 1})
    assert changed.fields == {"percent": 51}
    for fields, code in (({"email": "a@b.org"}, "personal-data"), ({"percent": "much"}, "validation")):
        with pytest.raises(ClientError) as refused:
            await call("put", "progress", "p002", fields)
        assert (refused.value.status, refused.value.code) == (422, code) and refused.value.detail


async def test_what_the_cloud_wrote_beside_is_told_in_sentences(call: Both, rig: Rig) -> None:
    await call("put", "enrollment", "e1", {"courseId": "algebra"})
    pen = merge.Pen.of_cloud("c-91aa", 1_700_000_000_000)
    state = merge.put(record.EMPTY, record.BUILT_IN["enrollment"], {"courseId": "geometry"}, pen)
    change = recordwire.Change(type="enrollment", id="e1", state=state)
    etag = record.rules_etag(record.BUILT_IN)
    page = recordwire.Changes(changes=[change], cursor="k.1", more=False, rules_etag=etag)
    await rig.outbox.records.apply(page, sweeping=False)
    told = (await call("get", "enrollment", "e1")).conflicts
    assert len(told) == 1 and "was kept over" in told[0].explanation and not told[0].open


async def test_sync_now_is_answered_by_the_daemon(call: Both, rig: Rig) -> None:
    await call("put", "profile", "u1", {"language": "de"})
    assert (await call("sync_profile_now", "u1")).fields == {"language": "de"}
    for reason in ("offline", "paused", "timeout"):
        rig.memory.not_synced = reason
        with pytest.raises(ClientError) as not_now:
            await call("sync_profile_now", "u1")
        assert (not_now.value.code, not_now.value.status, not_now.value.retryable) == (reason, 503, True)
        assert "stays queued" in not_now.value.hint


async def test_the_documented_example_runs_as_it_stands(rig: Rig) -> None:
    page = (ROOT / "docs/records.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    await rig.outbox.records.write("profile", "u1", Put({"name": "Ada"}))
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), "PISYNC_SOCKET": str(rig.socket)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", found[1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    assert said.decode() == "prog_1 {'moduleId': 'mod_1', 'percent': 75} pending []\n"
    kept = await rig.outbox.records.read("profile", "u1")
    assert kept is not None and kept.fields == {"name": "Ada", "language": "de"}
