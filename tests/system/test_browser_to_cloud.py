"""A page in a real browser, the device beside it, and the cloud: what the page tells arrives once."""

from __future__ import annotations

import functools
import http.server
import shutil
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import MakeDevice
from playwright.sync_api import Page, sync_playwright
from rig.cloud import Cloud, free_port
from rig.wait import until

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUESTIONS = [str(uuid.UUID(int=n)) for n in range(1, 4)]
START = """async ([base, learner, questions]) => {
  const { TelemetryService } = await import(base + "/telemetry.js");
  const headers = { "Content-Type": "application/json", "PiSync-User": learner };
  const body = JSON.stringify({ mode: "practice", question_ids: questions });
  const made = await (await fetch(base + "/v1/sessions", { method: "POST", headers, body })).json();
  window.telemetry = new TelemetryService({ url: base, userId: learner, sessionId: made.id });
  await telemetry.initialize();
  return made.id;
}"""
CAPTURE = """async () => {
  for (let n = 0; n < 12; n += 1) telemetry.captureEvent("QUESTION_VIEWED", { position: n % 3 });
  telemetry.captureEvent("lesson_opened", { lesson: 3 });
  return await telemetry.sync();
}"""


@pytest.fixture
def page_url(tmp_path: Path) -> Iterator[str]:
    """The address of an empty page, on an origin of its own."""
    (tmp_path / "index.html").write_text("<!doctype html><title>A lesson</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def page(page_url: str) -> Iterator[Page]:
    """That page in Chromium."""
    done = subprocess.run([str(ROOT / "scripts" / "browser")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        opened = browser.new_page()
        opened.goto(page_url)
        yield opened
        browser.close()


def kept(cloud: Cloud, table: str, column: str) -> tuple[int, int]:
    """(rows, different ids) of what is not the device's own."""
    own = " WHERE event_type NOT LIKE 'upload.%'" if table == "telemetry" else ""
    with closing(sqlite3.connect(f"file:{cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
        rows, different = db.execute(f"SELECT count(*), count(DISTINCT {column}) FROM {table}{own}").fetchone()
        return int(rows), int(different)


def test_a_page_beside_a_device(own_cloud: Cloud, make_device: MakeDevice, page: Page, page_url: str) -> None:
    port, learner = free_port(), str(uuid.uuid4())
    device = make_device(own_cloud, settings={"intake": {"port": port, "origins": [page_url]}})
    device.start()
    session = page.evaluate(START, [f"http://127.0.0.1:{port}", learner, QUESTIONS])
    page.evaluate(CAPTURE)
    # while the device is off, the page keeps what it has
    device.kill()
    page.evaluate(CAPTURE)
    device.start()
    page.evaluate("telemetry.sync()")
    until("the session's events are there", lambda: kept(own_cloud, "attempt_events", "id") == (25, 25))
    until("the others are there", lambda: kept(own_cloud, "telemetry", "event_id") == (2, 2))
    with closing(sqlite3.connect(f"file:{own_cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
        owners = db.execute("SELECT DISTINCT user_id, session_id FROM attempt_events").fetchall()
    assert owners == [(learner, session)]
