"""A learner's events, from the application to the cloud, through a device that is offline and loses power and time.

In the cloud each is once, in order in its session, and has the right time or an interval that holds it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDevice
from rig import boot
from rig.boot import Boot
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until

from pisyncd.client.blocking import TelemetryClient

QUESTIONS = [str(uuid.UUID(int=n)) for n in range(1, 6)]
DAY_S = 86_400
# A namespace's clock begins at a whole second of the machine's, so each of two boots may seem to be up to one older.
BOOT_MS = 2_100
needs_boots = pytest.mark.skipif(not boot.possible(), reason="needs root and time namespaces")


def rows(cloud: Cloud, sql: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(f"file:{cloud.data / 'pisync.db'}?mode=ro", uri=True)) as db:
        return db.execute(sql, values).fetchall()


@pytest.fixture
def learner() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def make_client(tmp_path: Path, learner: str) -> Iterator[Any]:
    made: list[TelemetryClient] = []

    def make(device: Device) -> TelemetryClient:
        path = tmp_path / "application.db"
        made.append(TelemetryClient(application="reader", path=path, socket=device.socket, user_id=learner, exit_s=0))
        made[-1].initialize()
        return made[-1]

    yield make
    for client in made:
        client.close()


class Learner:
    """Does what learners do, and remembers when: (event id, wall time before, wall time after) for each boot."""

    def __init__(self, client: TelemetryClient) -> None:
        self.client = client
        self.told: dict[str, list[str]] = {}
        self.between: dict[str, tuple[float, float]] = {}

    def views(self, name: str, count: int) -> None:
        """Looks at questions; all of it has reached the device when this returns."""
        begun = time.time()
        for number in range(count):
            kind, payload = ("PAUSE_BLUR", {"state": "blur"}) if number % 7 == 6 else (
                "QUESTION_VIEWED", {"position": number % 5},
            )  # fmt: skip
            event_id = self.client.capture_event(kind, payload)
            assert event_id is not None
            self.told.setdefault(name, []).append(event_id)
        until("the device has it", lambda: self.client.sync().get("pending", 1) == 0 or None)
        self.between[name] = (begun, time.time())


@needs_boots
def test_through_power_cuts_and_wrong_clocks(
    own_cloud: Cloud, make_device: MakeDevice, make_client: Any, learner: str, tmp_path: Path
) -> None:
    with FaultyLink(own_cloud.address) as link:
        link.down()
        device = make_device(own_cloud, link=link)
        first, second = Boot(tmp_path, clock_off_s=-400 * DAY_S), Boot(tmp_path, clock_off_s=200 * DAY_S)
        device.move(first)
        device.start()
        client = make_client(device)
        session = client.create_session("practice", QUESTIONS, filters={"topic": "algebra"})
        work = Learner(client)
        work.views("first", 30)
        client.answer(session["id"], QUESTIONS[0], selected_index=2)
        client.answer(session["id"], QUESTIONS[0], selected_index=3, marked=True)

        # the power goes while events come in; what the device had not yet, the application still has
        busy = threading.Thread(target=lambda: [client.capture_event("NAVIGATE_NEXT", STEP) for _ in range(200)])
        busy.start()
        device.kill()
        busy.join()
        device.move(second)
        until("the old one is gone", lambda: started(device))
        work.views("second", 30)
        client.submit_session(session["id"])
        device.kill()

        third = Boot(tmp_path)
        device.move(third)
        link.up()
        until("the old one is gone", lambda: started(device))
        work.views("third", 30)
        expected = 30 * 3 + 200 + len(("created", "selected", "changed", "marked", "submitted"))
        count = "SELECT count(*) FROM attempt_events"
        until("all is there", lambda: rows(own_cloud, count)[0][0] >= expected, within_s=60)
    check_once(own_cloud, work, expected)
    check_order(own_cloud, session["id"])
    check_times(own_cloud, work, {"first": first, "second": second, "third": third})
    check_session(own_cloud, device, session["id"], learner)


STEP = {"from_position": 0, "to_position": 1}


def started(device: Device) -> bool:
    """Starts the device; the one that was killed may hold its lock for a moment more."""
    try:
        device.start()
    except RuntimeError:
        return False
    return True


def check_once(cloud: Cloud, work: Learner, expected: int) -> None:
    assert rows(cloud, "SELECT count(*), count(DISTINCT id) FROM attempt_events") == [(expected, expected)]
    kept = {row[0] for row in rows(cloud, "SELECT id FROM attempt_events")}
    assert kept.issuperset(event_id for told in work.told.values() for event_id in told)
    assert rows(cloud, "SELECT count(*) FROM rejected_item") == [(0,)]


def check_order(cloud: Cloud, session_id: str) -> None:
    """By the corrected order (boot, boottime) the application's own numbers rise in each stream."""
    sql = """SELECT e.stream, e.seq FROM attempt_events AS e JOIN boot AS b ON b.dk = e.dk AND b.boot_id = e.boot_id
             WHERE e.session_id = ? AND e.seq IS NOT NULL ORDER BY b.number, e.boottime_ms, e.device_seq"""
    by_stream: dict[str, list[int]] = {}
    for stream, seq in rows(cloud, sql, session_id):
        by_stream.setdefault(stream, []).append(seq)
    assert by_stream
    for numbers in by_stream.values():
        assert numbers == sorted(numbers)


def check_times(cloud: Cloud, work: Learner, boots: dict[str, Boot]) -> None:
    sql = "SELECT id, boot_id, time_kind, occurred_low_ms, occurred_high_ms, clock_trusted FROM attempt_events_timed"
    found = {row[0]: row[1:] for row in rows(cloud, sql)}
    for name, ids in work.told.items():
        begun, ended = work.between[name]
        for event_id in ids:
            boot_id, kind, low_ms, high_ms, trusted = found[event_id]
            assert boot_id == boots[name].boot_id
            assert low_ms <= ended * 1000 + BOOT_MS
            assert high_ms >= begun * 1000 - BOOT_MS
            assert kind == ("exact" if name == "third" else "interval")
            if name != "third":
                assert trusted == 0
    exact = [row for row in found.values() if row[1] == "exact"]
    assert max(row[3] - row[2] for row in exact) < 5_000


def check_session(cloud: Cloud, device: Device, session_id: str, learner: str) -> None:
    token = (device.root / "token").read_text()
    path = f"/v1/sessions/{session_id}/review"
    answer = cloud.ask("GET", path, key=token, PiSync_User=learner)
    review = answer.json()
    assert answer.status == 200, review
    assert (review["state"], review["mode"], review["filters"]) == ("submitted", "practice", {"topic": "algebra"})
    assert [(each["selected_index"], each["marked"]) for each in review["answers"]][:1] == [(3, True)]
