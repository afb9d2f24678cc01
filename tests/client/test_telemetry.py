"""Capturing and sending, over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pisyncd.client.measure import capture_ms

from .rig import QUESTION, SESSION, USER, Client, Server


def test_an_event_of_an_application_travels_as_it_was_captured(server: Server, client: Client) -> None:
    server.start()
    recorder = client()
    event_id = recorder.capture_event("interview_completed", {"score": 85, "who": "Zoë"}, {"priority": 7})
    result = recorder.sync()
    assert (result["ok"], result["sent"], result["pending"]) == (True, 1, 0)
    [asked] = server.asked
    assert (asked.path, asked.headers["PiSync-User"]) == ("/api/telemetry/batch", USER)
    [item] = asked.body["items"]
    assert (item["itemType"], item["id"]) == ("event", event_id)
    data = item["itemData"]
    assert (data["eventId"], data["eventType"]) == (event_id, "interview_completed")
    assert data["eventData"] == {"score": 85, "who": "Zoë"}
    assert data["metadata"]["priority"] == 7 and data["metadata"]["clientTimestamp"].endswith("Z")


def test_a_learning_event_travels_in_its_envelope_with_a_number_of_its_session(server: Server, client: Client) -> None:
    server.start()
    recorder = client(session_id=SESSION)
    other = "44444444-4444-4444-8444-444444444444"
    recorder.capture_event("QUESTION_VIEWED", {"position": 0}, {"questionId": QUESTION})
    recorder.capture_event("PAUSE_BLUR", {"state": "blur"}, session_id=other)
    recorder.capture_event("ANSWER_SELECTED", {"position": 0, "selected_index": 2}, question_id=QUESTION)
    assert recorder.sync()["ok"]
    [asked] = server.asked
    assert (asked.path, asked.body["source"]) == ("/v1/telemetry/events", "api")
    first, second, third = asked.events
    assert (first["seq"], second["seq"], third["seq"]) == (1, 1, 2)
    assert (first["session_id"], second["session_id"]) == (SESSION, other)
    assert (first["question_id"], second["question_id"], third["question_id"]) == (QUESTION, None, QUESTION)
    assert first["payload"] == {"position": 0} and first["client_ts"].endswith("Z")
    assert len({event["id"] for event in asked.events}) == 3


def test_groups_are_as_large_as_the_paths_allow(server: Server, client: Client) -> None:
    server.start()
    recorder = client()
    recorder.capture_events([{"event_type": "page_turned", "event_data": {"n": n}} for n in range(230)])
    recorder.capture_events(
        [{"event_type": "NAVIGATE_NEXT", "session_id": SESSION, "event_data": {"n": n}} for n in range(120)]
    )
    assert recorder.sync()["sent"] == 350
    assert [len(asked.events) for asked in server.asked] == [100, 100, 30, 50, 50, 20]
    assert [event["seq"] for event in server.events[230:]] == list(range(1, 121))


def test_ten_events_are_sent_without_being_asked(server: Server, client: Client) -> None:
    server.start()
    recorder = client(flush_count=10)
    for n in range(10):
        recorder.capture_event("page_turned", {"n": n})
    server.wait_for(lambda seen: len(seen.ids) >= 10, "sending ten events")


def test_one_event_is_sent_after_a_while(server: Server, client: Client) -> None:
    server.start()
    recorder = client(flush_s=0.2)
    recorder.initialize()
    recorder.capture_event("page_turned")
    server.wait_for(lambda seen: len(seen.ids) == 1, "sending one event")


def test_what_is_no_event_is_counted_and_never_raised(server: Server, client: Client) -> None:
    server.start()
    recorder = client()
    circle: list[Any] = []
    circle.append(circle)
    broken: list[tuple[Any, Any]] = [
        (None, {}),
        ("", {}),
        ("page_turned", object()),
        ("page_turned", {"n": object()}),
        ("page_turned", {"n": float("nan")}),
        ("page_turned", {"n": circle}),
        ("page_turned", {"text": "\ud800"}),
        ("page_turned", {"text": "x" * 5000}),
    ]
    for event_type, data in broken:
        assert recorder.capture_event(event_type, data) is None
    assert recorder.capture_events([1, {"event_type": "page_turned"}])[0] is None  # type: ignore[list-item]
    assert recorder.capture_events(None) == []  # type: ignore[arg-type]
    assert recorder.sync()["ok"]
    status = recorder.get_status()
    assert (status["captured"], status["sent"], status["failed"], status["pending"]) == (11, 1, 10, 0)
    assert {each["code"] for each in status["failures"]} <= {"event-invalid", "payload-too-large"}
    assert status["last_error"] is not None


def test_what_capturing_costs_can_be_measured(tmp_path: Path) -> None:
    found = capture_ms(50, folder=tmp_path)
    assert found["durable"] and 0 < found["p50_ms"] <= found["p95_ms"] <= found["max_ms"]
    assert not list(tmp_path.iterdir())
