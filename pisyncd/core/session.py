"""A learner's session: what each call does to it, and which events that gives.

Both ends keep sessions by these rules; how the cloud puts together what a device tells of its sessions is in
`session_merge.py`. Time and new ids are arguments. See docs/learning-events.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from pisyncd.core import envelope, session_wire, wire
from pisyncd.core.envelope import Envelope
from pisyncd.core.problems import Refusal
from pisyncd.core.session_wire import (
    USER_HEADER,
    AnswerIn,
    AnswerOut,
    AnswerPart,
    CreatedPart,
    ReviewOut,
    SessionChange,
    SessionIn,
    SessionOut,
    State,
    decode_answer,
    decode_change,
    decode_session,
    decode_submit,
    named_user,
    not_yours,
    unknown,
    user_missing,
)

__all__ = [
    "USER_HEADER",
    "Answer",
    "AnswerIn",
    "AnswerOut",
    "AnswerPart",
    "CreatedPart",
    "NewId",
    "ReviewOut",
    "Session",
    "SessionChange",
    "SessionIn",
    "SessionOut",
    "State",
    "Step",
    "answer",
    "answer_out",
    "create",
    "decode_answer",
    "decode_change",
    "decode_session",
    "decode_submit",
    "expire",
    "is_due",
    "named_user",
    "not_yours",
    "review",
    "review_out",
    "session_out",
    "submit",
    "unknown",
    "user_missing",
]

NewId = Callable[[], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A session as it is kept: `filters` is JSON, times are wall milliseconds.

    `rev` is the number of its last change, and of its end once it has ended. `question_ids` is empty while only later
    changes of it have arrived.
    """

    id: str
    user_id: str
    mode: str
    filters: str
    question_ids: tuple[str, ...]
    state: State
    rev: int
    created_at_ms: int
    expires_at_ms: int | None
    ended_at_ms: int | None
    updated_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer as it is kept; `rev` is the number of the change that left it so."""

    session_id: str
    question_id: str
    position: int
    selected_index: int | None
    marked: bool
    rev: int
    answered_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a call comes to. `change` is None when nothing happened; `answer` is the one that was asked about."""

    session: Session
    answer: Answer | None = None
    events: tuple[Envelope, ...] = ()
    change: SessionChange | None = None


def create(known: Session | None, asked: SessionIn, *, user_id: str, now_ms: int, new_id: NewId) -> Step:
    """A new session, or the one that the same id stands for. Raises Refusal 403, 409."""
    filters = session_wire.canonical(asked.filters)
    length_ms = None if asked.duration_s is None else asked.duration_s * 1000
    if known is not None:
        if known.user_id != user_id:
            raise not_yours()
        if (known.mode, known.filters, known.question_ids, _length_ms(known)) != (
            asked.mode, filters, tuple(asked.question_ids), length_ms,
        ):  # fmt: skip
            raise Refusal(
                409, "id-conflict", "a session with this id has other content", hint="take a new id for a new session"
            )
        return Step(session=known)
    session = Session(
        id=asked.id or new_id(),
        user_id=user_id,
        mode=asked.mode,
        filters=filters,
        question_ids=tuple(asked.question_ids),
        state="active",
        rev=1,
        created_at_ms=now_ms,
        expires_at_ms=None if length_ms is None else now_ms + length_ms,
        ended_at_ms=None,
        updated_at_ms=now_ms,
    )
    payload = {"mode": asked.mode, "filters": asked.filters, "count": len(asked.question_ids)}
    made = CreatedPart(
        mode=asked.mode, question_ids=asked.question_ids, filters=asked.filters, duration_s=asked.duration_s
    )
    return _step(session, [_event(session, "SESSION_CREATED", payload, new_id)], created=made)


def _length_ms(session: Session) -> int | None:
    return None if session.expires_at_ms is None else session.expires_at_ms - session.created_at_ms


def answer(session: Session, known: Answer | None, asked: AnswerIn, *, now_ms: int, new_id: NewId) -> Step:
    """A choice or a mark; `known` is the answer to this question so far. Raises Refusal 409, 422.

    The same again changes nothing and gives no event.
    """
    if session.state != "active" or is_due(session, now_ms):
        raise Refusal(409, "session-closed", "this session has ended", hint="look at it by GET .../review")
    if asked.question_id not in session.question_ids:
        detail = f"the session does not hold question {asked.question_id}"
        raise Refusal(422, "question-not-in-session", detail, hint="answer a question of question_ids")
    position = session.question_ids.index(asked.question_id)
    before = known or Answer(
        session_id=session.id,
        question_id=asked.question_id,
        position=position,
        selected_index=None,
        marked=False,
        rev=0,
        answered_at_ms=0,
    )
    events = [
        _event(session, kind, {"position": position, **payload}, new_id, asked.question_id)
        for kind, payload in _answer_events(before, asked)
    ]
    if not events:
        return Step(session=session, answer=before)
    session = replace(session, rev=session.rev + 1, updated_at_ms=now_ms)
    after = replace(
        before,
        selected_index=before.selected_index if asked.selected_index is None else asked.selected_index,
        marked=before.marked if asked.marked is None else asked.marked,
        rev=session.rev,
        answered_at_ms=now_ms,
    )
    return _step(session, events, answer=after)


def _answer_events(before: Answer, asked: AnswerIn) -> Iterable[tuple[str, dict[str, Any]]]:
    if asked.selected_index is not None and asked.selected_index != before.selected_index:
        if before.selected_index is None:
            yield "ANSWER_SELECTED", {"selected_index": asked.selected_index}
        else:
            yield "ANSWER_CHANGED", {"from_index": before.selected_index, "to_index": asked.selected_index}
    if asked.marked is not None and asked.marked != before.marked:
        yield "MARK_FOR_REVIEW_TOGGLED", {"marked": asked.marked}


def is_due(session: Session, now_ms: int) -> bool:
    """Whether an active session has come to its time and is to be ended by `expire`."""
    return session.state == "active" and session.expires_at_ms is not None and now_ms >= session.expires_at_ms


def expire(session: Session, *, now_ms: int, new_id: NewId) -> Step:
    """Ends a session that is due; any other stays as it is. It ended when its time was over, not when that was seen."""
    if not is_due(session, now_ms):
        return Step(session=session)
    ended = replace(
        session, state="expired", rev=session.rev + 1, ended_at_ms=session.expires_at_ms, updated_at_ms=now_ms
    )
    events = [
        _event(ended, "SESSION_EXPIRED", {}, new_id),
        _event(ended, "SESSION_SUBMITTED", {"reason": "expired"}, new_id),
    ]
    return _step(ended, events, ended="expired")


def submit(session: Session, *, now_ms: int, new_id: NewId) -> Step:
    """Ends a session; one that has ended stays as it is, one that is due expires."""
    if is_due(session, now_ms):
        return expire(session, now_ms=now_ms, new_id=new_id)
    if session.state != "active":
        return Step(session=session)
    ended = replace(session, state="submitted", rev=session.rev + 1, ended_at_ms=now_ms, updated_at_ms=now_ms)
    return _step(ended, [_event(ended, "SESSION_SUBMITTED", {"reason": "manual"}, new_id)], ended="submitted")


def review(session: Session, *, new_id: NewId) -> Step:
    """Somebody looks at a session that has ended. Raises Refusal 409."""
    if session.state == "active":
        raise Refusal(409, "session-active", "this session has not ended", hint="POST .../submit ends it")
    return _step(session, [_event(session, "REVIEW_OPENED", {}, new_id)])


def _event(
    session: Session, event_type: str, payload: Mapping[str, Any], new_id: NewId, question_id: str | None = None
) -> Envelope:
    raw = {
        "id": new_id(),
        "event_type": event_type,
        "session_id": session.id,
        "user_id": session.user_id,
        "question_id": question_id,
        "payload": payload,
    }
    judged = envelope.judge(msgspec.json.encode(raw), source="api")
    if isinstance(judged, envelope.Rejection):
        raise Refusal(422, judged.code, judged.detail, hint="send ids, indexes and numbers")
    return judged


def _step(
    session: Session,
    events: list[Envelope],
    *,
    created: CreatedPart | None = None,
    answer: Answer | None = None,
    ended: Literal["submitted", "expired"] | None = None,
) -> Step:
    part: AnswerPart | None = None
    if answer is not None:
        part = AnswerPart(
            question_id=answer.question_id,
            position=answer.position,
            selected_index=answer.selected_index,
            marked=answer.marked,
        )
    change = SessionChange(
        session_id=session.id,
        user_id=session.user_id,
        rev=session.rev,
        created=created,
        answer=part,
        ended=ended,
        events=[msgspec.Raw(msgspec.json.encode(envelope.message(event))) for event in events],
    )
    return Step(session=session, answer=answer, events=tuple(events), change=change)


def session_out(session: Session) -> SessionOut:
    """The session on the wire."""
    return SessionOut(**_fields(session))


def answer_out(answer: Answer) -> AnswerOut:
    """The answer on the wire."""
    return AnswerOut(
        session_id=answer.session_id,
        question_id=answer.question_id,
        position=answer.position,
        selected_index=answer.selected_index,
        marked=answer.marked,
        answered_at=wire.rfc3339(answer.answered_at_ms) if answer.rev else None,
    )


def review_out(session: Session, answers: Iterable[Answer]) -> ReviewOut:
    """The session with its answers on the wire."""
    ordered = sorted(answers, key=lambda given: (given.position, given.question_id))
    return ReviewOut(**_fields(session), answers=[answer_out(given) for given in ordered])


def _fields(session: Session) -> dict[str, Any]:
    # A device that was off may have seen the end of the time long after it.
    by_time = session.state == "expired" and session.expires_at_ms is not None
    ended_at_ms = session.expires_at_ms if by_time else session.ended_at_ms
    return {
        "id": session.id,
        "user_id": session.user_id,
        "mode": session.mode,
        "filters": msgspec.json.decode(session.filters),
        "count": len(session.question_ids),
        "question_ids": list(session.question_ids),
        "state": session.state,
        "created_at": wire.rfc3339(session.created_at_ms),
        "expires_at": _time_or_none(session.expires_at_ms),
        "submitted_at": _time_or_none(ended_at_ms),
        "last_updated_at": wire.rfc3339(session.updated_at_ms),
    }


def _time_or_none(wall_ms: int | None) -> str | None:
    return None if wall_ms is None else wire.rfc3339(wall_ms)
