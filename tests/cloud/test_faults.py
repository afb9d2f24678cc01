"""Failures by their fingerprint, and the hours: what ingest counts is what the events say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from conftest import Cloud
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.flows import identity
from cloud.rules import faults
from pisyncd.core import errors

NUMBERS = itertools.count(1)


async def report(cloud: Cloud, events: list[tuple[int, int, str | None]]) -> str:
    """(files, errors, error code) each, by a new device; gives its id."""
    device_id = f"pi-{next(NUMBERS)}"
    device = await cloud.enroll(device_id)
    for number, (files, failed, code) in enumerate(events):
        data = {"timestamp": "2026-01-01T00:00:00Z", "total_files_synced": files, "total_errors": failed}
        data |= {"device_id": device_id, **({"error_code": code} if code else {})}
        items = [{"itemType": "sync_event", "id": f"e{number}", "itemData": data}]
        body = {"batchId": f"b{number}", "items": items}
        status, answer = await cloud.call("POST", "/api/telemetry/batch", json=body, headers=device)
        assert (status, answer["data"]["failed"]) == (200, 0), answer
    return device_id


async def found(cloud: Cloud, device_id: str) -> dict[str, tuple[int, bool]]:
    async with cloud.services.db.reading() as tx:
        dk = await identity.device_key(tx, device_id)
        rows = await tx.all("faults_of_device", dk=dk)
    return {row["code"]: (row["count"], row["since_ms"] is not None) for row in rows}


async def hours(cloud: Cloud) -> tuple[int, int, int]:
    """(events without errors, with errors, files) of all hours."""
    async with cloud.services.db.reading() as tx:
        rows = await tx.all("hours", from_ms=0)
    return (
        sum(int(row["success"]) for row in rows),
        sum(int(row["partial"] + row["failed"]) for row in rows),
        sum(int(row["files"]) for row in rows),
    )


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(1, 0, None)], {}),
        ([(0, 1, "card-full")], {"card-full": (1, True)}),
        ([(0, 1, None)], {"unspecified": (1, True)}),
        ([(0, 1, "card-full"), (0, 1, "card-full"), (1, 0, None)], {"card-full": (2, False)}),
        ([(0, 1, "card-full"), (1, 0, None), (0, 1, "dns")], {"card-full": (1, False), "dns": (1, True)}),
        ([(0, 1, "a"), (1, 0, None), (0, 1, "a")], {"a": (2, True)}),
        ([(1, 1, "a"), (0, 1, "b")], {"a": (1, True), "b": (1, True)}),
    ],
)
async def test_faults_are_counted_and_end_with_a_success(
    cloud: Cloud, events: list[Any], expected: dict[str, Any]
) -> None:
    assert await found(cloud, await report(cloud, events)) == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([None, "a", "b"])), max_size=12))
async def test_faults_and_hours_are_what_the_events_say(
    cloud_lite: Cloud, events: list[tuple[int, int, str | None]]
) -> None:
    before = await hours(cloud_lite)
    device_id = await report(cloud_lite, events)
    counts: dict[str, int] = {}
    active: set[str] = set()
    for _, failed, code in events:
        if failed:
            counts[code or "unspecified"] = counts.get(code or "unspecified", 0) + 1
            active.add(code or "unspecified")
        else:
            active.clear()
    assert await found(cloud_lite, device_id) == {code: (count, code in active) for code, count in counts.items()}
    after = await hours(cloud_lite)
    assert [now - then for now, then in zip(after, before, strict=True)] == [
        sum(not failed for _, failed, _ in events), sum(failed for _, failed, _ in events),
        sum(files for files, _, _ in events),
    ]  # fmt: skip


async def test_a_group_of_many_events_counts_like_one_by_one(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-x")
    script = [("a", 1), ("a", 1), (None, 0), ("b", 1), (None, 0), ("a", 1), ("c", 1)]
    items = [
        {
            "itemType": "sync_event",
            "id": f"e{number}",
            "itemData": {
                "device_id": "pi-x", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1,
                "total_errors": failed, **({"error_code": code} if code else {}),
            },
        }
        for number, (code, failed) in enumerate(script)
    ]  # fmt: skip
    status, _ = await cloud.call("POST", "/api/telemetry/batch", json={"batchId": "b", "items": items}, headers=device)
    assert status == 200
    assert await found(cloud, "pi-x") == {"a": (3, True), "b": (1, False), "c": (1, True)}


def every_code() -> list[str]:
    found: list[str] = []
    waiting = [errors.PiSyncError]
    while waiting:
        one = waiting.pop()
        found.append(one.code)
        waiting += one.__subclasses__()
    return sorted(set(found))


@pytest.mark.parametrize("code", [*every_code(), "card-full", "never-seen-before", faults.UNSPECIFIED])
def test_every_code_has_a_title_and_a_next_step(code: str) -> None:
    fault = faults.about(code)
    assert fault.title
    assert fault.title[0].islower() or not fault.title[0].isalpha()
    assert len(fault.hint) > 10
