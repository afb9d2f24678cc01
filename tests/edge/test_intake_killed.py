"""A real daemon, killed again and again: what was answered is in the outbox, once; what was put down is taken, once."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon_rig import Daemon, daemon
from .intake_rig import USER, event, new_id

KILLS = 4


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as made:
        yield made


class Applications:
    """Some that tell one event after the other, and try each again until it is answered."""

    def __init__(self, device: Daemon) -> None:
        self._device = device
        self._stopping = False
        self.answered: list[str] = []
        self.wrong: list[object] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping:
            one = event(id=new_id())
            while not self._stopping:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    answer = self._device.ask("POST", "/v1/telemetry/events", {"events": [one]}, PiSync_User=USER)
                    if answer != (200, {"accepted": 1, "rejected": 0, "rejected_reasons_sample": []}):
                        self.wrong.append(answer)
                    self.answered.append(one["id"])
                    break


def test_whatever_was_answered_is_there_once(device: Daemon) -> None:
    device.start()
    applications = Applications(device)
    applications.start()
    try:
        for _ in range(KILLS):
            enough = len(applications.answered) + 50
            device.until(lambda enough=enough: len(applications.answered) >= enough)
            device.kill()
            kept = Counter(message_id for message_id, _ in device.owed())
            assert set(applications.answered) <= kept.keys()
            assert max(kept.values()) == 1
            device.start()
    finally:
        applications.stop()
    assert not applications.wrong
    device.kill()
    kept = Counter(message_id for message_id, _ in device.owed())
    assert set(applications.answered) <= kept.keys()
    assert max(kept.values()) == 1
    assert len(kept) - len(applications.answered) <= len(applications._threads), "one for each that was not answered"


def test_a_session_goes_on_after_a_kill_and_its_changes_are_told_once(device: Daemon) -> None:
    device.start()
    questions = [new_id() for _ in range(5)]
    asked = {"id": new_id(), "mode": "quiz", "question_ids": questions, "duration_s": 600}
    place = f"/v1/sessions/{asked['id']}"
    assert device.ask("POST", "/v1/sessions", asked, PiSync_User=USER)[0] == 201
    for number, question in enumerate(questions):
        answer = {"question_id": question, "selected_index": number}
        assert device.ask("POST", f"{place}/answer", answer)[0] == 200
        if number in (1, 3):
            device.kill()
            device.start()
            assert device.ask("POST", "/v1/sessions", asked, PiSync_User=USER)[0] == 200
            assert device.ask("POST", f"{place}/answer", answer)[0] == 200, "said again, told once"
    assert device.ask("POST", f"{place}/submit")[1]["state"] == "submitted"
    device.kill()
    changes = [json.loads(body) for _, body in device.owed()]
    assert [change["rev"] for change in changes] == [1, 2, 3, 4, 5, 6, 7]


def test_the_lines_of_a_file_are_taken_once_however_often_it_is_killed(device: Daemon, tmp_path: Path) -> None:
    chance = random.Random(7)
    lines = 6000
    text = [json.dumps({"eventType": "read", "eventData": {"n": number}, "user_id": USER}) for number in range(lines)]
    text[17] = "not JSON"
    text[4000] = "x" * 200_000
    text[5000] = json.dumps({"eventType": "read", "eventData": {"name": "Amina"}})
    (tmp_path / "events.jsonl").write_text("\n".join(text))
    device.start()
    device.until(device.intake.is_dir)
    (tmp_path / "events.jsonl").rename(device.intake / "events.jsonl")
    for _ in range(KILLS):
        before = len(device.owed())
        device.until(lambda before=before: len(device.owed()) > before or not (device.intake / "events.jsonl").exists())
        threading.Event().wait(chance.random() / 20)
        device.kill()
        device.start()
    device.until(lambda: not (device.intake / "events.jsonl").exists())
    device.kill()
    owed = device.owed()
    numbers = [json.loads(body)["eventData"]["n"] for _, body in owed]
    assert numbers == [number for number in range(lines) if number not in (17, 4000, 5000)]
    refused = sorted(path for path in (device.intake / "rejected").iterdir())
    assert [path.suffix for path in refused] == [".jsonl", ".reasons"]
    assert refused[0].read_text() == "\n".join([text[17], text[4000], text[5000]]) + "\n"
    reasons = [json.loads(line) for line in refused[1].read_text().splitlines()]
    assert [(reason["line"], reason["code"]) for reason in reasons] == [
        (18, "event-invalid"),
        (4001, "line-too-long"),
        (5001, "personal-data"),
    ]
