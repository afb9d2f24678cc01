"""Conflicts: what reconciling two copies of a record costs, by itself and through the whole of the cloud's intake."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import random
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rig import postgres
from rig.cloud import Cloud
from rig.process import cpu_seconds

from benchmarks.result import Options, Result, Skipped
from pisyncd.core import deciding, explain, merge, record, recordwire, wire
from pisyncd.core.record import State, TypeRule

Line = Result | Skipped

FIELDS = 20
WRITERS = 8
PURE_US_MAX = 1000.0
INGEST_MS_MAX = 1.0
RECORDS = 5000
BATCH = 100
SITE = "site-1"
NOW_MS = 1_795_000_000_000
_EACH = ("last-write-wins", "max", "union", "counter", "immutable")
RULES: dict[str, TypeRule] = {
    "last-write-wins": TypeRule(strategy="last-write-wins"),
    "client-priority": TypeRule(strategy="client-priority"),
    "manual": TypeRule(strategy="manual"),
    # each rule for four fields of the twenty
    "merge": TypeRule(strategy="merge", fields={f"field_{n}": _EACH[n % 5] for n in range(FIELDS)}),  # type: ignore[misc]
}


def _value(rule: TypeRule, number: int, chance: random.Random) -> Any:
    kind = rule.rule_of(f"field_{number}") if rule.by_field else "last-write-wins"
    if kind in ("max", "counter"):
        return chance.randrange(1000)
    if kind == "union":
        return [f"lesson_{chance.randrange(40)}" for _ in range(8)]
    return f"value-{chance.randrange(10**9)}"


def _diverged(rule: TypeRule, chance: random.Random) -> tuple[State, State]:
    """Two copies of one beginning; on each four writers have written all fields since, none of whom saw another."""
    started = merge.Pen(writer="c-91aa", at_ms=NOW_MS, clock=record.JUDGED_TRUSTED)
    beginning = merge.put(record.EMPTY, rule, {f"field_{n}": _value(rule, n, chance) for n in range(FIELDS)}, started)
    immutable = {name for name, kind in rule.fields.items() if kind == "immutable"}
    copies = [beginning, beginning]
    for number in range(WRITERS):
        pen = merge.Pen(writer=f"d-{number:016x}", at_ms=NOW_MS + chance.randrange(10**6), clock=record.JUDGED_TRUSTED)
        values = {f"field_{n}": _value(rule, n, chance) for n in range(FIELDS) if f"field_{n}" not in immutable}
        copies[number % 2] = merge.join(copies[number % 2], merge.patch(beginning, rule, values, pen))
    return copies[0], copies[1]


def _pure(name: str, rule: TypeRule, rounds: int) -> Iterator[Line]:
    chance = random.Random(7)
    pairs = [_diverged(rule, chance) for _ in range(200)]
    # what was made up beforehand is nothing to the collector
    gc.freeze()
    times: list[float] = []
    cpu: list[float] = []
    told: list[float] = []
    conflicts = 0
    for number in range(rounds):
        left, right = pairs[number % len(pairs)]
        busy, began = time.thread_time(), time.perf_counter()
        joined = merge.join(left, right)
        merge.view(joined, rule)
        decided = deciding.decisions("progress", "prog_1", joined, rule)
        times.append((time.perf_counter() - began) * 1e6)
        cpu.append((time.thread_time() - busy) * 1e6)
        conflicts += len(decided)
        began = time.perf_counter()
        for each in decided:
            explain.sentence(each, {})
        told.append((time.perf_counter() - began) * 1e6)
    times.sort()
    cpu.sort()
    told.sort()
    yield Result(
        benchmark="conflict",
        metric=f"{name}_cpu_p99",
        # by the thread's own time: what else the machine does is not the cost
        value=cpu[int(len(cpu) * 0.99)],
        unit="us",
        bound="at_most",
        limit=PURE_US_MAX,
        details={
            "p50_us": round(times[len(times) // 2], 1),
            "p99_us": round(times[int(len(times) * 0.99)], 1),
            "explaining_p50_us": round(told[len(told) // 2], 1),
            "fields": FIELDS,
            "writers": WRITERS,
            "decisions_each": conflicts / rounds,
            "what": "join, view and decisions of two copies, each with the writes of four that saw nobody else's",
        },
    )


def conflict(options: Options) -> Iterator[Line]:
    """Two diverged copies of a record of 20 fields and 8 writers, by each strategy; then through all of the intake."""
    for name, rule in RULES.items():
        yield from _pure(name, rule, 20_000 if options.thorough else 4_000)
    for dialect in ("sqlite", "postgres"):
        try:
            with _cloud(dialect) as cloud:
                for record_type in ("progress", "assessment", "enrollment"):
                    yield _ingest(dialect, cloud, record_type)
        except (ImportError, OSError) as error:
            yield Skipped(benchmark=f"conflict-{dialect}", tool="pisync", reason=f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _cloud(dialect: str) -> Iterator[Cloud]:
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-")))
        url = stack.enter_context(postgres.database()) if dialect == "postgres" else None
        cloud = Cloud(work, database=url)
        cloud.start(env={"PISYNC_CLOUD_RATE_DEVICE_ITEMS": "0"})
        stack.callback(cloud.stop)
        yield cloud


def _pushed(record_type: str, number: int, writer: str) -> str:
    """A record as a device passes it on that has seen nobody else's."""
    rule = record.BUILT_IN[record_type]
    fields = {
        "percent": (number + int(writer[2:10], 16)) % 100,
        "moduleId": f"mod_{number}",
        "attempts": 1,
        "state": f"{writer[:10]}{number}",
    }
    fields |= {"siteId": SITE}
    # three fields differ: percent, state, field_0; of a type that is kept whole that is one conflict
    fields |= {f"field_{n}": f"{writer if n == 0 else number}-{n}" for n in range(FIELDS - len(fields))}
    state = merge.put(record.EMPTY, rule, fields, merge.Pen.of_device(writer, NOW_MS + number, trusted=True))
    item = recordwire.Pushed(type=record_type, id=f"r{number}", state=msgspec.Raw(record.canonical(state)))
    return msgspec.json.encode(item).decode()


def _batches(record_type: str, writer: str) -> Iterator[bytes]:
    stream = f"record-{writer[-8:]}-{record_type[:4]}"
    for first in range(0, RECORDS, BATCH):
        items = [
            wire.Item(
                itemType=record_type, itemData=msgspec.Raw(_pushed(record_type, number, writer).encode()),
                id=str(uuid.uuid4()), stream=stream, seq=number + 1, boot_id=f"b4e6a0c2-0000-4000-8000-{writer[-12:]}",
                boottime_ms=1_000_000 + number, wall_ms=NOW_MS + number, clock_trusted=True,
            )
            for number in range(first, first + BATCH)
        ]  # fmt: skip
        yield msgspec.json.encode(wire.Batch(batchId=str(uuid.uuid4()), items=items, sentAt=wire.rfc3339(NOW_MS)))


def _post(cloud: Cloud, token: str, bodies: list[bytes]) -> tuple[float, dict[str, int]]:
    """Seconds for one batch after the other, and the answers' items by status."""
    found: dict[str, int] = {}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(cloud.host, cloud.port, timeout=60)) as connection:
        seconds = 0.0
        for body in bodies:
            began = time.perf_counter()
            connection.request("POST", "/api/telemetry/batch", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            seconds += time.perf_counter() - began
            if answer.status != 200:
                raise RuntimeError(f"not taken: {answer.status} {text[:500]!r}")
            for each in json.loads(text)["data"]["results"]:
                status = each["status"] if each["status"] != "failed" else f"failed: {each.get('code')}"
                found[status] = found.get(status, 0) + 1
    return seconds, found


def _enrolled(cloud: Cloud, name: str) -> str:
    """The token of a device that may write what concerns the site."""
    token = cloud.enroll(name)
    body = json.dumps({"site": [SITE], "group": [], "user": []}).encode()
    operator = cloud.key(f"bench-{name}", "operator")
    path = f"/api/devices/{name}/subscriptions"
    answer = cloud.ask("PUT", path, key=operator, body=body, Content_Type="application/json")
    if answer.status != 200:
        raise RuntimeError(f"not subscribed: {answer.status} {answer.body[:300]!r}")
    return token


def _ingest(dialect: str, cloud: Cloud, record_type: str) -> Line:
    """Each record by one device, then by another one that has not seen it: every item of the second is a conflict."""
    first, second = (_enrolled(cloud, f"{record_type}-{number}") for number in (1, 2))
    made_s, made = _post(cloud, first, list(_batches(record_type, f"d-{1:08x}{record_type.encode().hex()[:8]}")))
    bodies = list(_batches(record_type, f"d-{2:08x}{record_type.encode().hex()[:8]}"))
    before = cpu_seconds(cloud.process.pid)
    seconds, found = _post(cloud, second, bodies)
    cpu_s = cpu_seconds(cloud.process.pid) - before
    if found.get("conflict") != RECORDS:
        raise RuntimeError(f"not each is a conflict: {found}, made: {made}")
    details: dict[str, Any] = {"items": RECORDS, "batch": BATCH, "fields": FIELDS, "answers": found}
    details |= {"cloud_cpu_ms": round(cpu_s / RECORDS * 1000, 3), "without_conflict_ms": made_s / RECORDS * 1000}
    if dialect == "sqlite":
        with closing(sqlite3.connect(f"file:{cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
            kept = db.execute("SELECT count(*) FROM conflict WHERE type = ?", (record_type,)).fetchone()[0]
        details["explanations_kept"] = kept
    return Result(
        benchmark=f"conflict-{dialect}",
        metric=f"ingest_{record_type}",
        value=seconds / RECORDS * 1000,
        unit="ms",
        bound="at_most",
        limit=INGEST_MS_MAX,
        details=details,
    )
