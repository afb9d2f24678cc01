"""Puts a session together from the changes that a device tells of it.

Changes arrive in any order, more than once, with gaps; whatever the order, the same changes give the same session:

* of each answer the change with the highest rev counts;
* the creation fills in what the session is made of, the earliest if there should be two;
* an end is for good, the lowest rev that ended counts;
* where two changes have the same number, their content decides, never which came first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pisyncd.core import session_wire
from pisyncd.core.session import Answer, Session
from pisyncd.core.session_wire import CreatedPart, SessionChange

#: The last moment that RFC 3339 can say, less the longest session.
_MOMENT_MAX_MS = 253_402_300_799_999 - session_wire.DURATION_S_MAX * 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """The session after a change, the answers that are other than before, and why nothing was taken."""

    session: Session
    answers: tuple[Answer, ...] = ()
    refused: str | None = None


def merge(known: Session | None, answers: Mapping[str, Answer], change: SessionChange, at_ms: int) -> Merged:
    """What `change`, made at `at_ms`, leads to; `answers` are the known ones by question.

    A change for somebody else's session changes nothing and is refused with `session-not-yours`.
    """
    if known is not None and known.user_id != change.user_id:
        return Merged(session=known, refused="session-not-yours")
    # A device whose clock is wrong by ages must not leave a time that nobody can write down.
    at_ms = min(max(at_ms, 0), _MOMENT_MAX_MS)
    session = known or _placeholder(change, at_ms)
    if change.created is not None:
        session = _earlier_creation(session, change.created, at_ms)
    elif not session.question_ids:
        session = replace(session, created_at_ms=min(session.created_at_ms, at_ms))
    if change.ended is not None:
        session = _earlier_end(session, replace(session, state=change.ended, rev=change.rev, ended_at_ms=at_ms))
    elif session.state == "active":
        session = replace(session, rev=max(session.rev, change.rev))
    session = replace(session, updated_at_ms=max(session.updated_at_ms, at_ms))
    return Merged(session=session, answers=_later_answer(answers, change, at_ms))


def _placeholder(change: SessionChange, at_ms: int) -> Session:
    return Session(
        id=change.session_id,
        user_id=change.user_id,
        mode="",
        filters="{}",
        question_ids=(),
        state="active",
        rev=change.rev,
        created_at_ms=at_ms,
        expires_at_ms=None,
        ended_at_ms=None,
        updated_at_ms=at_ms,
    )


def _earlier_creation(session: Session, made: CreatedPart, at_ms: int) -> Session:
    created = replace(
        session,
        mode=made.mode,
        filters=session_wire.canonical(made.filters),
        question_ids=tuple(made.question_ids),
        created_at_ms=at_ms,
        expires_at_ms=None if made.duration_s is None else at_ms + made.duration_s * 1000,
    )
    return min(session, created, key=_creation_order) if session.question_ids else created


def _creation_order(session: Session) -> tuple[object, ...]:
    expires_at_ms = -1 if session.expires_at_ms is None else session.expires_at_ms
    return session.created_at_ms, session.mode, session.filters, session.question_ids, expires_at_ms


def _earlier_end(session: Session, ended: Session) -> Session:
    return ended if session.state == "active" else min(session, ended, key=_end_order)


def _end_order(session: Session) -> tuple[object, ...]:
    return session.rev, session.state, session.ended_at_ms or 0


def _later_answer(answers: Mapping[str, Answer], change: SessionChange, at_ms: int) -> tuple[Answer, ...]:
    told = change.answer
    if told is None:
        return ()
    answer = Answer(
        session_id=change.session_id,
        question_id=told.question_id,
        position=told.position,
        selected_index=told.selected_index,
        marked=told.marked,
        rev=change.rev,
        answered_at_ms=at_ms,
    )
    known = answers.get(told.question_id)
    return (answer,) if known is None or _answer_order(answer) > _answer_order(known) else ()


def _answer_order(answer: Answer) -> tuple[int, ...]:
    chosen = -1 if answer.selected_index is None else answer.selected_index
    return answer.rev, -answer.answered_at_ms, chosen, answer.marked, answer.position
