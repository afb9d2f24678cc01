"""Records: how quickly 10,000 changed ones reach the cloud, near and over a slow link, and how quickly one does."""

from __future__ import annotations

import http.server
import json
import os
import sqlite3
import statistics
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rig.cloud import Cloud
from rig.device import Device
from rig.process import BIN, cpu_seconds
from rig.wait import until

from benchmarks import capture, load, ours
from benchmarks.ground import Ground, loopback
from benchmarks.ingest import generate
from benchmarks.result import Options, Result, Skipped
from pisyncd.core import encodings

Line = Result | Skipped

RECORDS = 10_000
WRITERS = 16
LAN_S_MAX = 10.0
LATENCY_S_MAX = 5.0
SLOW_CHANGES = 50
LEARNER = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
IN_THE_CLOUD = "SELECT count(*), coalesce(sum(CASE WHEN deleted = 0 THEN 1 ELSE 0 END), 0) FROM record"

#: A learner's progress; of each record another one.
_ID = "@@RANDOM@@" * 4
_PROGRESS = {
    "userId": _ID,
    "courseId": _ID,
    "moduleId": "mod_@@COUNT@@",
    "percent": 75,
    "score": 82.5,
    "attempts": 3,
    "timeSpent": 1260,
    "completedLessons": ["lesson_1", "lesson_2", "lesson_@@RANDOM@@"],
    "startedAt": "2026-03-02T08:00:00.000Z",
}


def _writes(device: Device, method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Each record once through the device's socket, by 16 applications at once; each answered when durable."""
    plan = load.Plan(
        host="device",
        port=0,
        method=method,
        path="/api/records/progress/prog-@@SEQ@@",
        body=json.dumps({"fields": fields}),
        tokens=["none"] * WRITERS,
        seconds=120.0,
        unix=str(device.socket),
        count=RECORDS,
    )
    outcome = generate(plan)
    good = sum(count for status, count in outcome["answers"].items() if status in ("200", "201"))
    if good != RECORDS:
        raise RuntimeError(f"the device took not all: {outcome['answers']}, {outcome['failures']} failures")
    return outcome


def records_lan(options: Options) -> Iterator[Line]:
    """10,000 records made, then changed, on one device that is paused: from the resume until the last is acknowledged.

    How long the applications took to write them stands in the details.
    """
    with loopback() as ground, ours.pair(ground) as (cloud, device):
        device.start()
        until("the device is online", lambda: device.status()["link"]["state"] == "full", within_s=60, poll_s=0.1)
        until("nothing is owed", lambda: capture.left(device) == 0, within_s=60, poll_s=0.1)
        made = _delivered(cloud, device, "made", "PUT", _PROGRESS)
        yield made
        yield _delivered(cloud, device, "changed", "PATCH", {"percent": 90, "timeSpent": 1800, "attempts": 4})
        if not options.alone:
            device.ask("POST", "/pause")
            _writes(device, "PATCH", {"percent": 95, "score": 90.5, "attempts": 5})
            yield _bytes_alone(ground, capture.batches(device), made.value)


def _delivered(cloud: Cloud, device: Device, metric: str, method: str, fields: dict[str, Any]) -> Result:
    pids = {"cloud": cloud.process.pid, "device": device.process.pid}
    device.ask("POST", "/pause")
    outcome = _writes(device, method, fields)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    started = time.perf_counter()
    device.ask("POST", "/resume")
    until("the last is acknowledged", lambda: capture.left(device) == 0, within_s=240, poll_s=0.02)
    seconds = time.perf_counter() - started
    cpu_us = {f"{name}_cpu_us": round((cpu_seconds(pid) - before[name]) / RECORDS * 1e6) for name, pid in pids.items()}
    with closing(sqlite3.connect(f"file:{cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
        kept = db.execute(IN_THE_CLOUD).fetchone()
    if kept[0] != RECORDS:
        raise RuntimeError(f"the cloud has {kept[0]} records")
    return Result(
        benchmark="records-lan",
        metric=metric,
        value=seconds,
        unit="s",
        bound="at_most",
        limit=LAN_S_MAX,
        details={"records": RECORDS, "writes": outcome, "kept": kept, **cpu_us},
    )


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes a body, and answers when it is on the disk."""

    protocol_version = "HTTP/1.1"
    into: Path

    def do_POST(self) -> None:
        """Keep the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.into.open("ab") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _bytes_alone(ground: Ground, bodies: list[bytes], own_s: float) -> Line:
    """The same bytes, compressed, posted and written to a file: no records, no checks, no database."""
    sink = type("Sink", (_Sink,), {"into": ground.work / "sink"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started = time.perf_counter()
        for body in bodies:
            request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", encodings.zstd_packed(body))
            urllib.request.urlopen(request, timeout=30).close()
        seconds = time.perf_counter() - started
        server.shutdown()
    details = {"batches": len(bodies), "compressed_bytes": sum(len(encodings.zstd_packed(body)) for body in bodies)}
    return Result(
        benchmark="records-lan", metric="made", tool="compressed bytes alone", value=seconds, unit="s",
        ratio=own_s / seconds, details={**details, "note": "posted and written to a file, nothing else"},
    )  # fmt: skip


def records_slow(options: Options) -> Iterator[Line]:
    """10,000 changed records over 1 Mbit/s and 300 ms, against the time that their compressed bytes take."""
    del options

    def fill(device: Device) -> None:
        _writes(device, "PUT", _PROGRESS)

    yield capture.against_floor("records-slow", capture.drained(fill, count=IN_THE_CLOUD, resume=True), records=RECORDS)


def records_pull(options: Options) -> Iterator[Line]:
    """One changed profile: from the cloud's answer until the device shows it, and the reverse."""
    changes = SLOW_CHANGES * (4 if options.thorough else 1)
    with loopback() as ground, ours.pair(ground) as (cloud, device):
        command = [str(BIN / "pisync-cloud"), "subscribe", ours.DEVICE_ID, "--user", LEARNER, "--data", str(cloud.data)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        operator = cloud.key("bench-operator", "operator")
        device.start()
        path = f"/api/records/profile/{LEARNER}"

        def in_cloud(method: str, body: bytes | None = None) -> Any:
            return cloud.ask(method, path, key=operator, body=body, Content_Type="application/json")

        def on_device(method: str, body: bytes | None = None) -> Any:
            return device.ask(method, path, body, Content_Type="application/json")

        _one_change(in_cloud, on_device)
        _one_change(on_device, in_cloud)
        for metric, here, there in (("cloud_to_device", in_cloud, on_device), ("device_to_cloud", on_device, in_cloud)):
            times = sorted(_one_change(here, there) for _ in range(changes))
            yield Result(
                benchmark="records-pull",
                metric=f"{metric}_p95",
                value=times[min(len(times) - 1, int(len(times) * 0.95))],
                unit="s",
                bound="at_most",
                limit=LATENCY_S_MAX,
                details={"p50_ms": round(statistics.median(times) * 1000, 1), "max_ms": round(times[-1] * 1000, 1),
                         "changes": changes},
            )  # fmt: skip


def _one_change(here: Callable[..., Any], there: Callable[..., Any]) -> float:
    """Seconds from the answer of one side until the other shows the same."""
    mark = str(uuid.uuid4())
    answer = here("PUT", json.dumps({"fields": {"language": "de", "mark": mark}}).encode())
    if answer.status not in (200, 201):
        raise RuntimeError(f"not written: {answer.status} {answer.body[:500]!r}")
    written = time.perf_counter()

    def shown() -> bool:
        found = there("GET")
        return bool(found.status == 200 and found.json()["data"]["fields"].get("mark") == mark)

    until("the change arrives", shown, within_s=60, poll_s=0.005)
    return time.perf_counter() - written
