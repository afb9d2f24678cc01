"""Learner sessions on the device: as in the cloud, told by one message for each change, ended by time that passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.activities.clerk import Clerk
from pisyncd.core import envelope, session
from pisyncd.outbox.sessions import KEEP_ENDED

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, OTHER, USER, App, new_id, waiting
from .outbox_rig import FakeClock

QUESTIONS = [new_id() for _ in range(3)]
ASKED = {"mode": "quiz", "filters": {"topic": "fractions"}, "question_ids": QUESTIONS}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def rig(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Rig]:
    async with gateway(tmp_path, clock=clock) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
async def app(rig: Rig) -> AsyncIterator[App]:
    async with App(rig, headers=NAMED) as made:
        yield made


async def told(rig: Rig) -> list[tuple[int, list[str]]]:
    """(rev, types of the events) of each change that waits for the cloud, in order."""
    changes = []
    for item in await waiting(rig):
        assert item.itemType == "session"
        assert str(item.stream).startswith("learn8-")
        change = session.decode_change(bytes(item.itemData))
        assert change.user_id == USER
        events = [envelope.judge(bytes(raw)) for raw in change.events]
        assert all(isinstance(each, envelope.Envelope) and each.source == "api" for each in events)
        changes.append((change.rev, [each.event_type for each in events if isinstance(each, envelope.Envelope)]))
    return changes


async def test_a_session_from_its_beginning_to_its_review(rig: Rig, app: App) -> None:
    status, made = await app.post("/v1/sessions", ASKED)
    assert (status, made["state"], made["count"], made["user_id"]) == (201, "active", 3, USER)
    place = f"/v1/sessions/{made['id']}"
    assert (await app.ask("GET", f"{place}/review"))[1]["code"] == "session-active"
    first = {"question_id": QUESTIONS[1], "selected_index": 2}
    status, answer = await app.post(f"{place}/answer", first)
    assert (status, answer["position"], answer["selected_index"], answer["marked"]) == (200, 1, 2, False)
    assert await app.post(f"{place}/answer", first) == (200, answer), "the same again changes nothing"
    await app.post(f"{place}/answer", {"question_id": QUESTIONS[1], "selected_index": 0, "marked": True})
    status, ended = await app.post(f"{place}/submit")
    assert (status, ended["state"]) == (200, "submitted")
    assert await app.post(f"{place}/submit", {}) == (200, ended)
    late = await app.post(f"{place}/answer", first)
    assert (late[0], late[1]["code"]) == (409, "session-closed")
    status, reviewed, _ = await app.ask("GET", f"{place}/review")
    assert (status, [(each["position"], each["selected_index"], each["marked"]) for each in reviewed["answers"]]) == (
        200,
        [(1, 0, True)],
    )
    assert await told(rig) == [
        (1, ["SESSION_CREATED"]),
        (2, ["ANSWER_SELECTED"]),
        (3, ["ANSWER_CHANGED", "MARK_FOR_REVIEW_TOGGLED"]),
        (4, ["SESSION_SUBMITTED"]),
        (4, ["REVIEW_OPENED"]),
    ]


@pytest.mark.parametrize(
    ("path", "body", "user", "status", "code"),
    [
        ("", ASKED, "", 400, "user-missing"),
        ("", ASKED, "Amina", 400, "user-invalid"),
        ("", {**ASKED, "question_ids": []}, USER, 422, "validation"),
        ("", {**ASKED, "filters": {"email": "a@b.example"}}, USER, 422, "personal-data"),
        ("/{id}/answer", {"question_id": QUESTIONS[0], "selected_index": 1}, OTHER, 403, "session-not-yours"),
        ("/{id}/answer", {"question_id": new_id(), "selected_index": 1}, USER, 422, "question-not-in-session"),
        ("/{id}/answer", {"question_id": QUESTIONS[0]}, USER, 422, "validation"),
        ("/{id}/submit", {}, OTHER, 403, "session-not-yours"),
        ("/{id}/submit", [], USER, 422, "validation"),
        (f"/{new_id()}/submit", {}, USER, 404, "session-unknown"),
        ("/nonsense/submit", {}, USER, 404, "session-unknown"),
    ],
)
async def test_what_is_refused(rig: Rig, path: str, body: Any, user: str, status: int, code: str) -> None:
    async with App(rig) as app:
        made = (await app.post("/v1/sessions", ASKED, **NAMED))[1]
        headers = {"PiSync-User": user} if user else {}
        answered, problem = await app.post("/v1/sessions" + path.replace("{id}", made["id"]), body, **headers)
        assert (answered, problem["code"]) == (status, code)
    assert len(await waiting(rig)) == 1, "what is refused is not told"


async def test_the_same_id_is_the_same_session_also_after_a_restart(tmp_path: Path) -> None:
    asked = {**ASKED, "id": new_id(), "duration_s": 60}
    async with gateway(tmp_path) as rig, App(rig, headers=NAMED) as app:
        assert (await app.post("/v1/sessions", asked))[0] == 201
    async with gateway(tmp_path) as rig, App(rig, headers=NAMED) as app:
        status, again = await app.post("/v1/sessions", asked)
        assert (status, again["id"]) == (200, asked["id"])
        conflict = await app.post("/v1/sessions", {**asked, "mode": "exam"})
        assert (conflict[0], conflict[1]["code"]) == (409, "id-conflict")
        assert (await app.post("/v1/sessions", asked, PiSync_User=OTHER))[0] == 403
        assert await told(rig) == [(1, ["SESSION_CREATED"])]


async def test_without_a_name_the_owner_counts(rig: Rig) -> None:
    async with App(rig) as app:
        made = (await app.post("/v1/sessions", ASKED, **NAMED))[1]
        place = f"/v1/sessions/{made['id']}"
        answer = {"question_id": QUESTIONS[0].upper(), "selected_index": 1}
        assert (await app.post(f"{place.upper().replace('/V1/SESSIONS', '/v1/sessions')}/answer", answer))[0] == 200
        assert (await app.post(f"{place}/submit"))[0] == 200


async def test_time_that_passes_ends_a_session_and_no_clock_step_does(rig: Rig, app: App, clock: FakeClock) -> None:
    clerk = Clerk(rig.outbox)
    made = (await app.post("/v1/sessions", {**ASKED, "duration_s": 60}))[1]
    place = f"/v1/sessions/{made['id']}"
    answer = {"question_id": QUESTIONS[0], "selected_index": 1}
    clock.wall += 10 * 365 * 86_400_000
    assert await clerk.step() == pytest.approx(60)
    assert (await app.post(f"{place}/answer", answer))[0] == 200, "the clock was set, the time is not over"
    clock.wall -= 20 * 365 * 86_400_000
    clock.pass_s(59)
    assert await clerk.step() == pytest.approx(1)
    assert (await app.post(f"{place}/answer", {**answer, "selected_index": 2}))[0] == 200
    clock.pass_s(1)
    late = await app.post(f"{place}/answer", answer)
    assert (late[0], late[1]["code"]) == (409, "session-closed")
    await clerk.step()
    status, reviewed, _ = await app.ask("GET", f"{place}/review")
    assert (status, reviewed["state"]) == (200, "expired")
    assert [each[1] for each in await told(rig)][3:] == [["SESSION_EXPIRED", "SESSION_SUBMITTED"], ["REVIEW_OPENED"]]


async def test_the_time_left_is_counted_on_across_restarts_and_stands_still_without_power(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with gateway(tmp_path, clock=clock) as rig, App(rig, headers=NAMED) as app:  # type: ignore[arg-type]
        made = (await app.post("/v1/sessions", {**ASKED, "duration_s": 60}))[1]
        clock.pass_s(30)
        await app.post("/v1/sessions", ASKED)
    clock.reboot()
    place = f"/v1/sessions/{made['id']}"
    async with gateway(tmp_path, clock=clock) as rig, App(rig, headers=NAMED) as app:  # type: ignore[arg-type]
        assert await Clerk(rig.outbox).step() == pytest.approx(30, abs=1)
        clock.pass_s(29)
        assert (await app.post(f"{place}/answer", {"question_id": QUESTIONS[0], "marked": True}))[0] == 200
        clock.pass_s(2)
        ended = (await app.post(f"{place}/submit"))[1]
        assert ended["state"] == "expired"


async def test_many_that_end_together_all_end(rig: Rig, app: App, clock: FakeClock) -> None:
    for _ in range(130):
        await app.post("/v1/sessions", {**ASKED, "duration_s": 60})
    clock.pass_s(60)
    clerk = Clerk(rig.outbox)
    while await clerk.step() < 60:
        pass
    assert await rig.outbox.sessions.count_active() == 0
    assert sum(events == ["SESSION_EXPIRED", "SESSION_SUBMITTED"] for _, events in await told(rig)) == 130


async def test_sessions_that_have_ended_are_kept_in_a_bounded_number(rig: Rig, app: App) -> None:
    first = (await app.post("/v1/sessions", ASKED))[1]["id"]
    await app.post(f"/v1/sessions/{first}/answer", {"question_id": QUESTIONS[0], "marked": True})
    await app.post(f"/v1/sessions/{first}/submit")
    fill = """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO sessions SELECT 'x' || i, 'u', 'quiz', '{}', '[]', 'submitted', 1, NULL, 10000000, 1, NULL, 1, 1
        FROM n"""
    await rig.outbox.db.write(lambda db: db.execute(fill, (KEEP_ENDED,)).rowcount)
    await rig.outbox.sessions.trim()
    assert (await app.ask("GET", f"/v1/sessions/{first}/review"))[0] == 404
    rows = await rig.outbox.db.reader.execute_fetchall(
        "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM answers)"
    )
    assert tuple(next(iter(rows))) == (KEEP_ENDED, 0)
