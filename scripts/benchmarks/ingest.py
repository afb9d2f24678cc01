"""What the cloud does with sync events: how many it takes, and how quickly it shows what it has taken."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import place, postgres
from rig.cloud import Cloud
from rig.process import cpu_seconds

from benchmarks import load, preload
from benchmarks.result import Options, Result, Skipped

Line = Result | Skipped

DEVICES = 10_000
EVENTS = 1_000_000
CONNECTIONS = 32
# Three times the best of the public PiSync backends, which take 140 to 465 a second.
EVENTS_PER_S_MIN = 3 * 465
CPU_MS_MAX = 0.7
PAGE_MS_MAX = 5.0

_EVENT = {
    "device_id": "@@DEVICE@@",
    "timestamp": "2026-11-22T04:00:00Z",
    "total_files_synced": 12,
    "total_errors": 0,
    "internet_speed": 4.2,
    "event_id": "bench-@@SEQ@@",
}


@contextlib.contextmanager
def _past(dialect: str, *, devices: int = DEVICES, events: int = EVENTS) -> Iterator[tuple[Cloud, preload.Past]]:
    """Run a cloud over a database that already holds a past."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-")))
        url = stack.enter_context(postgres.database()) if dialect == "postgres" else None
        cloud = Cloud(work, database=url)
        cloud.data.mkdir()
        past = asyncio.run(
            preload.fill(
                url or str(cloud.data / "pisync.db"), devices=devices, total=events, with_token=CONNECTIONS + 1
            )
        )
        cloud.start()
        try:
            yield cloud, past
        finally:
            cloud.stop()


def generate(plan: load.Plan) -> dict[str, Any]:
    """Run the load generator in a process of its own and return its outcome."""
    done = subprocess.run(
        [sys.executable, load.__file__],
        input=json.dumps(dataclasses.asdict(plan)).encode(),
        capture_output=True,
        check=True,
        timeout=plan.seconds + 120,
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def _burst(cloud: Cloud, past: preload.Past, first_seq: int, seconds: float) -> tuple[dict[str, Any], float]:
    """Send sync events for some seconds; return the outcome and the cloud's CPU time in seconds."""
    devices = [name for name in past.tokens if name != preload.HISTORY_DEVICE][:CONNECTIONS]
    plan = load.Plan(
        host=cloud.host,
        port=cloud.port,
        method="POST",
        path="/api/sync-event",
        body=json.dumps(_EVENT),
        tokens=[past.tokens[name] for name in devices],
        devices=devices,
        seconds=seconds,
        first_seq=first_seq,
    )
    before = cpu_seconds(cloud.process.pid)
    outcome = generate(plan)
    return outcome, cpu_seconds(cloud.process.pid) - before


def sync_event(options: Options) -> Iterator[Line]:
    """POST /api/sync-event over 32 connections onto 1,000,000 rows; an answer is durable."""
    seconds = 30.0 if options.thorough else 12.0
    for dialect in ("sqlite", "postgres"):
        try:
            with _past(dialect) as (cloud, past):
                _burst(cloud, past, 0, 2.0)
                outcome, cpu_s = _burst(cloud, past, 10**9, seconds)
                taken = sum(outcome["answers"].values())
                created = outcome["answers"].get("201", 0)
                stored = {"stored_all": _all_stored(cloud, past, created)} if dialect == "sqlite" else {}
        except (ImportError, OSError, subprocess.SubprocessError) as error:
            yield Skipped(benchmark=f"sync-event-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")
            continue
        details = {**outcome, **stored, "connections": CONNECTIONS, "rows_before": past.events}
        yield Result(
            benchmark=f"sync-event-{dialect}",
            metric="durable_answers",
            value=created / outcome["seconds"],
            unit="1/s",
            bound="at_least",
            limit=EVENTS_PER_S_MIN,
            details=details,
        )
        yield Result(
            benchmark=f"sync-event-{dialect}",
            metric="server_cpu",
            value=cpu_s / max(1, taken) * 1000,
            unit="ms per request",
            bound="at_most",
            limit=CPU_MS_MAX,
            details={"cpu_s": round(cpu_s, 2), "requests": taken},
        )


def _all_stored(cloud: Cloud, past: preload.Past, created: int) -> bool:
    """Tell whether the history of the benchmark's devices grew by what was answered with 201 (and the warm-up)."""
    devices = [name for name in past.tokens if name != preload.HISTORY_DEVICE][:CONNECTIONS]
    total = 0
    for name in devices:
        answer = cloud.ask("GET", f"/api/device/{name}/sync-history?limit=1", key=cloud.viewer)
        total += int(answer.json()["pagination"]["total"])
    return total >= created


def _latency(cloud: Cloud, path: str, rounds: int = 200) -> tuple[float, float]:
    """Return the median and the p95 of a GET over one kept connection, in milliseconds."""
    here = place.Here()
    headers = {"Authorization": f"Bearer {cloud.viewer}"}
    times = []
    connection = place.SocketConnection(lambda: here.connect(cloud.host, cloud.port, 30), 30)
    with contextlib.closing(connection):
        for _ in range(rounds):
            started = time.perf_counter()
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            times.append((time.perf_counter() - started) * 1000)
            if response.status != 200:
                raise RuntimeError(f"GET {path}: {response.status} {body[:500]!r}")
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.95)]


def _pages(name: str, paths: dict[str, str]) -> Iterator[Line]:
    for dialect in ("sqlite", "postgres"):
        try:
            with _past(dialect) as (cloud, _):
                measured = {metric: _latency(cloud, path) for metric, path in paths.items()}
        except (ImportError, OSError) as error:
            yield Skipped(benchmark=f"{name}-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")
            continue
        for metric, (median, p95) in measured.items():
            yield Result(
                benchmark=f"{name}-{dialect}",
                metric=metric,
                value=median,
                unit="ms",
                bound="at_most",
                limit=PAGE_MS_MAX,
                details={"p95_ms": round(p95, 3), "path": paths[metric], "rows": EVENTS, "devices": DEVICES},
            )


def history(options: Options) -> Iterator[Line]:
    """Page 1 and page 100 of a device with 10,000 events, in a database of 1,000,000."""
    del options
    base = f"/api/device/{preload.HISTORY_DEVICE}/sync-history?limit=10"
    yield from _pages("history", {"page_1": f"{base}&page=1", "page_100": f"{base}&page=100"})


def repeated_failures(options: Options) -> Iterator[Line]:
    """The list of devices that failed more than three times, over 10,000 devices."""
    del options
    path = "/api/devices/repeated-failures"
    yield from _pages("repeated-failures", {"first_page": path, "fifty": f"{path}?limit=50"})


_WRONG: dict[str, bytes] = {
    "not_json": b"{",
    "empty": b"",
    "array": b"[]",
    "null": b"null",
    "missing_fields": b"{}",
    "negative_count": json.dumps({**_EVENT, "device_id": "edge", "total_errors": -1}).encode(),
    "text_count": json.dumps({**_EVENT, "device_id": "edge", "total_files_synced": "many"}).encode(),
    "huge_count": json.dumps({**_EVENT, "device_id": "edge", "total_files_synced": 10**40}).encode(),
    "negative_speed": json.dumps({**_EVENT, "device_id": "edge", "internet_speed": -1}).encode(),
    "nan_speed": json.dumps({**_EVENT, "device_id": "edge"}).replace("4.2", "NaN").encode(),
    "bad_time": json.dumps({**_EVENT, "device_id": "edge", "timestamp": "yesterday"}).encode(),
    "other_device": json.dumps({**_EVENT, "device_id": "somebody-else"}).encode(),
    "not_utf8": b'{"device_id":"\xff\xfe"}',
    "deep": b"[" * 20_000,
    "nul": json.dumps({**_EVENT, "device_id": "edge", "event_id": "a\x00b"}).encode(),
}


def edge_cases(options: Options) -> Iterator[Line]:
    """The same event twice, twenty first events of a new device at once, and wrong input."""
    del options
    with tempfile.TemporaryDirectory(prefix="pisync-bench-") as work:
        cloud = Cloud(Path(work))
        cloud.start()
        try:
            yield _twice(cloud)
            yield _at_once(cloud)
            yield _wrong_input(cloud)
        finally:
            cloud.stop()


def _post(cloud: Cloud, token: str, body: bytes) -> place.Answer:
    return cloud.ask("POST", "/api/sync-event", key=token, body=body, Content_Type="application/json")


def _event_of(device: str, event_id: str) -> bytes:
    return json.dumps({**_EVENT, "device_id": device, "event_id": event_id}).encode()


def _twice(cloud: Cloud) -> Line:
    token = cloud.enroll("twice")
    statuses = [_post(cloud, token, _event_of("twice", "one")).status for _ in range(2)]
    stored = len(cloud.history("twice"))
    return Result(
        benchmark="edge-cases",
        metric="same_event_twice_stored",
        value=stored,
        unit="times",
        bound="equal",
        limit=1,
        details={"statuses": statuses},
    )


def _at_once(cloud: Cloud) -> Line:
    token = cloud.enroll("new-device")
    statuses: list[int] = []

    def send(index: int) -> None:
        statuses.append(_post(cloud, token, _event_of("new-device", f"event-{index}")).status)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stored = len(cloud.history("new-device"))
    return Result(
        benchmark="edge-cases",
        metric="twenty_first_events_answered_and_stored",
        value=min(statuses.count(201), stored),
        unit="events",
        bound="equal",
        limit=20,
        details={"statuses": sorted(statuses), "stored": stored},
    )


def _wrong_input(cloud: Cloud) -> Line:
    token = cloud.enroll("edge")
    answers = {name: _post(cloud, token, body) for name, body in _WRONG.items()}
    clear = [
        name
        for name, answer in answers.items()
        if 400 <= answer.status < 500 and answer.json().get("code") and answer.json().get("detail")
    ]
    return Result(
        benchmark="edge-cases",
        metric="wrong_input_with_a_clear_4xx",
        value=len(clear),
        unit="of the cases",
        bound="equal",
        limit=len(_WRONG),
        details={name: [answer.status, answer.json().get("code")] for name, answer in answers.items()},
    )
