"""Learning events at the device: how quickly one is safe, and how a backlog drains over a slow link."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
from rig.cloud import Cloud, free_port
from rig.device import Device
from rig.process import BIN
from rig.wait import until

from benchmarks import load, netem, ours
from benchmarks.ground import Ground, loopback, over
from benchmarks.ingest import generate
from benchmarks.result import Options, Result, Skipped
from pisyncd.core import encodings, wire

Line = Result | Skipped

CAPTURE_MS_MAX = 5.0
CALL_MS_MAX = 1.0
RATE = 100.0
QUEUED = 100_000
GROUP = 500
DRAIN_RATIO_MAX = 1.2
RATE_BPS = 1_000_000
DELAY_S = 0.15
USER = "PiSync-User: 7d444840-9dc0-11d1-b245-5ffdce74fad2\r\n"

_EVENT = {
    "id": "@@RANDOM@@-0000-4000-8000-@@SEQ@@",
    "event_type": "ANSWER_SELECTED",
    "session_id": "00000001-0000-4000-8000-000000000001",
    "question_id": "00000002-0000-4000-8000-000000000001",
    "client_ts": "2026-11-22T04:00:00.000Z",
    "seq": 1,
    "payload": {"position": 3, "selected_index": 2},
}


def _offline(ground: Ground) -> Device:
    """A device whose cloud is not there."""
    device = Device(
        ground.scratch("capture"),
        device_id="bench-capture",
        token="pisync_device_nobody",
        url=f"http://127.0.0.1:{free_port()}",
        watch=[{"path": str(ground.source), "name": "source"}],
        settings={"disk": {"free_floor_bytes": 0, "free_floor_percent": 0}},
        where=ground.near,
        quick=False,
    )
    device.start()
    return device


def capture(options: Options) -> Iterator[Line]:
    """100 events a second over the device's socket, each answered when it is durable; and the client's own call."""
    seconds = 30.0 if options.thorough else 10.0
    with loopback() as ground:
        device = _offline(ground)
        try:
            body = json.dumps({"source": "web", "events": [_EVENT]})
            plan = load.Plan(
                host="device",
                port=0,
                method="POST",
                path="/v1/telemetry/events",
                body=body,
                tokens=["none"] * 4,
                seconds=seconds,
                rate=RATE,
                unix=str(device.socket),
                headers=USER,
            )
            outcome = generate(plan)
            yield Result(
                benchmark="capture",
                metric="durable_answer_p95",
                value=outcome["p95_ms"],
                unit="ms",
                bound="at_most",
                limit=CAPTURE_MS_MAX,
                details=outcome,
            )
            yield _call(device, int(seconds * RATE))
        finally:
            device.close()


_CALLS = """
import json, sys, time, uuid
from pisyncd.client.blocking import TelemetryClient
path, socket, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = TelemetryClient(path=path, socket=socket, user_id=uuid.uuid4(), session_id=uuid.uuid4(), exit_s=0)
client.initialize()
taken, due = [], time.perf_counter()
for number in range(count):
    due += 0.01
    while (wait := due - time.perf_counter()) > 0:
        time.sleep(wait)
    began = time.perf_counter()
    client.capture_event("ANSWER_SELECTED", {"position": 3, "selected_index": 2})
    taken.append((time.perf_counter() - began) * 1000)
client.sync(10)
print(json.dumps({"ms": taken, "status": client.get_status()}))
"""


def _call(device: Device, count: int) -> Line:
    arguments = [str(BIN / "python"), "-c", _CALLS, str(device.root / "queue.db"), str(device.socket), str(count)]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=300)
    told = json.loads(done.stdout)
    times = sorted(told["ms"])
    return Result(
        benchmark="capture",
        metric="blocking_call_p95",
        value=times[int(len(times) * 0.95)],
        unit="ms",
        bound="at_most",
        limit=CALL_MS_MAX,
        details={
            "p50_ms": statistics.median(times),
            "p99_ms": times[int(len(times) * 0.99)],
            "calls": count,
            "sent": told["status"].get("sent"),
        },
    )


def _fill(device: Device) -> None:
    """Queues the events through the gateway, as applications do, 500 in a batch."""
    sessions = [str(uuid.uuid4()) for _ in range(200)]
    headers = USER.strip().split(": ")
    for first in range(0, QUEUED, GROUP):
        items = [
            {
                "itemType": "event",
                "itemData": {
                    **_EVENT,
                    "event_version": 1,
                    "id": str(uuid.uuid4()),
                    "session_id": sessions[number % len(sessions)],
                    "seq": number,
                    "payload": {"position": number % 40, "selected_index": number % 5},
                },
            }
            for number in range(first, first + GROUP)
        ]
        body = json.dumps({"batchId": f"fill-{first}", "items": items}).encode()
        answer = device.ask("POST", "/api/telemetry/batch", body, **{headers[0].replace("-", "_"): headers[1]})
        if answer.status != 200 or answer.json()["data"]["successful"] != GROUP:
            raise RuntimeError(f"the device took not all: {answer.status} {answer.body[:300]!r}")


def batches(device: Device) -> list[bytes]:
    """What the queue comes to in batches of 500, as JSON."""
    sql = (
        "SELECT item_type, body, id, stream, seq, boot_id, boottime_ms, wall_ms, clock_trusted FROM messages "
        "ORDER BY priority DESC, stream, seq"
    )
    bodies: list[bytes] = []
    with closing(sqlite3.connect(f"file:{device.state / 'outbox.db'}?mode=ro", uri=True)) as db:
        rows = db.execute(sql)
        while part := rows.fetchmany(GROUP):
            items = [
                wire.Item(
                    itemType=row[0], itemData=msgspec.Raw(row[1].encode()), id=row[2], stream=row[3], seq=row[4],
                    boot_id=row[5], boottime_ms=row[6], wall_ms=row[7], clock_trusted=bool(row[8]),
                )
                for row in part
            ]  # fmt: skip
            batch = wire.Batch(batchId=str(uuid.uuid4()), items=items, sentAt="2026-11-22T04:00:00.000Z")
            bodies.append(msgspec.json.encode(batch))
    return bodies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drained:
    """How a backlog went out over the slow link. `floor_s`: what its compressed bytes alone take at the link's rate."""

    seconds: float
    floor_s: float
    details: dict[str, Any]


def drained(fill: Callable[[Device], None], *, count: str, resume: bool) -> Drained:
    """Fill a device that is paused and let it deliver over 1 Mbit/s and 300 ms until nothing waits.

    `count`: SQL that counts in the cloud's database. `resume`: the device has run all the time and is told to go on;
    else it is started, and the time is from its start.
    """
    shape = netem.Shape(rate_bps=RATE_BPS, delay_s=DELAY_S)
    with over(shape) as ground:
        cloud = Cloud(ground.work / "cloud", host=ground.host, where=ground.far)
        cloud.start(env={"PISYNC_CLOUD_RATE_DEVICE_ITEMS": "0"})
        token = cloud.enroll(ours.DEVICE_ID)
        device = Device(
            ground.scratch("drain"),
            device_id=ours.DEVICE_ID,
            token=token,
            url=cloud.url,
            watch=[{"path": str(ground.source), "name": "source"}],
            settings={"disk": {"free_floor_bytes": 0, "free_floor_percent": 0}},
            where=ground.near,
            quick=False,
        )
        try:
            device.start()
            until("the device is online", lambda: device.status()["link"]["state"] == "full", within_s=60, poll_s=0.1)
            device.ask("POST", "/pause")
            fill(device)
            least = sum(len(encodings.zstd_packed(body)) for body in batches(device))
            if not resume:
                device.stop()
            before = ground.network.restart_schedule() if ground.network else None
            started = time.perf_counter()
            with ours.Peak(device) as peak:
                if not resume:
                    device.start()
                device.ask("POST", "/resume")
                until("the queue is empty", lambda: left(device) == 0, within_s=240, poll_s=0.1)
                seconds = time.perf_counter() - started
            sent = ground.network.count().up_stream_bytes - before.up_stream_bytes if ground.network and before else 0
            details = _kept(cloud, count)
        finally:
            device.close()
            cloud.stop()
    more = {"compressed_bytes": least, "sent_bytes": sent, "peak_mb": round(peak.mb, 1), **details}
    return Drained(seconds=seconds, floor_s=least * 8 / RATE_BPS, details=more)


def _kept(cloud: Cloud, count: str) -> dict[str, Any]:
    with closing(sqlite3.connect(f"file:{cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
        batches, items, twice = db.execute("SELECT count(*), sum(items), sum(duplicates) FROM batch_log").fetchone()
        kept = db.execute(count).fetchone()
    return {"kept": kept, "batches": batches, "items_sent": items, "items_sent_twice": twice}


def against_floor(benchmark: str, run: Drained, **more: Any) -> Line:
    """The time of a delivery as a multiple of what its compressed bytes take."""
    return Result(
        benchmark=benchmark,
        metric="seconds_against_compressed_bytes",
        value=run.seconds / run.floor_s,
        unit="ratio",
        bound="at_most",
        limit=DRAIN_RATIO_MAX,
        details={"seconds": round(run.seconds, 2), "floor_s": round(run.floor_s, 2), **run.details, **more},
    )


def drain(options: Options) -> Iterator[Line]:
    """100,000 queued events over 1 Mbit/s and 300 ms, against the time that their compressed bytes take."""
    del options
    count = "SELECT count(*), count(DISTINCT id) FROM attempt_events"
    yield against_floor("drain", drained(_fill, count=count, resume=False), events=QUEUED)


def left(device: Device) -> int:
    """Return how many messages the device still owes."""
    return int(device.status()["queue"]["messages"]["count"])
