"""Learner sessions on the device. Each change commits with the one message that tells the cloud of it.

A session ends by outbox time, which no clock step moves; what it shows are wall times.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from pisyncd.core import session as rules
from pisyncd.core.session import Answer, AnswerIn, Session, SessionIn, Step
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.messages import Messages

T = TypeVar("T")
_sql = queries("learning", in_thread=True)
_reading: Any = queries("learning")

STREAM = "learn8"
KEEP_ENDED = 2_000
EXPIRE_AT_ONCE = 100
#: Clocks that were never set differ by less; a shown time does not jump for that.
DRIFT_MS = 2_000


class Sessions:
    """create, answer, submit, review, expire_due. `user_id` None: nobody was named, the owner counts.

    `changed` is called when there is something new to send, and maybe another session that comes to its time.
    """

    def __init__(self, db: Database, messages: Messages) -> None:
        self._db = db
        self._messages = messages
        self.changed: Callable[[], None] = lambda: None

    async def create(self, asked: SessionIn, user_id: str) -> tuple[Session, bool]:
        """The session, and whether it is new. Raises Refusal 403, 409, StorageBusy."""

        def work(db: sqlite3.Connection) -> tuple[Session, bool]:
            row = _sql.session(db, id=asked.id) if asked.id else None
            known = None if row is None else _session(row)
            step = rules.create(known, asked, user_id=user_id, now_ms=self._wall_ms(), new_id=_new_id)
            self._keep(db, step)
            return step.session, step.change is not None

        return await self._write(work)

    async def answer(self, session_id: str, user_id: str | None, asked: AnswerIn) -> Answer:
        """The answer as it is now. Raises Refusal 403, 404, 409, 422, StorageBusy."""

        def work(db: sqlite3.Connection) -> Answer:
            now_ms = self._wall_ms()
            session = self._owned(db, session_id, user_id, now_ms)
            row = _sql.answer(db, session_id=session.id, question_id=asked.question_id)
            known = None if row is None else _answer(row)
            step = rules.answer(session, known, asked, now_ms=now_ms, new_id=_new_id)
            self._keep(db, step)
            assert step.answer is not None
            return step.answer

        return await self._write(work)

    async def submit(self, session_id: str, user_id: str | None) -> Session:
        """The session, which has ended. Raises Refusal 403, 404, StorageBusy."""

        def work(db: sqlite3.Connection) -> Session:
            now_ms = self._wall_ms()
            session = self._owned(db, session_id, user_id, now_ms)
            return self._keep(db, rules.submit(session, now_ms=now_ms, new_id=_new_id))

        return await self._write(work)

    async def review(self, session_id: str, user_id: str | None) -> tuple[Session, list[Answer]]:
        """The session, which has ended, and its answers. Raises Refusal 403, 404, 409, StorageBusy."""

        def work(db: sqlite3.Connection) -> tuple[Session, list[Answer]]:
            now_ms = self._wall_ms()
            session = self._owned(db, session_id, user_id, now_ms)
            session = self._keep(db, rules.expire(session, now_ms=now_ms, new_id=_new_id))
            self._keep(db, rules.review(session, new_id=_new_id))
            return session, [_answer(row) for row in _sql.answers_of(db, session_id=session.id)]

        return await self._write(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        result = await self._db.write(work)
        self.changed()
        return result

    async def expire_due(self) -> int:
        """Ends the sessions whose time is over, a bounded number at a time; gives how many. Raises StorageBusy."""

        def work(db: sqlite3.Connection) -> int:
            rows = list(_sql.due_sessions(db, now_ms=self._db.now_ms(), most=EXPIRE_AT_ONCE))
            for row in rows:
                now_ms = self._wall_ms()
                session = self._at(now_ms, _sql.session(db, id=row["id"]))
                self._keep(db, rules.expire(session, now_ms=now_ms, new_id=_new_id))
            return len(rows)

        return await self._db.write(work) if await self.next_due_in_s() == 0.0 else 0

    async def next_due_in_s(self) -> float | None:
        """Seconds until the next session is over, None when none will be by itself."""
        due = await _reading.next_due(self._db.reader)
        return None if due is None else max(0.0, (due - self._db.now_ms()) / 1000)

    async def count_active(self) -> int:
        """Sessions that have not ended."""
        return int(await _reading.count_active(self._db.reader))

    async def trim(self) -> None:
        """Forgets the oldest of those that have ended; writes nothing when there is nothing to forget."""
        if await _reading.surplus_sessions(self._db.reader, keep=KEEP_ENDED) > 0:
            await self._db.write(lambda db: _sql.trim_sessions(db, keep=KEEP_ENDED))

    def _owned(self, db: sqlite3.Connection, session_id: str, user_id: str | None, now_ms: int) -> Session:
        row = _sql.session(db, id=session_id)
        if row is None:
            raise rules.unknown(session_id)
        if user_id not in (None, row["user_id"]):
            raise rules.not_yours()
        return self._at(now_ms, row)

    def _at(self, now_ms: int, row: sqlite3.Row) -> Session:
        """The session with its end as this wall time shows it, whatever was done to the clock meanwhile."""
        session = _session(row)
        if session.state != "active" or session.expires_at_ms is None:
            return session
        left_ms = row["due_at_ms"] - self._db.now_ms()
        agrees = (left_ms > 0) == (now_ms < session.expires_at_ms)
        if agrees and abs(now_ms + left_ms - session.expires_at_ms) < DRIFT_MS:
            return session
        return replace(session, expires_at_ms=now_ms + left_ms)

    def _keep(self, db: sqlite3.Connection, step: Step) -> Session:
        """Writes what a call came to, with its message; nothing when nothing changed."""
        if step.change is None:
            return step.session
        fields = _fields(step.session) | {"changed_at_ms": self._db.now_ms()}
        if step.change.created is not None:
            _sql.add_session(db, **fields, due_at_ms=self._due_at_ms(step.session))
        else:
            _sql.change_session(db, **fields)
        if step.answer is not None:
            _sql.set_answer(db, **_answer_fields(step.answer))
        body = msgspec.json.encode(step.change).decode()
        stamp = self._db.clock.stamp()
        self._messages.put(db, STREAM, "session", body, message_id=_new_id(), stamp=stamp)
        return step.session

    def _due_at_ms(self, session: Session) -> int | None:
        if session.expires_at_ms is None:
            return None
        return self._db.now_ms() + session.expires_at_ms - session.created_at_ms

    def _wall_ms(self) -> int:
        return self._db.clock.wall_ms()


def _new_id() -> str:
    return str(uuid.uuid4())


def _session(row: sqlite3.Row) -> Session:
    return Session(
        id=row["id"],
        user_id=row["user_id"],
        mode=row["mode"],
        filters=row["filters"],
        question_ids=tuple(msgspec.json.decode(row["question_ids"], type=list[str])),
        state=row["state"],
        rev=row["rev"],
        created_at_ms=row["created_wall_ms"],
        expires_at_ms=row["expires_wall_ms"],
        ended_at_ms=row["ended_wall_ms"],
        updated_at_ms=row["updated_wall_ms"],
    )


def _fields(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "user_id": session.user_id,
        "mode": session.mode,
        "filters": session.filters,
        "question_ids": msgspec.json.encode(session.question_ids).decode(),
        "state": session.state,
        "rev": session.rev,
        "created_wall_ms": session.created_at_ms,
        "expires_wall_ms": session.expires_at_ms,
        "ended_wall_ms": session.ended_at_ms,
        "updated_wall_ms": session.updated_at_ms,
    }


def _answer(row: sqlite3.Row) -> Answer:
    return Answer(
        session_id=row["session_id"],
        question_id=row["question_id"],
        position=row["position"],
        selected_index=row["selected_index"],
        marked=bool(row["marked"]),
        rev=row["rev"],
        answered_at_ms=row["answered_wall_ms"],
    )


def _answer_fields(answer: Answer) -> dict[str, Any]:
    return {
        "session_id": answer.session_id,
        "question_id": answer.question_id,
        "position": answer.position,
        "selected_index": answer.selected_index,
        "marked": answer.marked,
        "rev": answer.rev,
        "answered_wall_ms": answer.answered_at_ms,
    }
