"""Which alerts stand: two readings of the same counters, a threshold each, and how long it has been so.

config/alerts.yaml says the same to Prometheus, under the same names and with the same numbers; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "pending", "firing", "no_data"]

#: A share of less than this many says nothing: one refused event at night is not 100 % of the traffic.
ITEMS_MIN = 20
INSERTS_MIN = 20
BATCHES_MIN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """From where on an alert stands. `window_s` is what rates are taken over, `for_s` how long it has to be so."""

    queue_items: float = 500
    device_queue_items: float = 500
    success_percent: float = 95
    sync_s: float = 10
    conflicts_percent: float = 10
    rejections_percent: float = 5
    insert_failures_percent: float = 1
    batch_items_min: float = 2
    batch_items_max: float = 400
    window_s: float = 300
    for_s: float = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Counters since the start and gauges, at `at_s` by the monotonic clock. None: not known now."""

    at_s: float
    items: float = 0
    kept: float = 0
    failed: float = 0
    conflicts: float = 0
    inserts: float = 0
    insert_failures: float = 0
    syncs: float = 0
    sync_s: float = 0
    batches: float = 0
    batch_items: float = 0
    queue_items: float = 0
    devices_items: float | None = None
    device_queue_items: float | None = None
    exports_failing: float | None = None


Value = Callable[[Reading, Reading], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """An alert: `value` of an earlier and the present reading, None when they say nothing, against `threshold`."""

    name: str
    summary: str
    hint: str
    value: Value
    threshold: float
    unit: str
    fires: Literal["above", "below"] = "above"

    def stands(self, value: float | None) -> bool:
        """Whether the value is beyond the threshold."""
        if value is None:
            return False
        return value > self.threshold if self.fires == "above" else value < self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """How an alert is now. `since_s`: from when on, by the monotonic clock, it has been beyond its threshold."""

    rule: Rule
    state: State = "no_data"
    value: float | None = None
    since_s: float | None = None


def _ratio(part: str, whole: str, least: float, factor: float) -> Value:
    def value(earlier: Reading, now: Reading) -> float | None:
        count = getattr(now, whole) - getattr(earlier, whole)
        if count < least or count <= 0:
            return None
        return float(factor * (getattr(now, part) - getattr(earlier, part)) / count)

    return value


def _now(name: str) -> Value:
    def value(_earlier: Reading, now: Reading) -> float | None:
        found = getattr(now, name)
        return None if found is None else float(found)

    return value


def rules(limits: Thresholds) -> tuple[Rule, ...]:
    """Every alert of the service."""
    return (*_queues(limits), *_items(limits), *_storage(limits), *_batches(limits))


def _queues(limits: Thresholds) -> tuple[Rule, ...]:
    return (
        Rule(
            name="PisyncQueueHigh",
            summary="Reports wait to be written",
            hint="look at the insert latency: a slow disk or database; else spread the load or take larger batches",
            value=_now("queue_items"),
            threshold=limits.queue_items,
            unit="items",
        ),
        Rule(
            name="PisyncDeviceQueueHigh",
            summary="A device that is in contact still holds much that has not arrived",
            hint="`pisync-cloud devices` names it; look at its link and its failures, let it send larger batches",
            value=_now("device_queue_items"),
            threshold=limits.device_queue_items,
            unit="items",
        ),
    )


def _items(limits: Thresholds) -> tuple[Rule, ...]:
    return (
        Rule(
            name="PisyncSuccessLow",
            summary="Too few of the items that arrive are kept",
            hint="look at pisync_ingest_rejected_total by reason, then at the log and `pisync-cloud failures`",
            value=_ratio("kept", "items", ITEMS_MIN, 100),
            threshold=limits.success_percent,
            unit="percent",
            fires="below",
        ),
        Rule(
            name="PisyncSyncSlow",
            summary="Taking a batch in takes long",
            hint="compare the insert latency with the wait in the queue; send smaller batches if inserts are slow",
            value=_ratio("sync_s", "syncs", 1, 1),
            threshold=limits.sync_s,
            unit="seconds",
        ),
        Rule(
            name="PisyncConflictsHigh",
            summary="Many items clash with what was received before",
            hint="ids or sequence numbers are used twice: look for cloned devices or a client that makes ids anew",
            value=_ratio("conflicts", "items", ITEMS_MIN, 100),
            threshold=limits.conflicts_percent,
            unit="percent",
        ),
        Rule(
            name="PisyncRejectionsHigh",
            summary="Many items are refused for good",
            hint="pisync_ingest_rejected_total names the reasons; usually one client sends what the contract forbids",
            value=_ratio("failed", "items", ITEMS_MIN, 100),
            threshold=limits.rejections_percent,
            unit="percent",
        ),
    )


def _storage(limits: Thresholds) -> tuple[Rule, ...]:
    return (
        Rule(
            name="PisyncInsertFailures",
            summary="The database does not take what is to be written",
            hint="the log says why (`ingest.failed`, `request.postponed`): a full disk, a lock, no database",
            value=_ratio("insert_failures", "inserts", INSERTS_MIN, 100),
            threshold=limits.insert_failures_percent,
            unit="percent",
        ),
        Rule(
            name="PisyncExportFailing",
            summary="The export to the warehouse fails",
            hint="GET /api/exports names the error: look at room and rights of the export directory first",
            value=_now("exports_failing"),
            threshold=0,
            unit="failures",
        ),
    )


def _batches(limits: Thresholds) -> tuple[Rule, ...]:
    return (
        Rule(
            name="PisyncBatchesSmall",
            summary="Batches are unusually small",
            hint="a client sends every event by itself: let it gather 10 events or 12 s",
            value=_ratio("batch_items", "batches", BATCHES_MIN, 1),
            threshold=limits.batch_items_min,
            unit="items",
            fires="below",
        ),
        Rule(
            name="PisyncBatchesLarge",
            summary="Batches are unusually large",
            hint="clients send what has gathered for long: look for an outage before, and at the devices' queues",
            value=_ratio("batch_items", "batches", BATCHES_MIN, 1),
            threshold=limits.batch_items_max,
            unit="items",
        ),
    )


def earlier(readings: Sequence[Reading], now: Reading, window_s: float) -> Reading | None:
    """The newest reading that is at least `window_s` old, else the oldest one; None before there are two."""
    found: Reading | None = None
    for reading in readings:
        if reading.at_s >= now.at_s:
            break
        if found is not None and reading.at_s > now.at_s - window_s:
            break
        found = reading
    return found


def evaluate(
    rules: Sequence[Rule], before: Mapping[str, Alert], past: Reading | None, now: Reading, for_s: float
) -> dict[str, Alert]:
    """How every alert is at `now`, from how it was before and a reading one window ago.

    Beyond its threshold an alert is `pending` until that has lasted for `for_s`; then it is `firing` until the value
    is within again or says nothing.
    """
    return {rule.name: _one(rule, before.get(rule.name), past, now, for_s) for rule in rules}


def _one(rule: Rule, before: Alert | None, past: Reading | None, now: Reading, for_s: float) -> Alert:
    value = None if past is None else rule.value(past, now)
    if not rule.stands(value):
        return Alert(rule=rule, state="no_data" if value is None else "ok", value=value)
    since_s = before.since_s if before is not None and before.since_s is not None else now.at_s
    state: State = "firing" if now.at_s - since_s >= for_s else "pending"
    return Alert(rule=rule, state=state, value=value, since_s=since_s)
