"""The service's figures: the parts report here, Prometheus and the alerts read from here.

Labels come from closed sets: no device, no user, no path as sent. A call costs about a microsecond and is made once
per request or group, never once per event.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud.rules.admit import Outcome
from cloud.rules.alerts import Alert, Reading
from pisyncd import __version__

# Every counter and histogram would have a second series that says when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"
OUTCOMES = ("synced", "duplicate", "failed", "conflict")
#: Why an item is not kept. What is not named here counts as `other`.
REASONS = frozenset({
    "body-cut", "body-encoding", "body-timeout", "body-unreadable", "content-encoding", "content-type", "encoding",
    "event-invalid", "event-too-large", "event-type-unknown", "field-immutable", "id-conflict", "item-invalid",
    "item-too-large", "item-type-unknown", "malformed", "media-type", "ownership-mismatch", "payload-invalid",
    "payload-too-large", "personal-data", "question-not-in-session", "record-purged", "record-too-large",
    "record-type-unknown", "seq-conflict", "session-closed", "session-not-yours", "session-unknown", "shed",
    "too-large", "too-many-events", "user-missing", "validation",
})  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: The codes of problems are the service's own words; the bound is for the day when one is not.
PROBLEMS_MAX = 200

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SLOW = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 10, 60, 300)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)

#: What waits to be written: since when by the monotonic clock, and how many items.
Waiting = Callable[[], Iterable[tuple[float, int]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the database knows of devices and exports. Times in seconds; `export_published_at_s` is wall time."""

    devices: int
    devices_active: int
    devices_failing: int
    queue_items: int
    queue_items_max: int
    queue_active_max: int
    silent_max_s: float
    silent_average_s: float
    exports_planned: int
    exports_failing: int
    export_published_at_s: float


class _Queue(Collector):
    """Reads the queue in one pass when it is asked for."""

    def __init__(self) -> None:
        self.waiting: Waiting = tuple
        self.growth_items = 0.0

    def state(self) -> tuple[int, float, float]:
        """Items, and the average and longest wait of their requests in seconds."""
        now_s = time.monotonic()
        requests, items, total_s, longest_s = 0, 0, 0.0, 0.0
        for since_s, count in self.waiting():
            requests += 1
            items += count
            total_s += now_s - since_s
            longest_s = max(longest_s, now_s - since_s)
        return items, total_s / requests if requests else 0.0, longest_s

    def collect(self) -> Iterator[Metric]:
        items, average_s, longest_s = self.state()
        yield GaugeMetricFamily("pisync_queue_pending_items", "Items taken and not yet durable", items)
        yield GaugeMetricFamily("pisync_queue_wait_average_seconds", "How long what is pending waits", average_s)
        yield GaugeMetricFamily("pisync_queue_wait_max_seconds", "How long the oldest pending waits", longest_s)
        yield GaugeMetricFamily(
            "pisync_queue_growth_items", "Pending items now less those one window ago", self.growth_items
        )


class _Borrowed(Collector):
    """Numbers that a part counts itself, read when they are asked for."""

    def __init__(self) -> None:
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}

    def collect(self) -> Iterator[Metric]:
        for name, (about, read) in self.gauges.items():
            yield GaugeMetricFamily(name, about, read())
        for name, (about, read) in self.counters.items():
            yield CounterMetricFamily(name, about, read())


class Figures:
    """Counters, histograms and gauges of one service, in a registry of their own."""

    def __init__(self, database: str = "") -> None:
        self.registry = registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=registry)
        self._ingest(registry)
        self._inserts(registry)
        self._requests(registry)
        self._standing(registry)
        info = Gauge("pisync_info", "The running version", ["version", "database"], registry=registry)
        info.labels(__version__, database).set(1)

    def _ingest(self, registry: CollectorRegistry) -> None:
        items = Counter("pisync_ingest_items", "Items by what became of them", ["outcome"], registry=registry)
        self._items = {outcome: items.labels(outcome) for outcome in OUTCOMES}
        rejected = Counter(
            "pisync_ingest_rejected", "Items that were not kept, by reason", ["reason"], registry=registry
        )
        self._rejected = {reason: rejected.labels(reason) for reason in sorted({*REASONS, OTHER})}
        self._batch_items = Histogram(
            "pisync_batch_items", "Items of a batch as it was sent", buckets=_SIZES, registry=registry
        )
        self._sync_s = Histogram(
            "pisync_sync_duration_seconds", "From a request being read to all of it durable", buckets=_FAST,
            registry=registry,
        )  # fmt: skip

    def _inserts(self, registry: CollectorRegistry) -> None:
        self._insert_s = Histogram(
            "pisync_insert_duration_seconds", "One transaction of a group, also a failed one", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self._inserts_begun = Counter(
            "pisync_inserts", "Groups, and lists of events of session calls, given to the database", registry=registry
        )
        self._insert_failures = Counter(
            "pisync_insert_failures", "Those of them that the database did not take", registry=registry
        )
        events = Counter("pisync_session_events", "Events of session calls", ["outcome"], registry=registry)
        self._session_events = {kept: events.labels("kept" if kept else "failed") for kept in (True, False)}
        self._wait_s = Histogram(
            "pisync_queue_wait_seconds", "How long a request waited for its group to begin", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self._queue_refused = Counter(
            "pisync_queue_refused", "Requests sent away because too much was waiting", registry=registry
        )
        self._queue = _Queue()
        registry.register(self._queue)
        self._borrowed = _Borrowed()
        registry.register(self._borrowed)

    def _requests(self, registry: CollectorRegistry) -> None:
        self._http = Counter(
            "pisync_http_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self._http_s = Histogram(
            "pisync_http_request_duration_seconds", "From a request's head to the end of its answer", ["route"],
            buckets=_SLOW, registry=registry,
        )  # fmt: skip
        self._problems = Counter("pisync_http_problems", "Problem answers by code", ["code"], registry=registry)
        self._problem_codes: set[str] = set()
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _standing(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"pisync_{name}", about, registry=registry)

        self._database_up = gauge("database_up", "Whether the database answered when it was last asked")
        self._gauges = {
            "devices": gauge("devices", "Devices that may send"),
            "devices_active": gauge("devices_active", "Devices in contact within the last hour"),
            "devices_failing": gauge("devices_failing", "Devices with an open notification of repeated failures"),
            "queue_items": gauge("devices_queue_items", "Items that all devices say they still hold"),
            "queue_items_max": gauge("devices_queue_max_items", "Items that the fullest device says it holds"),
            "queue_active_max": gauge(
                "devices_queue_active_max_items", "The same, of devices in contact within the last hour"
            ),
            "silent_average_s": gauge(
                "devices_queue_wait_average_seconds", "Since the last contact of devices that hold items"
            ),
            "silent_max_s": gauge("devices_queue_wait_max_seconds", "Since the longest ago of these contacts"),
            "exports_planned": gauge("export_ranges_planned", "Ranges of the export that are not published yet"),
            "exports_failing": gauge("export_ranges_failing", "Those of them whose last attempt failed"),
            "export_published_at_s": gauge(
                "export_last_published_timestamp_seconds", "When a range was last published; 0 never"
            ),
        }
        self._devices_growth = gauge("devices_queue_growth_items", "What devices hold now less one window ago")
        self._firing = Gauge(
            "pisync_alert_firing", "Whether an alert of GET /api/alerts fires", ["alert"], registry=registry
        )
        self.standing: Standing | None = None

    # What the parts report

    def watch_queue(self, waiting: Waiting) -> None:
        """Lets the figures look at what waits whenever they are asked for."""
        self._queue.waiting = waiting

    def lend_exports(self, failed_runs: Callable[[], float]) -> None:
        """Lets the figures see how many runs of the export have failed since the last good one."""
        about = "Runs of the export that failed since the last good one"
        self._borrowed.gauges["pisync_export_failed_runs"] = (about, failed_runs)

    def lend_rates(self, refused: Callable[[], float]) -> None:
        """Lets the figures see how many requests were told to slow down."""
        self._borrowed.counters["pisync_rate_refused"] = ("Requests refused with 429", refused)

    def lend_held(self, held: Callable[[], float]) -> None:
        """Lets the figures see how many requests wait for changes of records."""
        self._borrowed.gauges["pisync_changes_waiting"] = ("Requests that wait for changes of records", held)

    def batch(self, items: int) -> None:
        """A request with so many items was read."""
        self._batch_items.observe(items)

    def rejected(self, codes: Iterable[str]) -> None:
        """Items were refused before any group: one code each."""
        for code, count in Tally(codes).items():
            self._items["failed"].inc(count)
            self._rejected[code if code in REASONS else OTHER].inc(count)

    def queue_full(self) -> None:
        """A request was sent away, too much was waiting."""
        self._queue_refused.inc()

    def inserted(
        self, since_s: Sequence[float], begun_s: float, done_s: float, outcomes: Sequence[list[Outcome]]
    ) -> None:
        """A group is durable: when each of its requests came, when it began and ended, what became of each's items."""
        self._inserts_begun.inc()
        self._insert_s.observe(done_s - begun_s)
        for came_s in since_s:
            self._wait_s.observe(begun_s - came_s)
            self._sync_s.observe(done_s - came_s)
        tally = Tally([one.status for results in outcomes for one in results])
        for status, count in tally.items():
            self._items[status].inc(count)
        if tally["failed"] or tally["conflict"]:
            codes = Tally(one.code for results in outcomes for one in results if one.code is not None)
            for code, count in codes.items():
                self._rejected[code if code in REASONS else OTHER].inc(count)

    def insert_failed(self, begun_s: float, done_s: float) -> None:
        """The database did not take a group."""
        self._inserts_begun.inc()
        self._insert_s.observe(done_s - begun_s)
        self._insert_failures.inc()

    def emitted(self, events: int, *, kept: bool) -> None:
        """A session call added its events, or could not."""
        self._inserts_begun.inc()
        if not kept:
            self._insert_failures.inc()
        self._session_events[kept].inc(events)

    def answered(self, method: str, route: str, status: int, seconds: float, code: str | None = None) -> None:
        """A request was answered; `route` is the template of its path, `code` that of a problem."""
        key = (method, route, status)
        found = self._answered.get(key)
        if found is None:
            known = method if method in METHODS else OTHER
            found = self._http.labels(known, route, str(status)), self._http_s.labels(route)
            if known == method:
                self._answered[key] = found
        found[0].inc()
        found[1].observe(seconds)
        if code is not None:
            if code not in self._problem_codes and len(self._problem_codes) >= PROBLEMS_MAX:
                code = OTHER
            self._problem_codes.add(code)
            self._problems.labels(code).inc()

    # What is looked up and derived

    def stand(self, standing: Standing | None) -> None:
        """What the database said; None when it did not answer, then the last word remains."""
        self._database_up.set(standing is not None)
        self.standing = standing
        if standing is not None:
            for name, gauge in self._gauges.items():
                gauge.set(getattr(standing, name))

    def grown(self, queue_items: float, devices_items: float | None) -> None:
        """By how much both queues grew within one window."""
        self._queue.growth_items = queue_items
        if devices_items is not None:
            self._devices_growth.set(devices_items)

    def alerts(self, alerts: Iterable[Alert]) -> None:
        """How the alerts are."""
        for alert in alerts:
            self._firing.labels(alert.rule.name).set(alert.state == "firing")

    def reading(self, at_s: float) -> Reading:
        """The counters that the alerts are judged by."""
        items = {outcome: _samples(child)["_total"] for outcome, child in self._items.items()}
        syncs, batches = _samples(self._sync_s), _samples(self._batch_items)
        standing = self.standing
        _, failed_runs = self._borrowed.gauges.get("pisync_export_failed_runs", ("", lambda: 0.0))
        return Reading(
            at_s=at_s,
            items=sum(items.values()),
            kept=items["synced"] + items["duplicate"],
            failed=items["failed"],
            conflicts=items["conflict"],
            inserts=_samples(self._inserts_begun)["_total"],
            insert_failures=_samples(self._insert_failures)["_total"],
            syncs=syncs["_count"],
            sync_s=syncs["_sum"],
            batches=batches["_count"],
            batch_items=batches["_sum"],
            queue_items=self._queue.state()[0],
            device_queue_items=None if standing is None else standing.queue_active_max,
            devices_items=None if standing is None else standing.queue_items,
            exports_failing=None if standing is None else max(standing.exports_failing, failed_runs()),
        )

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


def _samples(metric: Counter | Histogram) -> dict[str, float]:
    """The samples of one metric without labels (or one child), by their suffix; buckets are left out."""
    (family,) = metric.collect()
    return {one.name.removeprefix(family.name): one.value for one in family.samples if not one.name.endswith("_bucket")}
