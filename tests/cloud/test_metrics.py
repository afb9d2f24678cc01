"""/metrics: what really happened, in the form that Prometheus reads, without anybody's name in it."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from conftest import Cloud, StartCloud
from prometheus_client.parser import text_string_to_metric_families as parse

from cloud.config import Settings
from cloud.flows import figures
from cloud.flows.figures import Figures

ROOT = Path(__file__).parents[2]
SYNC = {"timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 1, "total_errors": 0, "internet_speed": None}
USER, SESSION = str(uuid.uuid4()), str(uuid.uuid4())


async def text_of(cloud: Cloud, headers: Mapping[str, str] | None = None) -> str:
    async with cloud.http.get(cloud.url + "/metrics", headers=headers or {}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await answer.text()


def values(text: str) -> dict[tuple[str, ...], float]:
    """{(name, label=value, ...): value} as Prometheus' own parser reads it."""
    return {
        (one.name, *(f"{key}={value}" for key, value in sorted(one.labels.items()))): one.value
        for family in parse(text)
        for one in family.samples
    }


async def scraped(cloud: Cloud) -> dict[tuple[str, ...], float]:
    return values(await text_of(cloud))


def item(number: int, **changes: Any) -> dict[str, Any]:
    return {"itemType": "progress", "itemData": {"n": number}, "id": f"p-{number}", **changes}


def event(**changes: Any) -> dict[str, Any]:
    base = {"event_type": "QUESTION_VIEWED", "session_id": SESSION, "payload": {"position": 1}}
    return {**base, "client_ts": "2026-01-20T12:34:56Z", **changes}


async def send(cloud: Cloud, headers: dict[str, str], *items: Any) -> None:
    status, _ = await cloud.call("POST", "/api/telemetry/batch", json={"batchId": "b", "items": items}, headers=headers)
    assert status == 200


async def test_what_becomes_of_items_is_counted_by_outcome_and_reason(cloud: Cloud) -> None:
    device = await cloud.enroll("pi-1")
    await send(cloud, device, item(1), item(2), item(3))
    await send(cloud, device, item(1), item(2, itemData={"n": 99}), item(9, itemType="nonsense"))
    found = await scraped(cloud)
    outcomes = {name: found["pisync_ingest_items_total", f"outcome={name}"] for name in figures.OUTCOMES}
    assert outcomes == {"synced": 3, "duplicate": 1, "failed": 1, "conflict": 1}
    assert found["pisync_ingest_rejected_total", "reason=item-type-unknown"] == 1
    assert found["pisync_ingest_rejected_total", "reason=id-conflict"] == 1
    assert sum(value for key, value in found.items() if key[0] == "pisync_ingest_rejected_total") == 2
    assert (found["pisync_batch_items_count",], found["pisync_batch_items_sum",]) == (2, 6)
    assert found["pisync_batch_items_bucket", "le=2.0"] == 0
    assert found["pisync_batch_items_bucket", "le=5.0"] == 2
    assert found["pisync_insert_duration_seconds_count",] == found["pisync_inserts_total",] == 2
    assert found["pisync_insert_failures_total",] == 0
    assert found["pisync_queue_wait_seconds_count",] == found["pisync_sync_duration_seconds_count",] == 2
    assert found["pisync_sync_duration_seconds_sum",] >= found["pisync_insert_duration_seconds_sum",] > 0


async def test_events_that_are_refused_before_any_group_count_once(cloud: Cloud) -> None:
    device = {**await cloud.enroll("pi-1"), "PiSync-User": USER}
    bad = [event(event_type="NOPE"), event(payload={"position": "x"}), event(payload={"email": "a@example.org"})]
    body = {"source": "web", "events": [event(), *bad]}
    status, answer = await cloud.call("POST", "/v1/telemetry/events", json=body, headers=device)
    assert (status, answer["accepted"], answer["rejected"]) == (200, 1, 3)
    found = await scraped(cloud)
    assert found["pisync_ingest_items_total", "outcome=failed"] == 3
    assert found["pisync_ingest_items_total", "outcome=synced"] == 1
    for reason in ("event-type-unknown", "payload-invalid", "personal-data"):
        assert found["pisync_ingest_rejected_total", f"reason={reason}"] == 1
    assert (found["pisync_batch_items_count",], found["pisync_batch_items_sum",]) == (1, 4)


async def test_a_request_that_cannot_be_read_is_one_refused_item(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    post = {"headers": {**device, "Content-Type": "application/json"}}
    for path in ("/api/telemetry/batch", "/v1/telemetry/events", "/api/telemetry/track", "/api/sync-event"):
        assert (await cloud_lite.call("POST", path, data=b"{not json", **post))[0] == 400
    status, _ = await cloud_lite.call("POST", "/v1/telemetry/events", json={"events": [event()] * 51}, headers=device)
    assert status == 413
    # Who is not let in has not sent an item; an address that takes none does not either.
    assert (await cloud_lite.call("POST", "/api/telemetry/batch", data=b"{"))[0] == 401
    assert (await cloud_lite.call("POST", "/nowhere", data=b"{", **post))[0] == 404
    found = await scraped(cloud_lite)
    assert found["pisync_ingest_items_total", "outcome=failed"] == 5
    assert found["pisync_ingest_rejected_total", "reason=malformed"] == 4
    assert found["pisync_ingest_rejected_total", "reason=too-many-events"] == 1
    assert found["pisync_http_problems_total", "code=malformed"] == 4
    assert found["pisync_http_problems_total", "code=token-missing"] == 1


async def test_a_conflict_of_one_event_is_counted_once(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-1")
    track = {"eventType": "lesson_done", "eventData": {"score": 1}, "metadata": {"eventId": "e-1"}}
    for data, expected in (({"score": 1}, 200), ({"score": 1}, 200), ({"score": 2}, 409)):
        body = {**track, "eventData": data}
        assert (await cloud_lite.call("POST", "/api/telemetry/track", json=body, headers=device))[0] == expected
    found = await scraped(cloud_lite)
    assert [found["pisync_ingest_items_total", f"outcome={name}"] for name in figures.OUTCOMES] == [1, 1, 0, 1]
    assert found["pisync_batch_items_count",] == 0


async def test_requests_are_counted_by_template_and_nobody_is_named(cloud_lite: Cloud) -> None:
    device = await cloud_lite.enroll("pi-secret-7")
    viewer = await cloud_lite.key()
    for device_id in ("pi-secret-7", "other-secret"):
        await cloud_lite.call("GET", f"/api/devices/{device_id}", headers=viewer)
        await cloud_lite.call("GET", f"/secret-path-{device_id}?q=secret")
    await cloud_lite.call("BREW", "/api/devices/secret-method", headers=viewer)
    body = {"events": [event(user_id=USER, id=str(uuid.uuid4()))]}
    await cloud_lite.call("POST", "/v1/telemetry/events", json=body, headers=device)
    await send(cloud_lite, device, item(1, id="secret-item", itemData={"secret": "data"}))
    sync = {**SYNC, "device_id": "pi-secret-7", "error_code": "secret-code", "total_errors": 1}
    await cloud_lite.call("POST", "/api/sync-event", json=sync, headers=device)
    await cloud_lite.services.watch.step()
    text = await text_of(cloud_lite)
    found = values(text)
    route = "route=/api/devices/{device_id}"
    assert found["pisync_http_requests_total", "method=GET", route, "status=200"] == 1
    assert found["pisync_http_requests_total", "method=GET", route, "status=404"] == 1
    assert found["pisync_http_requests_total", "method=GET", "route=unmatched", "status=404"] == 2
    assert found["pisync_http_request_duration_seconds_count", route] >= 2
    assert not re.search(f"secret|BREW|{USER}|{SESSION}", text)


async def test_an_invented_method_or_code_makes_no_series_of_its_own() -> None:
    counts = Figures()
    for number in range(1000):
        counts.answered(f"X{number}", "unmatched", 405, 0.001, f"code-{number}")
        counts.rejected([f"reason-{number}"])
    found = values(counts.text().decode())
    assert found["pisync_http_requests_total", "method=other", "route=unmatched", "status=405"] == 1000
    codes = [key for key in found if key[0] == "pisync_http_problems_total"]
    assert len(codes) == figures.PROBLEMS_MAX + 1
    assert found["pisync_http_problems_total", "code=other"] == 1000 - figures.PROBLEMS_MAX
    assert found["pisync_ingest_rejected_total", "reason=other"] == 1000


REASON_SOURCES = (
    "cloud/rules/admit.py",
    "cloud/rules/intake.py",
    "cloud/rules/learning.py",
    "pisyncd/core/envelope.py",
)


def test_the_reasons_are_those_that_the_rules_give() -> None:
    """A code that the rules got anew would count as `other` for ever."""
    given: set[str] = set()
    for name in REASON_SOURCES:
        for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z]+)+", str(node.value)):
                given.add(str(node.value))
    assert len(given) > 10
    assert given - figures.REASONS <= {"date-time"}


async def test_the_queue_of_this_process(cloud_lite: Cloud) -> None:
    """Seen while the database is held, as a slow disk would hold it."""
    device = await cloud_lite.enroll("pi-1")
    waiting = cloud_lite.services.ingest.waiting
    async with cloud_lite.services.db.transaction():
        sending = [asyncio.create_task(send(cloud_lite, device, item(n), item(n + 100))) for n in range(3)]
        while sum(count for _, count in waiting()) < 6:
            await asyncio.sleep(0)
        found = await scraped(cloud_lite)
        assert found["pisync_queue_pending_items",] == 6
        assert found["pisync_queue_wait_max_seconds",] >= found["pisync_queue_wait_average_seconds",] > 0
        await cloud_lite.services.watch.step()
    await asyncio.gather(*sending)
    found = await scraped(cloud_lite)
    assert found["pisync_queue_pending_items",] == found["pisync_queue_wait_max_seconds",] == 0
    assert found["pisync_ingest_items_total", "outcome=synced"] == 6
    await cloud_lite.services.watch.step()
    assert (await scraped(cloud_lite))["pisync_queue_growth_items",] <= 0


async def test_what_devices_hold(cloud: Cloud) -> None:
    watch = cloud.services.watch
    await watch.step()
    for name, depth in (("pi-1", 40), ("pi-2", 700), ("pi-3", 0)):
        sync = {**SYNC, "device_id": name, "queue_depth": depth}
        headers = await cloud.enroll(name)
        assert (await cloud.call("POST", "/api/sync-event", json=sync, headers=headers))[0] == 201
    await watch.step()
    found = await scraped(cloud)
    assert (found["pisync_devices",], found["pisync_devices_active",], found["pisync_devices_failing",]) == (3, 3, 0)
    assert (found["pisync_devices_queue_items",], found["pisync_devices_queue_max_items",]) == (740, 700)
    assert found["pisync_devices_queue_active_max_items",] == 700
    assert found["pisync_devices_queue_growth_items",] == 740
    assert 0 <= found["pisync_devices_queue_wait_max_seconds",] < 600
    assert found["pisync_database_up",] == 1
    assert found["pisync_export_ranges_failing",] == found["pisync_export_failed_runs",] == 0


async def test_the_events_of_session_calls_are_counted(cloud_lite: Cloud) -> None:
    device = {**await cloud_lite.enroll("pi-1"), "PiSync-User": USER}
    body = {"mode": "practice", "question_ids": [str(uuid.uuid4())]}
    status, _ = await cloud_lite.call("POST", "/v1/sessions", json=body, headers=device)
    assert status == 201
    found = await scraped(cloud_lite)
    assert found["pisync_session_events_total", "outcome=kept"] == 1
    assert found["pisync_session_events_total", "outcome=failed"] == 0
    assert found["pisync_inserts_total",] == 1


async def test_who_may_scrape(start_cloud: StartCloud) -> None:
    closed = await start_cloud(metrics_open=False)
    device, viewer = await closed.enroll("pi-1"), await closed.key()
    for headers, expected in (({}, 401), (device, 403), (viewer, 200)):
        assert (await closed.call("GET", "/metrics", headers=headers))[0] == expected
    assert "pisync_info" in await text_of(closed, viewer)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x",
        "application/openmetrics-text;version=1.0.0;escaping=evil",
        "\xe9",
        "*",
    ],
)
async def test_the_form_is_the_same_whatever_is_asked_for(cloud_lite: Cloud, accept: str) -> None:
    assert values(await text_of(cloud_lite, {"Accept": accept}))


async def test_each_service_counts_for_itself(start_cloud: StartCloud, tmp_path: Path) -> None:
    first, second = await start_cloud(), await start_cloud(data=str(tmp_path / "second"))
    await send(first, await first.enroll("pi-1"), item(1))
    assert (await scraped(first))["pisync_ingest_items_total", "outcome=synced"] == 1
    assert (await scraped(second))["pisync_ingest_items_total", "outcome=synced"] == 0


async def test_every_figure_is_in_the_document_and_nothing_else(cloud_lite: Cloud) -> None:
    await cloud_lite.services.watch.step()
    await cloud_lite.call("GET", "/nowhere")
    exposed = {family.name for family in parse(await text_of(cloud_lite)) if family.name.startswith("pisync_")}
    document = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    tables = "\n".join(line for line in document.splitlines() if line.startswith("| `pisync_"))
    described = {name.removesuffix("_total") for name in re.findall(r"`(pisync_\w+)", tables)}
    assert described == exposed


async def test_the_rules_speak_of_figures_that_are_there(cloud_lite: Cloud) -> None:
    """A rule over a name that nobody tells never fires and never complains."""
    found = await scraped(cloud_lite)
    exposed = {key[0] for key in found}
    labels = {label for key in found for label in key[1:]}
    loaded = yaml.safe_load((ROOT / "config" / "alerts.yaml").read_text("utf-8"))
    expressions = [one["expr"] for group in loaded["groups"] for one in group["rules"]]
    assert len(expressions) == 13
    for expression in expressions:
        names = re.findall(r"\bpisync_\w+", expression)
        assert names
        assert set(names) <= exposed, expression
        for label, alternatives in re.findall(r'(\w+)=~?"([^"]*)"', expression):
            assert {f"{label}={one}" for one in alternatives.split("|")} <= labels, expression


def test_the_settings_of_the_document_are_there() -> None:
    document = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    named = set(re.findall(r"`(alert_\w+|metrics_\w+)`", document))
    known = {one.name for one in msgspec.structs.fields(Settings)}
    assert named == {name for name in known if name.startswith(("alert_", "metrics_"))} - {"metrics_open"}
    assert "`metrics_open: false`" in document


async def test_promtool_finds_nothing_to_improve(cloud_lite: Cloud) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here; the parser of prometheus_client reads the figures in the tests above")
    await send(cloud_lite, await cloud_lite.enroll("pi-1"), item(1), item(2, itemType="nonsense"))
    await cloud_lite.services.watch.step()
    text = await text_of(cloud_lite)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # What is not ours is not ours to name: the client library's own collectors.
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "pisync_" in line]
    assert done.returncode in (0, 3), done.stderr
    assert not lines
