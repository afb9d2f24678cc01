"""The export inside the service: scheduled, asked for, watched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cloud, StartCloud
from export_helpers import Store, Warehouse
from tus_helpers import until


async def test_it_runs_by_itself_and_when_asked(start_cloud: StartCloud, database_url: str, tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "export")
    cloud = await start_cloud(database=database_url, export_dir=str(warehouse.root), free_floor_bytes=0)
    viewer, admin = await cloud.key("viewer"), await cloud.key("admin")

    async def shown() -> Any:
        status, body = await cloud.call("GET", "/api/exports", headers=viewer)
        assert status == 200, body
        return body["data"]

    async def idle() -> Any:
        found = await shown()
        return found if found["state"] == "idle" and found["next_run_at"] else None

    first = await until(idle)
    assert [one["dataset"] for one in first["datasets"]] == ["attempt_events", "telemetry", "boots", "sessions"]
    store = Store(database_url)
    await store.add_events(0, 50)
    behind = (await shown())["datasets"][0]
    assert (behind["state"], behind["lag_rows"], behind["watermark"]) == ("behind", 50, 0)
    assert (await cloud.call("POST", "/api/exports", headers=viewer))[0] == 403
    status, body = await cloud.call("POST", "/api/exports", headers=admin)
    assert (status, body["success"]) == (202, True)

    async def current() -> Any:
        found = await idle()
        return found if found and found["datasets"][0]["state"] == "current" else None

    events = (await until(current))["datasets"][0]
    assert (events["rows"], events["lag_rows"], events["watermark"]) == (50, 0, 50)
    assert events["last_published"]["rows"] == 50
    assert len(warehouse.ids()) == 50
    assert await store.value("SELECT count(*) FROM audit WHERE action = 'export.started'") == 1


async def test_a_failure_is_shown_and_the_next_run_comes_sooner(start_cloud: StartCloud, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    cloud = await start_cloud(export_dir=str(tmp_path / "file"), free_floor_bytes=0)
    viewer = await cloud.key("viewer")

    async def failing() -> Any:
        _, body = await cloud.call("GET", "/api/exports", headers=viewer)
        return body["data"] if body["data"]["state"] == "failing" and body["data"]["next_run_at"] else None

    shown = await until(failing)
    assert shown["error"]["code"] == "storage-busy"
    assert shown["failures"] >= 1
    exporter = cloud.services.exporter
    assert exporter.next_run_ms is not None
    assert exporter.ended_at_ms is not None
    assert exporter.next_run_ms - exporter.ended_at_ms <= 60_000


async def test_off_is_said_and_cannot_be_started(cloud_lite: Cloud) -> None:
    admin = await cloud_lite.key("admin")
    status, body = await cloud_lite.call("GET", "/api/exports", headers=admin)
    assert (status, body["data"]["state"], body["data"]["error"]["code"]) == (200, "off", "export-off")
    status, body = await cloud_lite.call("POST", "/api/exports", headers=admin)
    assert (status, body["code"]) == (409, "export-off")
    assert (await cloud_lite.call("GET", "/api/exports"))[0] == 401
    device = await cloud_lite.enroll("pi-1")
    assert (await cloud_lite.call("GET", "/api/exports", headers=device))[0] == 403


async def test_without_pyarrow_the_service_runs_and_says_so(
    start_cloud: StartCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    cloud = await start_cloud(export_dir=str(tmp_path / "export"))
    admin = await cloud.key("admin")
    _, body = await cloud.call("GET", "/api/exports", headers=admin)
    assert (body["data"]["state"], body["data"]["error"]["code"]) == ("unavailable", "export-unavailable")
    assert ".[cloud,export]" in body["data"]["error"]["hint"]
    status, body = await cloud.call("POST", "/api/exports", headers=admin)
    assert (status, body["code"]) == (409, "export-unavailable")
