"""Learning events: how many the cloud takes, how quickly one of them, and how a device's backlog drains."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rig import postgres
from rig.cloud import Cloud
from rig.process import cpu_seconds

from benchmarks import load
from benchmarks.ingest import generate
from benchmarks.result import Options, Result, Skipped
from cloud.store.db import load_queries

Line = Result | Skipped

CONNECTIONS = 16
BATCH = 100
EVENTS_PER_S_MIN = {"sqlite": 10_000, "postgres": 15_000}
TRACK_P95_MS_MAX = 5.0
TRACK_RATE = 50.0


#: As our own clients make them (UUID version 7: time first), and as others do (version 4: random).
TIMED_ID, RANDOM_ID = "@@COUNT@@-{:04x}-7000-8000-@@RANDOM@@0000", "@@RANDOM@@-{:04x}-4000-8000-@@SEQ@@"


def _item(number: int, event_id: str = RANDOM_ID) -> dict[str, Any]:
    """One event of envelope v1 as a device passes it on; its session is one of four."""
    return {
        "itemType": "event",
        "itemData": {
            "event_version": 1,
            "id": event_id.format(number),
            "event_type": "ANSWER_SELECTED",
            "session_id": f"{number % 4:08x}-0000-4000-8000-@@DEVICE@@",
            "user_id": f"{number % 4:08x}-0000-4000-9000-@@DEVICE@@",
            "question_id": f"{number:08x}-0000-4000-a000-000000000000",
            "client_ts": "2026-11-22T04:00:00.000Z",
            "seq": f"##{number:02d}",
            "source": "web",
            "payload": {"position": number, "selected_index": number % 5},
        },
        "boot_id": "b4e6a0c2-0000-4000-8000-000000000000",
        "boottime_ms": 1_000_000 + number,
        "wall_ms": 1_795_000_000_000 + number,
        "clock_trusted": True,
    }


def _batches(
    cloud: Cloud, tokens: dict[str, str], seconds: float, first_seq: int, rate: float = 0.0, event_id: str = TIMED_ID
) -> load.Plan:
    body = {"batchId": "bench-@@SEQ@@", "items": [_item(number, event_id) for number in range(BATCH)]}
    return load.Plan(
        host=cloud.host,
        port=cloud.port,
        method="POST",
        path="/api/telemetry/batch",
        # the application's own number rises from batch to batch
        body=re.sub(r'"##(..)"', r"1@@SEQ@@\1", json.dumps(body)),
        tokens=list(tokens.values()),
        devices=list(tokens),
        seconds=seconds,
        first_seq=first_seq,
        rate=rate,
    )


def _tracks(cloud: Cloud, token: str, seconds: float, first_seq: int) -> load.Plan:
    body = {"eventType": "interview_completed", "eventData": {"score": 85}, "metadata": {"eventId": "t-@@SEQ@@"}}
    return load.Plan(
        host=cloud.host,
        port=cloud.port,
        method="POST",
        path="/api/telemetry/track",
        body=json.dumps(body),
        tokens=[token] * 4,
        seconds=seconds,
        first_seq=first_seq,
        rate=TRACK_RATE,
    )


@contextlib.contextmanager
def _cloud(dialect: str) -> Iterator[tuple[Cloud, dict[str, str]]]:
    """A cloud without rate limits, and devices whose ids are 12 digits, so that they can stand in a UUID."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-")))
        url = stack.enter_context(postgres.database()) if dialect == "postgres" else None
        cloud = Cloud(work, database=url)
        cloud.start(env={"PISYNC_CLOUD_RATE_DEVICE_ITEMS": "0"})
        stack.callback(cloud.stop)
        yield cloud, {name: cloud.enroll(name) for name in (f"{n:012d}" for n in range(CONNECTIONS))}


def learning_events(options: Options) -> Iterator[Line]:
    """Events of envelope v1 in batches of 100, as many as are taken; then a single track beside 10,000 a second."""
    seconds = 30.0 if options.thorough else 12.0
    if not options.alone:
        yield _alone(seconds / 3)
    for dialect in ("sqlite", "postgres"):
        try:
            with _cloud(dialect) as (cloud, tokens):
                yield from _ingest(dialect, cloud, tokens, seconds)
                for share in (1.0, 0.5, 0.0):
                    yield _track_beside(dialect, cloud, tokens, seconds, share)
        except (ImportError, OSError, subprocess.SubprocessError) as error:
            name = f"learning-events-{dialect}"
            yield Skipped(benchmark=name, tool="pisync", reason=f"{type(error).__name__}: {error}")


def _ingest(dialect: str, cloud: Cloud, tokens: dict[str, str], seconds: float) -> Iterator[Line]:
    generate(_batches(cloud, tokens, 2.0, 10**9))
    for metric, event_id, first_seq in (("durable_events", TIMED_ID, 0), ("with_random_ids", RANDOM_ID, 10**8)):
        before = cpu_seconds(cloud.process.pid)
        outcome = generate(_batches(cloud, tokens, seconds, first_seq, event_id=event_id))
        cpu_s = cpu_seconds(cloud.process.pid) - before
        events = outcome["answers"].get("200", 0) * BATCH
        yield Result(
            benchmark=f"learning-events-{dialect}",
            metric=metric,
            value=events / outcome["seconds"],
            unit="1/s",
            bound="at_least",
            limit=EVENTS_PER_S_MIN[dialect],
            details={**outcome, "batch": BATCH, "server_cpu_us_per_event": round(cpu_s / max(1, events) * 1e6, 1)},
        )


def _alone(seconds: float) -> Line:
    """The same rows by sqlite3 in this process, a commit for each hundred: what the table itself allows."""
    with tempfile.TemporaryDirectory(prefix="pisync-bench-") as work:
        cloud = Cloud(Path(work))
        cloud.enroll("alone")
        with closing(sqlite3.connect(cloud.data / "pisync.db", isolation_level=None)) as db:
            db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536;")
            sql = load_queries("sqlite")["add_attempts"].sql
            kept, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                rows = [_row(kept + number) for number in range(BATCH)]
                db.execute("BEGIN IMMEDIATE")
                db.executemany(sql, rows)
                db.execute("COMMIT")
                kept += BATCH
    details = {"batch": BATCH, "note": "no HTTP, no JSON, no checks, no other process"}
    return Result(
        benchmark="learning-events-sqlite", metric="durable_events", tool="sqlite3", value=kept / elapsed, unit="1/s",
        details=details,
    )  # fmt: skip


def _row(number: int) -> tuple[Any, ...]:
    learner = f"{number % 4:08x}-0000-4000-8000-{number // BATCH % CONNECTIONS:012d}"
    now_ms = 1_795_000_000_000 + number
    event_id = f"{number:08d}-0000-7000-8000-{os.urandom(6).hex()}"
    return (
        event_id, 1, "ANSWER_SELECTED", now_ms, now_ms, number, learner, learner, learner, "web",
        '{"position":12,"selected_index":3}', os.urandom(16), 1, None, None, "b4e6a0c2-0000-4000-8000-000000000000",
        number, now_ms, 1,
    )  # fmt: skip


def _track_beside(dialect: str, cloud: Cloud, tokens: dict[str, str], seconds: float, share: float) -> Line:
    """50 single events a second, beside `share` of the load that counts."""
    rate = EVENTS_PER_S_MIN[dialect] / BATCH * share
    beside: dict[str, Any] = {"per_second": 0.0}
    first_seq = round(2 * 10**9 + share * 10**8)
    plan = _batches(cloud, tokens, seconds, first_seq, rate=rate)
    thread = threading.Thread(target=lambda: beside.update(generate(plan)))
    if rate:
        thread.start()
    outcome = generate(_tracks(cloud, tokens["000000000000"], seconds - 2, first_seq))
    if rate:
        thread.join()
    return Result(
        benchmark=f"learning-events-{dialect}",
        metric="track_p95" if share == 1.0 else f"track_p95_beside_{share:.0%}",
        value=outcome["p95_ms"],
        unit="ms",
        bound="at_most" if share == 1.0 else "none",
        limit=TRACK_P95_MS_MAX,
        details={"track": outcome, "events_beside_per_s": beside["per_second"] * BATCH, "beside": beside},
    )
