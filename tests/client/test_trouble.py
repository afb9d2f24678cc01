"""What goes wrong on the way and in the queue: nothing blocks, nothing is lost without being counted."""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from pisyncd.client.blocking import TelemetryClient

from .rig import SESSION, USER, Asked, Client, Server, accepted, batched, problem, web


def _invariant(client: TelemetryClient) -> dict[str, Any]:
    status = client.get_status()
    counted = status["sent"] + status["failed"] + status["dropped"] + status["pending"]
    assert status["captured"] == counted, status
    return dict(status)


def _pages(client: TelemetryClient, count: int) -> list[str | None]:
    return client.capture_events([{"event_type": "page_turned", "event_data": {"n": n}} for n in range(count)])


def test_events_wait_while_the_daemon_is_away_and_leave_in_their_order_when_it_is_back(
    server: Server, client: Client
) -> None:
    recorder = client()
    ids = _pages(recorder, 5)
    result = recorder.sync()
    assert not result["ok"] and result["error"] and result["error"]["code"] == "not-running"
    assert _invariant(recorder)["pending"] == 5
    server.start()
    assert recorder.sync()["ok"]
    assert server.ids == ids and _invariant(recorder)["sent"] == 5
    server.stop()
    more = _pages(recorder, 2)
    assert not recorder.sync()["ok"]
    again = Server(server.path).start()
    try:
        assert recorder.sync()["ok"] and again.ids == more
    finally:
        again.stop()


def test_a_daemon_that_comes_back_is_found_without_being_asked(server: Server, client: Client) -> None:
    recorder = client()
    [event_id] = _pages(recorder, 1)
    assert not recorder.sync()["ok"]
    server.start()
    server.wait_for(lambda seen: seen.ids == [event_id], "trying again")


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 302])
def test_what_may_pass_is_tried_again_with_the_same_ids(server: Server, client: Client, status: int) -> None:
    answers = [problem(status, "busy")]
    server.answering = lambda asked: answers.pop() if answers else None
    server.start()
    recorder = client()
    ids = _pages(recorder, 3)
    result = recorder.sync()
    assert not result["ok"] and result["pending"] == 3 and result["error"] and result["error"]["code"] == "busy"
    server.wait_for(lambda seen: len(seen.asked) == 2, "trying again")
    assert recorder.sync()["ok"] and server.ids[3:] == ids
    assert server.asked[0].body == server.asked[1].body


def test_a_request_to_wait_is_respected_even_when_a_sync_is_asked_for(server: Server, client: Client) -> None:
    server.answering = lambda asked: problem(429, "rate-limited", Retry_After="3600")
    server.start()
    recorder = client()
    _pages(recorder, 3)
    assert not recorder.sync()["ok"]
    second = recorder.sync()
    assert second["error"] and second["error"]["code"] == "asked-to-wait"
    status = _invariant(recorder)
    assert len(server.asked) == 1 and status["pending"] == 3 and status["state"] == "backing-off"
    assert 3500 < status["next_attempt_s"] < 4000


def test_what_is_too_large_together_is_sent_in_halves(server: Server, client: Client) -> None:
    server.answering = lambda asked: problem(413, "body-too-large") if len(asked.events) > 10 else None
    server.start()
    recorder = client()
    ids = _pages(recorder, 60)
    assert recorder.sync()["sent"] == 60
    kept = [asked for asked in server.asked if len(asked.events) <= 10]
    assert [item["id"] for asked in kept for item in asked.body["items"]] == ids
    assert len(server.asked) < 30


@pytest.mark.parametrize("status", [400, 403, 409, 413, 422, 500])
def test_an_event_that_spoils_a_request_fails_alone(server: Server, client: Client, status: int) -> None:
    def poisoned(asked: Asked) -> web.Response | None:
        return problem(status, "poison") if any(each["eventData"]["n"] in (7, 8, 40) for each in asked.events) else None

    server.answering = poisoned
    server.start()
    recorder = client()
    ids = _pages(recorder, 100)
    result = recorder.sync()
    assert (result["ok"], result["sent"], result["failed"], result["pending"]) == (True, 97, 3, 0)
    found = _invariant(recorder)
    assert [each["id"] for each in found["failures"]] == [ids[40], ids[8], ids[7]]
    assert found["last_error"]["code"] == "poison"
    assert len(server.asked) < 60
    # The server was mended: what is kept of them can be offered again.
    server.answering = lambda asked: None
    assert recorder.retry_failed() == 3
    assert recorder.sync()["ok"] and set(server.ids[-3:]) == {ids[7], ids[8], ids[40]}
    assert _invariant(recorder)["failed"] == 0


def test_items_are_judged_one_by_one(server: Server, client: Client) -> None:
    verdicts = ["synced", "failed", "duplicate", "conflict", "synced"]
    server.answering = lambda asked: batched(
        [(item["id"], verdict) for item, verdict in zip(asked.body["items"], verdicts, strict=True)][::-1]
    )
    server.start()
    recorder = client()
    ids = _pages(recorder, 5)
    assert recorder.sync()["ok"]
    found = _invariant(recorder)
    assert (found["sent"], found["failed"], found["pending"]) == (3, 2, 0)
    assert {(each["id"], each["code"]) for each in found["failures"]} == {
        (ids[1], "item-failed"),
        (ids[3], "item-conflict"),
    }


def test_rejections_that_are_only_counted_are_counted(server: Server, client: Client) -> None:
    reasons = [{"index": index, "code": "session-unknown", "detail": "no"} for index in range(5)]
    server.answering = lambda asked: accepted(len(asked.events), *reasons, rejected=8)
    server.start()
    recorder = client(session_id=SESSION)
    recorder.capture_events([{"event_type": "QUESTION_VIEWED", "event_data": {"position": n}} for n in range(20)])
    assert recorder.sync()["ok"]
    found = _invariant(recorder)
    assert (found["sent"], found["failed"], found["pending"]) == (12, 8, 0)
    assert {each["code"] for each in found["failures"]} == {"session-unknown", "rejected-unnamed"}


STRANGE: list[Any] = [
    b"<html>log in</html>",
    b"[]",
    b"{}",
    b'{"data":{"results":[]}}',
    b'{"data":{"results":[{"itemId":[1]},7]}}',
    b'{"data":{"processed":3,"successful":2}}',
    b'{"accepted":true,"rejected":-1}',
    b"[" * 100_000,
    b"x" * 2_000_000,
]


@pytest.mark.parametrize("body", STRANGE, ids=range(len(STRANGE)))
@pytest.mark.parametrize("session", [None, SESSION])
def test_a_strangers_answer_is_no_answer(server: Server, client: Client, body: bytes, session: str | None) -> None:
    server.answering = lambda asked: web.Response(body=body, content_type="application/json")
    server.start()
    recorder = client(session_id=session)
    recorder.capture_event("QUESTION_VIEWED", {"position": 1})
    result = recorder.sync()
    assert not result["ok"] and result["error"] and result["error"]["code"] in ("answer-strange", "link-down")
    assert _invariant(recorder)["pending"] == 1
    server.answering = lambda asked: None
    assert recorder.sync()["ok"] and _invariant(recorder)["sent"] == 1


@pytest.mark.parametrize("status", [401, 404, 405])
def test_what_is_said_of_the_sender_costs_no_event(server: Server, client: Client, status: int) -> None:
    server.answering = lambda asked: (
        None if asked.headers.get("Authorization") == "Bearer new" else problem(status, "token-refused")
    )
    server.start()
    recorder = client(url=f"http://127.0.0.1:{server.port}", token="old")
    _pages(recorder, 3)
    assert not recorder.sync()["ok"]
    found = _invariant(recorder)
    assert (found["pending"], found["failed"], len(server.asked)) == (3, 0, 1)
    assert found["last_error"]["code"] == "token-refused" and found["next_attempt_s"] > 100
    recorder.set_token("new")
    server.wait_for(lambda seen: len(seen.asked) == 2, "trying the new token")
    assert recorder.sync()["ok"] and _invariant(recorder)["sent"] == 3


def _jwt(user: str) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": user}).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{claims}.signature"


def test_a_users_token_sends_that_users_events_alone(server: Server, client: Client) -> None:
    other = "55555555-5555-4555-8555-555555555555"
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    first = client(url=url, token=_jwt(USER))
    first.close()
    server.answering = lambda asked: problem(503, "busy")
    mine = first.capture_event("page_turned")
    assert not first.sync()["ok"]
    first.close(0)
    server.answering, asked_before = lambda asked: None, len(server.asked)
    second = client(url=url, token=_jwt(other))
    yours = second.capture_event("page_turned")
    assert second.sync()["ok"] and _invariant(second)["pending"] == 1
    [asked] = server.asked[asked_before:]
    assert [item["id"] for item in asked.body["items"]] == [yours]
    assert "PiSync-User" not in asked.headers
    second.close()
    third = client(url=url, token="a-devices-token")
    assert third.sync()["ok"] and server.asked[-1].headers["PiSync-User"] == USER
    assert [item["id"] for item in server.asked[-1].body["items"]] == [mine]


def test_waiting_for_a_server_that_says_nothing_ends(client: Client, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        recorder = client(socket=tmp_path / "silent.sock", timeout_s=0.3)
        _pages(recorder, 1)
        early = recorder.submit(timeout_s=0.05)
        assert early["error"] and early["error"]["code"] == "still-sending"
        late = recorder.sync()
        assert late["error"] and late["error"]["code"] == "no-answer"
        assert _invariant(recorder)["pending"] == 1


def test_an_answer_that_trickles_ends_too(client: Client, tmp_path: Path) -> None:
    stop = threading.Event()

    def trickle(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.02):
                try:
                    peer.sendall(b" ")
                except OSError:
                    return

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "slow.sock"))
        listener.listen()
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        recorder = client(socket=tmp_path / "slow.sock", timeout_s=0.3)
        _pages(recorder, 1)
        result = recorder.sync()
        stop.set()
        assert result["error"] and result["error"]["code"] == "no-answer"


def test_a_full_queue_gives_up_behaviour_first_and_answers_last(server: Server, client: Client) -> None:
    recorder = client(events_max=10, session_id=SESSION)
    kinds = ["PAUSE_BLUR", "ANSWER_SELECTED", "page_turned", "QUESTION_VIEWED", "NAVIGATE_NEXT"]
    for n in range(25):
        recorder.capture_event(kinds[n % 5], {"n": n})
    found = _invariant(recorder)
    assert (found["pending"], found["dropped"]) == (10, 15)
    for n in range(8):
        recorder.capture_event("ANSWER_CHANGED", {"n": n})
    server.start()
    assert recorder.sync()["ok"]
    kept = [event.get("event_type") or event["eventType"] for event in server.events]
    assert sorted(kept) == ["ANSWER_CHANGED"] * 7 + ["ANSWER_SELECTED"] * 3 or len(kept) == 10
    assert "PAUSE_BLUR" not in kept and "QUESTION_VIEWED" not in kept and "page_turned" not in kept


def test_a_queue_has_a_ceiling_in_bytes_too(client: Client) -> None:
    recorder = client(bytes_max=20_000)
    for n in range(50):
        recorder.capture_event("page_turned", {"text": "x" * 1000, "n": n})
    found = _invariant(recorder)
    assert found["pending_bytes"] <= 20_000 and 10 <= found["pending"] < 20


def test_a_queue_that_another_process_locks_makes_nobody_wait(server: Server, client: Client, tmp_path: Path) -> None:
    server.start()
    recorder = client()
    ids = _pages(recorder, 1)
    other = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ids += [recorder.capture_event("page_turned", {"n": n}) for n in range(20)]
    assert None not in ids
    other.execute("ROLLBACK")
    other.close()
    assert recorder.sync()["ok"] and server.ids == ids
    assert _invariant(recorder)["captured"] == 21


def test_without_a_place_on_disk_events_are_sent_from_memory(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    recorder = client(path=tmp_path / "file" / "queue.db")
    ids = _pages(recorder, 3)
    found = _invariant(recorder)
    assert (found["pending"], found["durable"]) == (3, False)
    assert found["last_error"]["code"] == "queue-unusable" and found["last_error"]["hint"]
    server.start()
    assert recorder.sync()["ok"] and server.ids == ids


def test_a_damaged_queue_is_set_aside_and_the_next_event_is_kept(
    server: Server, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "queue.db").write_bytes(b"this is no database, whatever it was before" * 100)
    recorder = client()
    _pages(recorder, 2)
    found = _invariant(recorder)
    assert (found["pending"], found["durable"]) == (2, True)
    assert [path.name for path in tmp_path.glob("*.damaged-*")]
    server.start()
    assert recorder.sync()["ok"]


@pytest.mark.parametrize("page", range(2, 10))
def test_of_a_torn_queue_goes_on_what_can_be_read(server: Server, client: Client, tmp_path: Path, page: int) -> None:
    recorder = client()
    ids = _pages(recorder, 50)
    assert _invariant(recorder)["pending"] == 50
    with sqlite3.connect(tmp_path / "queue.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    recorder.close(0)
    with (tmp_path / "queue.db").open("r+b") as torn:
        torn.seek((page - 1) * 4096)
        torn.write(b"\xa5" * 4096)
    later = [recorder.capture_event("page_turned", {"n": n}) for n in range(10)]
    server.start()
    recorder.sync()
    assert recorder.sync()["ok"]
    status = _invariant(recorder)
    assert set(later) <= set(server.ids) <= {*ids, *later} and status["pending"] == 0
    # A page holds some ten events; the others are there, whichever page it was, but for the root of their table.
    assert len(server.ids) >= 30 or page == 2


def test_only_so_many_damaged_queues_are_kept(client: Client, tmp_path: Path) -> None:
    recorder = client()
    for n in range(6):
        recorder.close(0.5)
        (tmp_path / "queue.db").write_bytes(bytes([n]) * 8192)
        assert _pages(recorder, 1)
        assert recorder.get_status()["durable"]
    assert len({path.name.split("-")[1] for path in tmp_path.glob("*.damaged-*")}) == 3


def test_a_queue_that_is_removed_is_made_anew(server: Server, client: Client, tmp_path: Path) -> None:
    recorder = client()
    _pages(recorder, 2)
    for path in tmp_path.glob("queue.db*"):
        path.unlink()
    ids = _pages(recorder, 2)
    server.start()
    assert recorder.sync()["ok"] and server.ids == ids


def test_a_queue_of_a_newer_client_is_left_as_it_is(server: Server, client: Client, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "queue.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    before = (tmp_path / "queue.db").read_bytes()
    recorder = client()
    _pages(recorder, 1)
    assert not recorder.get_status()["durable"]
    server.start()
    assert recorder.sync()["ok"] and len(server.ids) == 1
    assert (tmp_path / "queue.db").read_bytes() == before


def test_handlers_hear_of_syncs_and_what_they_raise_stays_there(server: Server, client: Client) -> None:
    server.start()
    recorder = client()
    heard: list[tuple[str, Any]] = []

    def bad(result: object) -> None:
        raise RuntimeError("of the application")

    recorder.on("sync:start", bad)
    off = recorder.on("sync:start", lambda result: heard.append(("start", result["pending"])))
    recorder.on("sync:complete", lambda result: heard.append(("complete", result["sent"])))
    # Waiting for the sync that calls it would be waiting for itself.
    recorder.on("sync:complete", lambda result: heard.append(("inner", recorder.sync()["ok"])) if not off() else None)
    recorder.on("sync:failed", lambda result: heard.append(("failed", result["error"]["code"])))
    _pages(recorder, 2)
    assert recorder.sync()["ok"]
    assert heard[:3] == [("start", 2), ("complete", 2), ("inner", False)]
    server.answering = lambda asked: problem(503, "busy", Retry_After="60")
    _pages(recorder, 1)
    recorder.sync()
    assert ("failed", "busy") in heard and heard.count(("start", 2)) == 1
    assert recorder.get_status()["handler_errors"] >= 2
    with pytest.raises(ValueError, match="sync:start"):
        recorder.on("sync:started", bad)
    with pytest.raises(TypeError):
        recorder.on("sync:start", "nothing to call")  # type: ignore[arg-type]


def test_many_threads_capture_into_one_queue(server: Server, client: Client) -> None:
    server.start()
    recorder = client(session_id=SESSION, flush_count=10)
    threads = [
        threading.Thread(target=lambda: [recorder.capture_event("QUESTION_VIEWED", {"position": n}) for n in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.sync()["ok"]
    assert sorted(event["seq"] for event in server.events) == list(range(1, 401))
    assert len(set(server.ids)) == 400 and _invariant(recorder)["sent"] == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://cloud.example.org"},
        {"url": "https://"},
        {"url": "https://user:word@cloud.example.org"},
        {"user_id": "somebody"},
        {"session_id": "1"},
        {"token": "two words"},
        {"token": "a\r\nX-Other: b"},
        {"source": "desktop"},
        {"flush_count": -1},
        {"flush_s": float("nan")},
    ],
)
def test_a_mistake_in_the_program_is_said_at_once(client: Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TelemetryClient(**wrong)
