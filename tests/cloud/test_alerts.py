"""Alerts: how they are judged, and that a service that misbehaves says so."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud

from cloud.config import Settings, convert
from cloud.rules import alerts
from cloud.rules.alerts import Alert, Reading, Rule, Thresholds
from cloud.services import thresholds, wall_ms
from cloud.workers.watch import INTERVAL_S, Watch
from pisyncd.core.errors import ConfigError

LIMITS = Thresholds()
RULES = alerts.rules(LIMITS)
QUIET = Reading(at_s=0)

#: For every alert: what has to happen within one window so that it stands, and what is just within.
BEYOND: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "PisyncQueueHigh": ({"queue_items": 501}, {"queue_items": 500}),
    "PisyncDeviceQueueHigh": ({"device_queue_items": 501}, {"device_queue_items": 500}),
    "PisyncSuccessLow": ({"items": 1000, "kept": 949}, {"items": 1000, "kept": 950}),
    "PisyncSyncSlow": ({"syncs": 10, "sync_s": 101}, {"syncs": 10, "sync_s": 100}),
    "PisyncConflictsHigh": ({"items": 1000, "conflicts": 101}, {"items": 1000, "conflicts": 100}),
    "PisyncRejectionsHigh": ({"items": 1000, "failed": 51}, {"items": 1000, "failed": 50}),
    "PisyncInsertFailures": ({"inserts": 1000, "insert_failures": 11}, {"inserts": 1000, "insert_failures": 10}),
    "PisyncExportFailing": ({"exports_failing": 1}, {"exports_failing": 0}),
    "PisyncBatchesSmall": ({"batches": 100, "batch_items": 199}, {"batches": 100, "batch_items": 200}),
    "PisyncBatchesLarge": ({"batches": 100, "batch_items": 40_001}, {"batches": 100, "batch_items": 40_000}),
}
RATES = sorted(name for name, (more, _) in BEYOND.items() if len(more) == 2)


def rule(name: str) -> Rule:
    return next(one for one in RULES if one.name == name)


def after(earlier: Reading, at_s: float, more: dict[str, float]) -> Reading:
    """A reading with counters so much higher; gauges as given."""
    grown = {
        name: value
        if name in ("queue_items", "device_queue_items", "exports_failing")
        else value + getattr(earlier, name)
        for name, value in more.items()
    }
    return replace(earlier, at_s=at_s, **grown)


def judged(name: str, past: Reading | None, now: Reading, before: dict[str, Alert] | None = None) -> Alert:
    return alerts.evaluate(RULES, before or {}, past, now, LIMITS.for_s)[name]


def test_every_alert_is_tried_here() -> None:
    assert {one.name for one in RULES} == set(BEYOND)


@pytest.mark.parametrize("name", BEYOND)
def test_an_alert_stands_beyond_its_threshold_and_not_at_it(name: str) -> None:
    beyond, within = BEYOND[name]
    assert judged(name, QUIET, after(QUIET, 300, within)).state == "ok"
    found = judged(name, QUIET, after(QUIET, 300, beyond))
    assert (found.state, found.since_s) == ("pending", 300)


@pytest.mark.parametrize("name", RATES)
def test_nothing_out_of_nothing_is_no_alert(name: str) -> None:
    assert judged(name, QUIET, replace(QUIET, at_s=300)).state == "no_data"
    assert judged(name, None, after(QUIET, 300, BEYOND[name][0])).state == "no_data"


@pytest.mark.parametrize("name", sorted(set(RATES) - {"PisyncSyncSlow"}))
def test_a_handful_says_nothing(name: str) -> None:
    """One refused item at night is all of the traffic, and no reason to wake anyone."""
    worst = {"items": 19, "failed": 19, "conflicts": 19, "inserts": 19, "insert_failures": 19}
    worst |= {"batches": 19, "batch_items": 19 * 500 if name == "PisyncBatchesLarge" else 19}
    assert judged(name, QUIET, after(QUIET, 300, worst)).state == "no_data"
    assert judged(name, QUIET, after(QUIET, 300, {key: value + 1 for key, value in worst.items()})).state == "pending"


def test_what_the_database_cannot_tell_is_no_data() -> None:
    now = replace(QUIET, at_s=300, device_queue_items=None, exports_failing=None)
    assert judged("PisyncDeviceQueueHigh", QUIET, now).state == "no_data"
    assert judged("PisyncExportFailing", QUIET, now).state == "no_data"


def test_an_alert_fires_when_it_has_lasted_and_ends_at_once() -> None:
    name, high = "PisyncQueueHigh", replace(QUIET, queue_items=900)
    state: dict[str, Alert] = {}
    seen = []
    for at_s, reading in ((0, high), (299, high), (300, high), (900, high), (915, QUIET), (930, high)):
        state = alerts.evaluate(RULES, state, QUIET, replace(reading, at_s=at_s), LIMITS.for_s)
        seen.append((state[name].state, state[name].since_s))
    assert seen == [("pending", 0), ("pending", 0), ("firing", 0), ("firing", 0), ("ok", None), ("pending", 930)]


def test_a_gap_in_the_data_ends_a_pending_alert() -> None:
    name, (beyond, _) = "PisyncRejectionsHigh", BEYOND["PisyncRejectionsHigh"]
    first = alerts.evaluate(RULES, {}, QUIET, after(QUIET, 100, beyond), LIMITS.for_s)
    silent = alerts.evaluate(RULES, first, QUIET, replace(QUIET, at_s=250), LIMITS.for_s)
    again = alerts.evaluate(RULES, silent, QUIET, after(QUIET, 401, beyond), LIMITS.for_s)
    assert [one[name].state for one in (first, silent, again)] == ["pending", "no_data", "pending"]


def test_the_window_begins_at_the_newest_reading_that_is_old_enough() -> None:
    readings = [Reading(at_s=at_s) for at_s in (0, 100, 200, 300)]
    now = Reading(at_s=400)
    assert alerts.earlier([], now, 300) is None
    assert alerts.earlier([now], now, 300) is None
    assert alerts.earlier(readings, now, 300) == readings[1]
    assert alerts.earlier(readings, now, 250) == readings[1]
    assert alerts.earlier(readings, now, 1000) == readings[0]
    assert alerts.earlier(readings, now, 10) == readings[3]


# A service that misbehaves says so


async def told(cloud: Cloud, headers: dict[str, str]) -> dict[str, dict[str, Any]]:
    status, answer = await cloud.call("GET", "/api/alerts", headers=headers)
    assert status == 200
    assert answer["success"] is True
    return {one["name"]: one for one in answer["data"]["alerts"]}


async def send(cloud: Cloud, headers: dict[str, str], *items: dict[str, Any]) -> int:
    body = {"batchId": "b-1", "items": list(items)}
    return (await cloud.call("POST", "/api/telemetry/batch", json=body, headers=headers))[0]


def item(number: int, kind: str = "progress") -> dict[str, Any]:
    return {"itemType": kind, "itemData": {"n": number}, "id": f"{kind}-{number}"}


async def test_a_new_service_has_no_data_and_no_alarm(cloud_lite: Cloud) -> None:
    viewer = await cloud_lite.key()
    found = await told(cloud_lite, viewer)
    assert set(found) == set(BEYOND)
    assert {one["state"] for one in found.values()} <= {"no_data", "ok"}
    await cloud_lite.services.watch.step()
    await cloud_lite.services.watch.step()
    found = await told(cloud_lite, viewer)
    assert {name for name, one in found.items() if one["state"] == "no_data"} == set(RATES)
    assert found["PisyncQueueHigh"]["state"] == "ok"


async def test_who_may_see_the_alerts(cloud_lite: Cloud) -> None:
    assert (await cloud_lite.call("GET", "/api/alerts"))[0] == 401
    assert (await cloud_lite.call("GET", "/api/alerts", headers=await cloud_lite.enroll("pi-1")))[0] == 403
    assert (await cloud_lite.call("GET", "/api/alerts", headers=await cloud_lite.key("viewer")))[0] == 200


async def test_refused_items_make_the_alerts_of_both_kinds_fire(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(alert_for_s=0)
    device, viewer, watch = await cloud.enroll("pi-1"), await cloud.key(), cloud.services.watch
    await watch.step()
    assert await send(cloud, device, *map(item, range(18)), item(1, "nonsense"), item(2, "nonsense")) == 200
    await watch.step()
    _, answer = await cloud.call("GET", "/api/alerts", headers=viewer)
    assert answer["data"]["firing"] == 2
    assert (answer["data"]["window_s"], answer["data"]["for_s"]) == (300, 0)
    found = {one["name"]: one for one in answer["data"]["alerts"]}
    low, high = found["PisyncSuccessLow"], found["PisyncRejectionsHigh"]
    assert (low["state"], low["value"], low["threshold"], low["fires"]) == ("firing", 90, 95, "below")
    assert (high["state"], high["value"], high["unit"]) == ("firing", 10, "percent")
    assert high["since"] <= high["last_updated_at"]
    assert high["hint"]
    assert (found["PisyncConflictsHigh"]["state"], found["PisyncConflictsHigh"]["value"]) == ("ok", 0)
    async with cloud.http.get(cloud.url + "/metrics") as scraped:
        text = await scraped.text()
    assert 'pisync_alert_firing{alert="PisyncRejectionsHigh"} 1.0' in text
    assert 'pisync_alert_firing{alert="PisyncConflictsHigh"} 0.0' in text
    assert await send(cloud, device, *map(item, range(100, 400))) == 200
    await watch.step()
    assert {one["state"] for one in (await told(cloud, viewer)).values()} <= {"ok", "no_data"}


class Clock:
    """A monotonic clock that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_pending_becomes_firing_in_time_and_old_readings_go(cloud_lite: Cloud) -> None:
    clock, services = Clock(), cloud_lite.services
    watch = Watch(services.db, services.figures, LIMITS, wall_ms, clock)
    device = await cloud_lite.enroll("pi-1")
    number = itertools.count()
    seen: list[tuple[float, str]] = []
    for _ in range(60):
        await watch.step()
        state = next(one.state for one in watch.alerts if one.rule.name == "PisyncRejectionsHigh")
        if not seen or seen[-1][1] != state:
            seen.append((clock.now_s, state))
        if clock.now_s < 1500:
            await send(cloud_lite, device, *(item(next(number), "nonsense") for _ in range(20)))
        clock.now_s += INTERVAL_S
    # The last refusals leave the window 300 s after they came.
    assert seen == [(1000, "no_data"), (1015, "pending"), (1315, "firing"), (1810, "no_data")]
    assert len(watch._readings) <= LIMITS.window_s / INTERVAL_S + 2


async def test_a_database_that_takes_nothing_makes_insert_failures(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(alert_for_s=0)
    device, watch = await cloud.enroll("pi-1"), cloud.services.watch
    assert await send(cloud, device, item(0)) == 200
    await watch.step()
    writer: Any = cloud.services.db._writer  # type: ignore[attr-defined]
    (pages,) = next(iter(await writer.execute_fetchall("PRAGMA page_count")))
    await writer.execute_fetchall(f"PRAGMA max_page_count={pages}")
    refused = 0
    for number in range(1, 1000):
        large = {**item(number), "itemData": {"text": "x" * 20_000}}
        refused += await send(cloud, device, large) == 503
        if refused == alerts.INSERTS_MIN:
            break
    await watch.step()
    found = {one.rule.name: one for one in watch.alerts}
    assert found["PisyncInsertFailures"].state == "firing"
    # Whether the window begins before or after the first batch is the start's affair.
    assert found["PisyncInsertFailures"].value in (100 * refused / number, 100 * refused / (number + 1))
    async with cloud.http.get(cloud.url + "/metrics") as scraped:
        assert f"pisync_insert_failures_total {refused}.0" in await scraped.text()


async def test_the_figures_and_alerts_go_on_without_a_database(
    cloud_lite: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They matter most when it is gone: what it said last remains, and that it is gone is told."""
    services = cloud_lite.services
    device = await cloud_lite.enroll("pi-1")
    sync = {"device_id": "pi-1", "timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0}
    assert (await cloud_lite.call("POST", "/api/sync-event", json=sync, headers=device))[0] == 201
    await services.watch.step()
    monkeypatch.setattr("cloud.workers.watch.ASK_TIMEOUT_S", 0.05)
    async with services.db.reading(), services.db.reading(), services.db.reading():
        await services.watch.step()
        async with cloud_lite.http.get(cloud_lite.url + "/metrics") as scraped:
            text = await scraped.text()
    assert "pisync_database_up 0.0" in text
    assert "pisync_devices 1.0" in text
    found = {one.rule.name: one.state for one in services.watch.alerts}
    assert (found["PisyncDeviceQueueHigh"], found["PisyncQueueHigh"]) == ("no_data", "ok")
    await services.watch.step()
    assert {one.rule.name: one.state for one in services.watch.alerts}["PisyncDeviceQueueHigh"] == "ok"


async def test_an_export_that_cannot_write_is_told(start_cloud: StartCloud, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")
    cloud = await start_cloud(export_dir=str(blocked), alert_for_s=0)
    await cloud.services.exporter.step()
    await cloud.services.watch.step()
    await cloud.services.watch.step()
    found = await told(cloud, await cloud.key())
    assert found["PisyncExportFailing"]["state"] == "firing"
    assert found["PisyncExportFailing"]["value"] >= 1


async def test_a_failed_look_is_not_the_last_one(cloud_lite: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    services = cloud_lite.services
    watch = Watch(services.db, services.figures, LIMITS, wall_ms)
    looks = asyncio.Queue[None]()

    async def step() -> float:
        looks.put_nowait(None)
        if looks.qsize() == 1:
            raise ValueError("a look that fails")
        return 0.0

    monkeypatch.setattr(watch, "step", step)
    monkeypatch.setattr("cloud.workers.watch.INTERVAL_S", 0.0)
    async with watch.running():
        while looks.qsize() < 3:
            await asyncio.sleep(0)


def test_the_settings_have_the_same_numbers() -> None:
    assert thresholds(Settings()) == Thresholds()


@pytest.mark.parametrize("text", ["alert_success_percent=101", "alert_window_s=59", "alert_queue_items=0"])
def test_a_threshold_that_means_nothing_is_refused(text: str) -> None:
    name, _, value = text.partition("=")
    with pytest.raises(ConfigError, match=name):
        convert({name: value}, "test")
