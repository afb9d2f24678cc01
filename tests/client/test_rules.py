"""The client's decisions, by themselves."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pisyncd.client import events, rules
from pisyncd.client.rules import Later, Settled, Smaller, Trouble
from pisyncd.client.settings import bound_user, read
from pisyncd.client.watching import Seen, changes, seen
from pisyncd.core import envelope

from .rig import SESSION, USER

NOW = datetime(2026, 1, 20, 12, 0, 0, tzinfo=UTC)
BUSY = Trouble(code="busy")


def test_it_knows_the_types_that_the_daemon_and_the_cloud_know() -> None:
    assert set(rules.LEARNING_RANKS) == set(envelope.TYPES)
    for name, (kind, _) in envelope.TYPES.items():
        behaviour = envelope.PRIORITY[kind] <= envelope.SHEDDABLE_MAX
        assert (rules.rank(name) == rules.BEHAVIOUR) is behaviour, name
        assert (rules.rank(name) == rules.ANSWER) is (kind == "answer"), name
    assert rules.GROUP_MAX["learning"] == envelope.EVENTS_MAX
    assert rules.PAYLOAD_BYTES_MAX == envelope.PAYLOAD_BYTES_MAX


def test_the_wait_grows_to_a_minute_with_full_jitter() -> None:
    assert [rules.delay(n, 1.0) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [rules.delay(n, 0.5) for n in (1, 4, 1000)] == [0.5, 4, 30]
    assert rules.delay(3, 0.0) == 0.05
    assert rules.delay(1, 0.0, 90) == 90 and rules.delay(1, 1.0, 90) == pytest.approx(99)
    assert rules.delay(1, 0.0, 0) == 1 and rules.delay(1, 0.0, 10**9) == 3600


@pytest.mark.parametrize("status", range(300, 600))
def test_each_status_has_one_consequence(status: int) -> None:
    def after(events: int) -> rules.Decision:
        return rules.after_answer(status, BUSY, events=events, failures=1, chance=0.5)

    if status in (408, 429, 502, 503, 504) or status < 400:
        assert after(1) == after(9) == Later(0.5, BUSY)
    elif status in (401, 404, 405):
        assert after(1) == after(9) == Later(300.0, BUSY)
    else:
        assert after(9) == after(2) == Smaller(BUSY)
        assert after(1) == Settled(failed={0: BUSY})


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        (" 120 ", 120),
        ("-1", None),
        ("soon", None),
        ("²", None),
        ("9" * 5000, 999_999_999),
        ("Tue, 20 Jan 2026 12:01:00 GMT", 60),
        ("Tue, 20 Jan 2026 11:00:00 GMT", 0),
        ("Tue, 99 Jan 2026 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(said: str | None, seconds: float | None) -> None:
    assert rules.retry_after_s(said, NOW) == seconds


def _result(name: object, status: object = "synced") -> dict[str, Any]:
    return {"itemId": name, "status": status}


def test_a_batch_may_leave_out_what_it_took() -> None:
    counts = {"processed": 3, "successful": 2, "failed": 1, "conflicts": 0, "duplicates": 1}
    minimal = {"data": {**counts, "results": [{"itemId": "b", "status": "failed", "code": "shed"}]}}
    assert rules.judge_batch("abc", minimal) == Settled(failed={1: Trouble(code="shed")})
    assert rules.judge_batch("abc", {"data": {**counts, "failed": 0, "results": []}}) == Settled()
    assert rules.judge_batch("ab", {"data": {"results": [_result("b"), _result("a", "odd")]}}) == Settled(
        failed={0: Trouble(code="odd")}
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"data": None},
        {"data": {}},
        {"data": {"results": [_result("a")]}},
        {"data": {"processed": 2, "failed": 1, "results": [_result("a")]}},
        {"data": {"processed": 1, "results": [_result("a")]}},
        {"data": {"processed": 2, "failed": "0", "results": []}},
    ],
)
def test_a_batch_that_does_not_speak_of_each_event_is_strange(answer: Any) -> None:
    with pytest.raises(rules.Strange):
        rules.judge_batch("ab", answer)


@pytest.mark.parametrize(
    ("answer", "settled"),
    [
        ({"accepted": 3, "rejected": 0, "rejected_reasons_sample": []}, Settled()),
        ({"accepted": 3, "rejected": 0}, Settled()),
        (
            {"accepted": 1, "rejected": 2, "rejected_reasons_sample": [{"index": 1, "code": "shed"}]},
            Settled(failed={1: Trouble(code="shed")}, unnamed=1),
        ),
        (
            {"accepted": 2, "rejected": 1, "rejected_reasons_sample": [{"index": 7}, 4, {"index": "0"}]},
            Settled(unnamed=1),
        ),
        ({"accepted": 0, "rejected": 99}, Settled(unnamed=3)),
    ],
)
def test_rejections_are_named_or_counted(answer: Any, settled: Settled) -> None:
    assert rules.judge_learning(3, answer) == settled


def _jwt(claims: object) -> str:
    return f"a.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.c"


def test_a_jwt_speaks_for_its_user_alone() -> None:
    cloud = "https://cloud.example.org"
    assert bound_user(cloud, _jwt({"sub": USER})) == USER
    assert bound_user(None, _jwt({"sub": USER})) is None
    for token in (None, "device-token", "a.b.c", _jwt({}), _jwt([]), _jwt({"sub": 7}), _jwt({"sub": "me"}), "a.ÿ.c"):
        assert bound_user(cloud, token) is None


def test_what_an_event_may_say_in_two_spellings() -> None:
    for metadata in ({"sessionId": SESSION, "questionId": "q"}, {"session_id": SESSION, "question_id": "q"}):
        made = events.make("QUESTION_VIEWED", {}, metadata)
        body = json.loads(made.body)
        assert (made.kind, body["session_id"], body["question_id"]) == ("learning", SESSION, "q")
    assert events.make("QUESTION_VIEWED", {}, {}).kind == "track"
    assert events.make("page_turned", {}, {"sessionId": SESSION}).kind == "track"
    given = events.make("page_turned", {}, {"eventId": "evt_1", "clientTimestamp": "2024-01-20T10:30:00Z"})
    assert given.id == "evt_1" and json.loads(given.body)["metadata"]["clientTimestamp"] == "2024-01-20T10:30:00Z"
    assert events.make("QUESTION_VIEWED", {}, {"eventId": USER.upper()}, session_id=SESSION).id == USER
    assert events.make("QUESTION_VIEWED", {}, {"eventId": "evt_1"}, session_id=SESSION).id != "evt_1"


def test_settings_have_the_socket_and_the_queue_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_SOCKET", "/tmp/other.sock")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    config = read({"application": "reader"})
    assert (config.where, str(config.path)) == ("/tmp/other.sock", "/state/pisync/reader.db")
    monkeypatch.delenv("PISYNC_SOCKET")
    assert read({}).where == "/run/pisyncd/pisyncd.sock"
    assert read({"url": "http://127.0.0.1:8080/"}).where == "http://127.0.0.1:8080"


def _cycle(number: int, outcome: str) -> dict[str, Any]:
    return {"id": number, "outcome": outcome}


def test_what_has_changed_between_two_looks() -> None:
    first = {"verdict": "ok", "cycles": [_cycle(4, "success")]}
    assert changes(None, first, asked=False) == []
    before = seen(first)
    assert before == Seen(mark=4)
    later = {"verdict": "sending", "cycles": [_cycle(7, "idle"), _cycle(6, "failed"), _cycle(5, "offline"), first]}
    assert [name for name, _ in changes(before, later, asked=False)] == ["sync:start", "sync:failed", "sync:complete"]
    assert [name for name, _ in changes(before, later, asked=True)] == ["sync:failed", "sync:failed", "sync:complete"]
    cloud = {"syncStatus": {"lastSyncTime": "10:00", "lastError": None}}
    failed = {"syncStatus": {"lastSyncTime": "10:00", "lastError": "link-down"}}
    done = {"syncStatus": {"lastSyncTime": "10:05", "lastError": "link-down"}}
    assert [name for name, _ in changes(seen(cloud), failed, asked=False)] == ["sync:failed"]
    assert [name for name, _ in changes(seen(failed), done, asked=False)] == ["sync:complete"]
    assert changes(seen(done), done, asked=False) == []


def test_what_the_detail_says_already_is_not_said_again() -> None:
    where = {"pointer": "/fields/name", "code": "personal-data", "detail": "names a person"}
    problem = {"code": "personal-data", "detail": "/fields/name: names a person", "errors": [where]}
    assert rules.trouble_of(422, problem).detail == "/fields/name: names a person"
    other = {"pointer": "/fields/phone", "detail": "names a person"}
    both = rules.trouble_of(422, {**problem, "errors": [where, other]}).detail
    assert both == "/fields/name: names a person; /fields/phone: names a person"
