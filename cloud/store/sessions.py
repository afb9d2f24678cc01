"""Learner sessions and their answers as rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cloud.store.db import Row, Tx
from pisyncd.core.session import Answer, Session


def session_of(row: Row) -> Session:
    """The session in a row."""
    return Session(
        id=row["session_id"],
        user_id=row["user_id"],
        mode=row["mode"],
        filters=row["filters"],
        question_ids=tuple(msgspec.json.decode(row["question_ids"])),
        state=row["state"],
        rev=row["rev"],
        created_at_ms=row["created_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        updated_at_ms=row["updated_at_ms"],
    )


def answer_of(row: Row) -> Answer:
    """The answer in a row."""
    return Answer(
        session_id=row["session_id"],
        question_id=row["question_id"],
        position=row["position"],
        selected_index=row["selected_index"],
        marked=bool(row["marked"]),
        rev=row["rev"],
        answered_at_ms=row["answered_at_ms"],
    )


async def find(tx: Tx, session_id: str) -> tuple[Session, int] | None:
    """A session and whose it is (`dk`, 0: made here), locked until the end of `tx`; None when it is not there."""
    row = await tx.one("learner_session_for_update", session_id=session_id)
    return None if row is None else (session_of(row), row["dk"])


async def find_answer(tx: Tx, session_id: str, question_id: str) -> Answer | None:
    """The answer to one question."""
    row = await tx.one("learner_answer", session_id=session_id, question_id=question_id)
    return None if row is None else answer_of(row)


async def answers(tx: Tx, session_id: str) -> list[Answer]:
    """All answers of a session, in the order of the questions."""
    return [answer_of(row) for row in await tx.all("learner_answers", session_id=session_id)]


async def due(tx: Tx, now_ms: int, limit: int) -> list[Session]:
    """Sessions made here whose time is over."""
    return [session_of(row) for row in await tx.all("learner_sessions_due", now_ms=now_ms, row_limit=limit)]


async def add(tx: Tx, new: Iterable[tuple[Session, int]]) -> None:
    """Adds sessions with their `dk`. Raises DuplicateRow when somebody was first."""
    await tx.bulk("add_learner_sessions", [_full_row(session, dk) for session, dk in new])


async def fill(tx: Tx, sessions: Iterable[Session]) -> None:
    """Writes what sessions are made of."""
    await tx.bulk(
        "fill_learner_sessions",
        [
            (one.mode, one.filters, _list(one), one.created_at_ms, one.expires_at_ms, one.id)
            for one in sessions
        ],
    )  # fmt: skip


async def move(tx: Tx, sessions: Iterable[Session]) -> None:
    """Writes how far sessions are."""
    rows = [(one.state, one.rev, one.ended_at_ms, one.updated_at_ms, one.id) for one in sessions]
    await tx.bulk("move_learner_sessions", rows)


async def save_answers(tx: Tx, given: Iterable[Answer]) -> None:
    """Writes answers; each question of a session at most once."""
    await tx.bulk(
        "save_session_answers",
        [
            (one.session_id, one.question_id, one.position, one.selected_index, int(one.marked), one.rev,
             one.answered_at_ms)
            for one in given
        ],
    )  # fmt: skip


def _full_row(session: Session, dk: int) -> tuple[Any, ...]:
    return (
        session.user_id,
        dk,
        session.mode,
        session.filters,
        _list(session),
        session.state,
        session.rev,
        session.created_at_ms,
        session.expires_at_ms,
        session.ended_at_ms,
        session.updated_at_ms,
        session.id,
    )


def _list(session: Session) -> str:
    return msgspec.json.encode(session.question_ids).decode()
