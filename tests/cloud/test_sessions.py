"""Learner sessions over real sockets and both databases: calls, events, owners, expiry, and what devices tell."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import jwt
import msgspec
import pytest
from conftest import Cloud, StartCloud

from cloud.flows import reconcile
from cloud.rules.facts import SessionFact
from cloud.services import wall_ms
from cloud.store import sessions as store
from cloud.store.db import Database, DuplicateRow
from pisyncd.core import session as rules
from pisyncd.core.session import AnswerIn, Session, SessionChange, SessionIn

SECRET = "a secret of thirty-two bytes, no less"
QUESTIONS = [str(uuid.UUID(int=n, version=4)) for n in range(1, 6)]
NEW = {"mode": "exam", "question_ids": QUESTIONS, "filters": {"topic": "algebra"}}


def learner(user_id: str | None = None) -> tuple[str, dict[str, str]]:
    """A user and the headers of their token."""
    user_id = user_id or str(uuid.uuid4())
    token = jwt.encode({"sub": user_id, "exp": int(time.time()) + 600}, SECRET, "HS256")
    return user_id, {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def cloud(start_cloud: StartCloud, database_url: str) -> AsyncIterator[Cloud]:
    """A service over each kind of database that knows learners."""
    yield await start_cloud(database=database_url, jwt_secret=SECRET)


async def sql(cloud: Cloud, statement: str) -> list[tuple[Any, ...]]:
    """Runs one statement beside the service."""
    url = cloud.services.settings.database_url
    if cloud.services.db.dialect == "postgres":
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()
    # Not in this thread: the service that holds the lock has to go on.
    return await asyncio.to_thread(_lite, url, statement)


def _lite(path: str, statement: str) -> list[tuple[Any, ...]]:
    lite = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        return lite.execute(statement).fetchall()
    finally:
        lite.close()


async def events(cloud: Cloud, session_id: str) -> list[tuple[str, Any, str | None]]:
    rows = await sql(
        cloud,
        "SELECT event_type, payload_json, question_id, source, user_id FROM attempt_events "
        f"WHERE session_id = '{session_id}' ORDER BY ord",
    )
    assert {(row[3]) for row in rows} <= {"api"}
    return [(row[0], json.loads(row[1]), row[2]) for row in rows]


async def begin(cloud: Cloud, who: dict[str, str], **more: Any) -> dict[str, Any]:
    status, made = await cloud.call("POST", "/v1/sessions", json={**NEW, **more}, headers=who)
    assert status == 201, made
    return made  # type: ignore[no-any-return]


async def answer(cloud: Cloud, who: dict[str, str], session_id: str, **given: Any) -> tuple[int, Any]:
    body = {"question_id": QUESTIONS[1], **given}
    return await cloud.call("POST", f"/v1/sessions/{session_id}/answer", json=body, headers=who)


async def submit(cloud: Cloud, who: dict[str, str], session_id: str) -> tuple[int, Any]:
    return await cloud.call("POST", f"/v1/sessions/{session_id}/submit", headers=who)


async def review(cloud: Cloud, who: dict[str, str], session_id: str) -> tuple[int, Any]:
    return await cloud.call("GET", f"/v1/sessions/{session_id}/review", headers=who)


async def test_the_life_of_a_session(cloud: Cloud) -> None:
    user_id, me = learner()
    made = await begin(cloud, me, duration_s=3600)
    one = made["id"]
    assert (made["user_id"], made["state"], made["count"]) == (user_id, "active", 5)
    assert set(made) == {
        "id", "user_id", "mode", "filters", "count", "question_ids", "state", "created_at", "expires_at",
        "submitted_at", "last_updated_at",
    }  # fmt: skip
    assert (await review(cloud, me, one))[1]["code"] == "session-active"
    status, given = await answer(cloud, me, one, selected_index=2, marked=True)
    assert status == 200
    assert given == {
        "session_id": one, "question_id": QUESTIONS[1], "position": 1, "selected_index": 2, "marked": True,
        "answered_at": given["answered_at"],
    }  # fmt: skip
    assert await answer(cloud, me, one, selected_index=2) == (200, given)
    await answer(cloud, me, one, selected_index=0)
    await answer(cloud, me, one, question_id=QUESTIONS[0].upper(), marked=True)
    status, done = await submit(cloud, me, one)
    assert (status, done["state"]) == (200, "submitted")
    assert await submit(cloud, me, one.upper()) == (200, done)
    status, problem = await answer(cloud, me, one, selected_index=3)
    assert (status, problem["code"], problem["retryable"]) == (409, "session-closed", False)
    status, seen = await review(cloud, me, one)
    assert status == 200
    assert [(each["position"], each["selected_index"], each["marked"]) for each in seen.pop("answers")] == [
        (0, None, True),
        (1, 0, True),
    ]
    assert seen == done
    assert await events(cloud, one) == [
        ("SESSION_CREATED", {"mode": "exam", "filters": {"topic": "algebra"}, "count": 5}, None),
        ("ANSWER_SELECTED", {"position": 1, "selected_index": 2}, QUESTIONS[1]),
        ("MARK_FOR_REVIEW_TOGGLED", {"position": 1, "marked": True}, QUESTIONS[1]),
        ("ANSWER_CHANGED", {"position": 1, "from_index": 2, "to_index": 0}, QUESTIONS[1]),
        ("MARK_FOR_REVIEW_TOGGLED", {"position": 0, "marked": True}, QUESTIONS[0]),
        ("SESSION_SUBMITTED", {"reason": "manual"}, None),
        ("REVIEW_OPENED", {}, None),
    ]
    assert await sql(cloud, f"SELECT rev FROM learner_session WHERE session_id = '{one}'") == [(5,)]


async def test_the_same_id_again(cloud: Cloud) -> None:
    one = str(uuid.uuid4())
    _, me = learner()
    body = {**NEW, "id": one, "duration_s": 60}
    sent = [cloud.call("POST", "/v1/sessions", json=body, headers=me) for _ in range(8)]
    answers = await asyncio.gather(*sent)
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({json.dumps(found, sort_keys=True) for _, found in answers}) == 1
    assert len(await events(cloud, one)) == 1
    status, problem = await cloud.call("POST", "/v1/sessions", json={**body, "mode": "drill"}, headers=me)
    assert (status, problem["code"]) == (409, "id-conflict")
    status, problem = await cloud.call("POST", "/v1/sessions", json=body, headers=learner()[1])
    assert (status, problem["code"]) == (403, "session-not-yours")


async def test_answers_at_the_same_time_are_all_taken(cloud: Cloud) -> None:
    _, me = learner()
    one = (await begin(cloud, me))["id"]
    calls = [answer(cloud, me, one, question_id=question, selected_index=n) for question in QUESTIONS for n in range(4)]
    assert {status for status, _ in await asyncio.gather(*calls)} == {200}
    found = await events(cloud, one)
    assert Counter(kind for kind, _, _ in found) == {"SESSION_CREATED": 1, "ANSWER_SELECTED": 5, "ANSWER_CHANGED": 15}
    assert await sql(cloud, f"SELECT rev FROM learner_session WHERE session_id = '{one}'") == [(21,)]
    for question in QUESTIONS:
        told = [payload for _, payload, at in found if at == question]
        assert [each["from_index"] for each in told[1:]] == [
            each.get("to_index", each.get("selected_index")) for each in told[:-1]
        ]


async def test_each_reaches_only_their_own(cloud: Cloud) -> None:
    user_id, me = learner()
    _, other = learner()
    device = await cloud.enroll("pi-1")
    for_me, for_other = {**device, "PiSync-User": user_id}, {**device, "PiSync-User": str(uuid.uuid4())}
    by_device = (await begin(cloud, for_me))["id"]
    by_me = (await begin(cloud, me))["id"]
    for one in (by_me, by_device):
        for who in (other, device, for_other):
            for call in (answer(cloud, who, one, marked=True), submit(cloud, who, one), review(cloud, who, one)):
                status, problem = await call
                assert (status, problem["code"]) == (403, "session-not-yours")
        assert (await answer(cloud, for_me, one, marked=True))[0] == 200
        assert (await submit(cloud, me, one))[0] == 200
        assert (await review(cloud, for_me, one))[0] == 200
    assert await sql(cloud, f"SELECT DISTINCT user_id FROM attempt_events WHERE user_id <> '{user_id}'") == []
    for key in (await cloud.key("admin"), {}):
        assert (await review(cloud, key, by_me))[0] in (401, 403)
    status, problem = await cloud.call("POST", "/v1/sessions", json=NEW, headers=device)
    assert (status, problem["code"]) == (400, "user-missing")
    status, problem = await cloud.call("POST", "/v1/sessions", json=NEW, headers={**device, "PiSync-User": "me"})
    assert (status, problem["code"]) == (400, "user-invalid")


async def test_what_is_refused(cloud: Cloud) -> None:
    _, me = learner()
    one = (await begin(cloud, me))["id"]
    for path in ("/answer", "/submit"):
        for unknown in (str(uuid.uuid4()), "x", "%00", "0" * 400):
            body = {"question_id": QUESTIONS[0], "marked": True}
            status, problem = await cloud.call("POST", f"/v1/sessions/{unknown}{path}", json=body, headers=me)
            assert (status, problem["code"]) == (404, "session-unknown")
    status, problem = await answer(cloud, me, one, question_id=str(uuid.uuid4()), marked=True)
    assert (status, problem["code"]) == (422, "question-not-in-session")
    status, problem = await cloud.call(
        "POST", "/v1/sessions", json={**NEW, "filters": {"email": "a@example.org"}}, headers=me
    )
    assert (status, problem["code"], problem["errors"][0]["pointer"]) == (422, "personal-data", "/filters/email")
    for body in (b"", b"{", b"\xff", b"[" * 50_000):
        status, problem = await cloud.call("POST", "/v1/sessions", data=body, headers=me)
        assert status == (422 if body.startswith(b"[") else 400)
        assert problem["hint"]
    assert (await cloud.call("HEAD", f"/v1/sessions/{one}/review", headers=me))[0] == 405
    assert (await cloud.call("POST", f"/v1/sessions/{one}/submit", data=b"[]", headers=me))[0] == 422
    assert len(await events(cloud, one)) == 1


async def test_a_session_of_five_hundred_questions(cloud: Cloud) -> None:
    _, me = learner()
    questions = [str(uuid.uuid4()) for _ in range(500)]
    one = (await begin(cloud, me, question_ids=questions))["id"]
    status, given = await answer(cloud, me, one, question_id=questions[499], selected_index=1000)
    assert (status, given["position"]) == (200, 499)


def set_clock(cloud: Cloud, now_ms: int) -> None:
    cloud.services.sessions._now_ms = lambda: now_ms


async def test_a_session_ends_in_time_whoever_notices(cloud: Cloud) -> None:
    ended = [
        ("SESSION_EXPIRED", {}, None),
        ("SESSION_SUBMITTED", {"reason": "expired"}, None),
    ]
    _, me = learner()
    now = wall_ms()
    set_clock(cloud, now)
    first, second, third, fourth = [(await begin(cloud, me, duration_s=60))["id"] for _ in range(4)]
    endless = (await begin(cloud, me))["id"]
    set_clock(cloud, now + 59_999)
    assert (await answer(cloud, me, first, selected_index=1))[0] == 200
    assert await cloud.services.sessions.expire_due() == 0
    set_clock(cloud, now + 60_000)
    status, problem = await answer(cloud, me, first, selected_index=2)
    assert (status, problem["code"]) == (409, "session-closed")
    assert (await events(cloud, first))[2:] == ended
    status, done = await submit(cloud, me, second)
    assert (status, done["state"], done["submitted_at"]) == (200, "expired", done["expires_at"])
    assert (await events(cloud, second))[1:] == ended
    set_clock(cloud, now + 90_000)
    status, seen = await review(cloud, me, third)
    assert (status, seen["state"], seen["submitted_at"]) == (200, "expired", seen["expires_at"])
    assert (await events(cloud, third))[1:] == [*ended, ("REVIEW_OPENED", {}, None)]
    assert await cloud.services.sessions.expire_due() == 1
    assert (await events(cloud, fourth))[1:] == ended
    assert await cloud.services.sessions.expire_due() == 0
    assert (await answer(cloud, me, endless, selected_index=2))[0] == 200


async def test_the_service_ends_sessions_by_itself(start_cloud: StartCloud, database_url: str) -> None:
    cloud = await start_cloud(database=database_url, jwt_secret=SECRET, session_expiry_s=1)
    real = cloud.services.sessions._now_ms
    set_clock(cloud, real() - 3_600_000)
    _, me = learner()
    one = (await begin(cloud, me, duration_s=60))["id"]
    cloud.services.sessions._now_ms = real
    async with asyncio.timeout(60):
        while len(await events(cloud, one)) < 3:
            await asyncio.sleep(0.05)
    assert await sql(cloud, f"SELECT state FROM learner_session WHERE session_id = '{one}'") == [("expired",)]


async def test_many_sessions_end_at_once(cloud: Cloud) -> None:
    sessions = cloud.services.sessions
    user_id = str(uuid.uuid4())
    asked = SessionIn(mode="exam", question_ids=QUESTIONS[:1], duration_s=1)
    now = wall_ms()
    set_clock(cloud, now)
    async with cloud.services.db.transaction() as tx:
        made = [
            rules.create(None, asked, user_id=user_id, now_ms=now, new_id=lambda: str(uuid.uuid4()))
            for _ in range(1203)
        ]
        await store.add(tx, [(step.session, 0) for step in made])
        elsewhere = rules.create(None, asked, user_id=user_id, now_ms=now, new_id=lambda: str(uuid.uuid4())).session
        await store.add(tx, [(elsewhere, 7)])
    set_clock(cloud, now + 1000)
    assert await sessions.expire_due() == 1203
    assert await sql(cloud, "SELECT count(*), count(DISTINCT session_id) FROM attempt_events") == [(2406, 1203)]
    # A device's session is the device's to end.
    assert await sql(cloud, "SELECT state FROM learner_session WHERE dk = 7") == [("active",)]


def refusing(cloud: Cloud, condition: str, raising: str = "ABORT") -> list[str]:
    """Statements that make the database refuse events."""
    if cloud.services.db.dialect == "sqlite":
        return [
            f"CREATE TRIGGER refuse BEFORE INSERT ON attempt_events WHEN {condition} "
            f"BEGIN SELECT RAISE({raising}, 'no room for this'); END"
        ]
    return [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room'; END $$",
        f"CREATE TRIGGER refuse BEFORE INSERT ON attempt_events FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION refuse()",
    ]


def counted(cloud: Cloud, outcome: str) -> float:
    """Events of session calls that were kept or failed, as the metrics say."""
    wanted = f'pisync_session_events_total{{outcome="{outcome}"}} '
    lines = cloud.services.figures.text().decode().splitlines()
    return float(next(line for line in lines if line.startswith(wanted)).removeprefix(wanted))


async def test_events_that_cannot_be_kept_do_not_stop_a_learner(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    _, me = learner()
    for statement in refusing(cloud, "NEW.event_type <> 'REVIEW_OPENED'"):
        await sql(cloud, statement)
    one = (await begin(cloud, me))["id"]
    assert (await answer(cloud, me, one, selected_index=1, marked=True))[0] == 200
    assert (await answer(cloud, me, one, selected_index=2))[0] == 200
    assert (await submit(cloud, me, one))[1]["state"] == "submitted"
    status, seen = await review(cloud, me, one)
    assert status == 200
    assert [(each["selected_index"], each["marked"]) for each in seen["answers"]] == [(2, True)]
    assert await events(cloud, one) == [("REVIEW_OPENED", {}, None)]
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("events.insert_failed") == 4
    assert (counted(cloud, "failed"), counted(cloud, "kept")) == (5, 1)


async def test_nor_does_a_table_that_is_not_there(cloud: Cloud) -> None:
    _, me = learner()
    one = (await begin(cloud, me))["id"]
    views = "DROP VIEW IF EXISTS attempt_events_timed"
    await sql(cloud, views)
    await sql(cloud, "ALTER TABLE attempt_events RENAME TO elsewhere")
    assert (await answer(cloud, me, one, selected_index=1))[0] == 200
    await sql(cloud, "ALTER TABLE elsewhere RENAME TO attempt_events")
    assert (await answer(cloud, me, one, selected_index=2))[0] == 200
    assert [kind for kind, _, _ in await events(cloud, one)] == ["SESSION_CREATED", "ANSWER_CHANGED"]


async def test_one_poisonous_event_does_not_take_those_of_other_sessions_with_it(cloud: Cloud) -> None:
    _, me = learner()
    now = wall_ms()
    set_clock(cloud, now)
    ids = [(await begin(cloud, me, duration_s=1))["id"] for _ in range(3)]
    for statement in refusing(cloud, f"NEW.session_id = '{ids[1]}'"):
        await sql(cloud, statement)
    set_clock(cloud, now + 1000)
    assert await cloud.services.sessions.expire_due() == 3
    assert [len(await events(cloud, one)) for one in ids] == [3, 1, 3]


async def test_a_lost_transaction_is_never_taken_for_a_success(cloud: Cloud) -> None:
    _, me = learner()
    one = (await begin(cloud, me))["id"]
    if cloud.services.db.dialect == "sqlite":
        # RAISE(ROLLBACK) ends the whole transaction, as a full disk can.
        statements = refusing(cloud, "NEW.event_type = 'ANSWER_SELECTED'", "ROLLBACK")
    else:
        statements = refusing(cloud, "NEW.event_type = 'ANSWER_SELECTED'")
        statements[0] = statements[0].replace(
            "RAISE EXCEPTION 'no room'", "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW"
        )
    for statement in statements:
        await sql(cloud, statement)
    status, problem = await answer(cloud, me, one, selected_index=1)
    assert (status, problem["retryable"]) == (503, True)
    await sql(cloud, "DROP TRIGGER refuse" + (" ON attempt_events" if len(statements) > 1 else ""))
    assert await sql(cloud, "SELECT count(*) FROM session_answer") == [(0,)]
    assert (await answer(cloud, me, one, selected_index=1))[0] == 200
    assert [kind for kind, _, _ in await events(cloud, one)] == ["SESSION_CREATED", "ANSWER_SELECTED"]


async def test_what_fails_at_a_savepoint_is_undone_and_the_rest_is_kept(db: Database) -> None:
    session = Session(
        id="s", user_id="u", mode="m", filters="{}", question_ids=(), state="active", rev=1, created_at_ms=1,
        expires_at_ms=None, ended_at_ms=None, updated_at_ms=1,
    )  # fmt: skip
    async with db.transaction() as tx:
        await store.add(tx, [(session, 0)])
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                await store.add(tx, [(replace(session, id="t"), 0)])
                raise ZeroDivisionError
        with pytest.raises(DuplicateRow):
            async with tx.savepoint():
                await store.add(tx, [(replace(session, id="v"), 0), (session, 0)])
        async with tx.savepoint():
            await store.add(tx, [(replace(session, id="w"), 0)])
    async with db.transaction() as tx:
        assert set(await reconcile.sessions_of(tx, ["s", "t", "v", "w"])) == {"s", "w"}


# What devices tell.


def told_by_a_device(user_id: str, seed: int) -> tuple[list[SessionChange], Session, dict[str, Any]]:
    """The changes of one session on a device, and the session as it is there."""
    chance = random.Random(seed)
    now = 1_700_000_000_000 + seed

    def new_id() -> str:
        return str(uuid.UUID(int=chance.getrandbits(128), version=4))

    asked = SessionIn(mode="exam", question_ids=QUESTIONS, filters={"n": seed})
    step = rules.create(None, asked, user_id=user_id, now_ms=now, new_id=new_id)
    changes, known = [step.change], {}
    for _ in range(chance.randint(0, 8)):
        question = chance.choice(QUESTIONS)
        given = AnswerIn(question_id=question, selected_index=chance.randint(0, 3), marked=chance.random() < 0.5)
        step = rules.answer(step.session, known.get(question), given, now_ms=now, new_id=new_id)
        if step.change is not None and step.answer is not None:
            known[question] = step.answer
            changes.append(step.change)
    if chance.random() < 0.7:
        step = rules.submit(step.session, now_ms=now, new_id=new_id)
        changes.append(step.change)
    return [change for change in changes if change is not None], step.session, known


class Counting:
    """A transaction that counts the statements."""

    def __init__(self, tx: Any) -> None:
        self.tx, self.statements = tx, 0

    def __getattr__(self, name: str) -> Any:
        self.statements += 1
        return getattr(self.tx, name)


@pytest.mark.parametrize("seed", range(3))
async def test_what_devices_tell_in_any_order_comes_together(db: Database, seed: int) -> None:
    chance = random.Random(seed)
    lives = [told_by_a_device(str(uuid.UUID(int=n % 7, version=4)), 1000 * seed + n) for n in range(60)]
    facts = [
        SessionFact(dk=5, change=change, at_ms=session.created_at_ms)
        for changes, session, _ in lives
        for change in changes
    ]
    facts += chance.choices(facts, k=100)
    chance.shuffle(facts)
    for start in range(0, len(facts), 170):
        async with db.transaction() as tx:
            counting = Counting(tx)
            assert await reconcile.reconcile(counting, facts[start : start + 170], wall_ms()) == {}  # type: ignore[arg-type]
            assert counting.statements <= 6
    async with db.transaction() as tx:
        for _, expected, known in lives:
            found = await store.find(tx, expected.id)
            assert found == (expected, 5)
            assert {one.question_id: one for one in await store.answers(tx, expected.id)} == known
        owners = await reconcile.sessions_of(tx, [expected.id for _, expected, _ in lives] + ["unknown"])
    assert owners == {expected.id: (expected.user_id, frozenset(QUESTIONS)) for _, expected, _ in lives}


async def test_changes_for_somebody_elses_session_are_refused_by_index(db: Database) -> None:
    mine, thief, one = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())

    def fact(user_id: str, rev: int, **more: Any) -> SessionFact:
        change = SessionChange(session_id=one, user_id=user_id, rev=rev, **more)
        return SessionFact(dk=1, change=change, at_ms=1000)

    async with db.transaction() as tx:
        facts = [fact(mine, 2, ended="submitted"), fact(thief, 1, ended="expired")]
        assert await reconcile.reconcile(tx, facts, 2000) == {1: "session-not-yours"}
    async with db.transaction() as tx:
        assert await reconcile.reconcile(tx, [fact(thief, 1, ended="expired")], 2000) == {0: "session-not-yours"}
        found = await store.find(tx, one)
        assert await reconcile.reconcile(tx, [], 2000) == {}
        assert await reconcile.sessions_of(tx, [one]) == {one: (mine, frozenset())}
    assert found is not None
    assert (found[0].user_id, found[0].state, found[0].rev) == (mine, "submitted", 2)


async def test_a_session_of_a_device_is_looked_at_here_and_worked_at_there(cloud: Cloud) -> None:
    user_id, me = learner()
    device = await cloud.enroll("pi-1")
    changes, session, _ = told_by_a_device(user_id, 3)

    async def send(some: list[SessionChange]) -> list[str]:
        items = [{"itemType": "session", "itemData": change, "id": str(uuid.uuid4())} for change in some]
        body = msgspec.json.encode({"batchId": str(uuid.uuid4()), "items": items})
        status, told = await cloud.call("POST", "/api/telemetry/batch", data=body, headers=device)
        assert status == 200
        return [each["status"] for each in told["data"]["results"]]

    unfinished = [change for change in changes if change.ended is None]
    assert set(await send(unfinished[::-1])) == {"synced"}
    for who in (me, device, {**device, "PiSync-User": user_id}):
        status, problem = await answer(cloud, who, session.id, selected_index=1)
        assert (status, problem["code"]) == (409, "session-elsewhere")
        assert (await submit(cloud, who, session.id))[1]["code"] == "session-elsewhere"
        assert (await review(cloud, who, session.id))[1]["code"] == "session-active"
    done = rules.submit(session, now_ms=session.created_at_ms + 5000, new_id=lambda: str(uuid.uuid4()))
    last = done.change or next(change for change in changes if change.ended)
    assert await send([last]) == ["synced"]
    for who in (me, device, {**device, "PiSync-User": user_id}):
        status, seen = await review(cloud, who, session.id)
        assert (status, seen["state"], seen["filters"]) == (200, "submitted", {"n": 3})
        assert (await submit(cloud, who, session.id))[0] == 200
    assert (await review(cloud, {**device, "PiSync-User": str(uuid.uuid4())}, session.id))[0] == 403
    assert (await review(cloud, await cloud.enroll("pi-2"), session.id))[0] == 403
    assert (await review(cloud, learner()[1], session.id))[0] == 403
