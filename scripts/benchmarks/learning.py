"""Learning events: how many the cloud takes, how quickly one of them, and how a device's backlog drains."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import postgres
from rig.cloud import Cloud
from rig.process import cpu_seconds

from benchmarks import load
from benchmarks.ingest import generate
from benchmarks.result import Options, Result, Skipped

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


def _tracks(cloud: Cloud, token: str, seconds: float) -> load.Plan:
    body = {"eventType": "interview_completed", "eventData": {"score": 85}, "metadata": {"eventId": "t-@@SEQ@@"}}
    return load.Plan(
        host=cloud.host,
        port=cloud.port,
        method="POST",
        path="/api/telemetry/track",
        body=json.dumps(body),
        tokens=[token] * 4,
        seconds=seconds,
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
    for dialect in ("sqlite", "postgres"):
        try:
            with _cloud(dialect) as (cloud, tokens):
                yield from _ingest(dialect, cloud, tokens, seconds)
                yield _track_beside(dialect, cloud, tokens, seconds)
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


def _track_beside(dialect: str, cloud: Cloud, tokens: dict[str, str], seconds: float) -> Line:
    rate = EVENTS_PER_S_MIN[dialect] / BATCH
    beside: dict[str, Any] = {}
    plan = _batches(cloud, tokens, seconds, 2 * 10**9, rate=rate)
    thread = threading.Thread(target=lambda: beside.update(generate(plan)))
    thread.start()
    outcome = generate(_tracks(cloud, tokens["000000000000"], seconds - 2))
    thread.join()
    return Result(
        benchmark=f"learning-events-{dialect}",
        metric="track_p95",
        value=outcome["p95_ms"],
        unit="ms",
        bound="at_most",
        limit=TRACK_P95_MS_MAX,
        details={"track": outcome, "events_beside_per_s": beside["per_second"] * BATCH, "beside": beside},
    )
