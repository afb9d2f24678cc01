"""What is said of learner sessions: requests, answers, and a device's changes, with what is wrong about them.

Fields: docs/learning-events.md. What the calls do is in `session.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from pisyncd.core import envelope, privacy, problems, track
from pisyncd.core.envelope import Choices, Index, Position, Uuid, Word
from pisyncd.core.problems import Refusal

USER_HEADER = "PiSync-User"
QUESTIONS_MAX = 500
DURATION_S_MAX = 604_800
EVENTS_MAX = 10

State = Literal["active", "submitted", "expired"]

Questions = Annotated[list[Uuid], Meta(min_length=1, max_length=QUESTIONS_MAX)]
DurationS = Annotated[int, Meta(ge=1, le=DURATION_S_MAX)]


class SessionIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/sessions. With an `id` the call can be sent again safely."""

    mode: Word
    question_ids: Questions
    filters: Choices = {}
    duration_s: DurationS | None = None
    id: Uuid | None = None


class AnswerIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/sessions/{id}/answer: a choice, a mark for review, or both."""

    question_id: Uuid
    selected_index: Index | None = None
    marked: bool | None = None


class SubmitIn(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/sessions/{id}/submit: nothing or {}."""


class SessionOut(msgspec.Struct, frozen=True, kw_only=True):
    """A session. `submitted_at` is its end, also when it ended by its time."""

    id: str
    user_id: str
    mode: str
    filters: dict[str, Any]
    count: int
    question_ids: list[str]
    state: State
    created_at: str
    expires_at: str | None
    submitted_at: str | None
    last_updated_at: str


class AnswerOut(msgspec.Struct, frozen=True, kw_only=True):
    """An answer; `position` counts from 0, `answered_at` is its last change."""

    session_id: str
    question_id: str
    position: int
    selected_index: int | None
    marked: bool
    answered_at: str | None


class ReviewOut(SessionOut, frozen=True, kw_only=True):
    """A session that has ended, with its answers in the order of the questions."""

    answers: list[AnswerOut]


class CreatedPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a session was made of."""

    mode: Word
    question_ids: Questions
    filters: Choices = {}
    duration_s: DurationS | None = None


class AnswerPart(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as a change left it."""

    question_id: Uuid
    position: Position
    selected_index: Index | None
    marked: bool


class SessionChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The `itemData` of a `session` item: one change of a session, numbered from 1 by who owns it, with its events.

    At least one of `created` (with rev 1 only), `answer`, `ended` and `events` is there; `events` are envelopes as
    `envelope.message` gives them.
    """

    session_id: Uuid
    user_id: Uuid
    rev: Annotated[int, Meta(ge=1, le=2**53)]
    created: CreatedPart | None = None
    answer: AnswerPart | None = None
    ended: Literal["submitted", "expired"] | None = None
    events: Annotated[list[msgspec.Raw], Meta(max_length=EVENTS_MAX)] = []


In = TypeVar("In", SessionIn, AnswerIn, SubmitIn, SessionChange)


def decode_session(body: bytes) -> SessionIn:
    """The session asked for, ids in lower case. Raises Refusal 400, 422."""
    asked = _decode(body, SessionIn)
    questions = _questions(asked.question_ids, "")
    _check_choices(asked.mode, asked.filters, len(questions), "")
    return msgspec.structs.replace(asked, question_ids=questions, id=asked.id.lower() if asked.id else None)


def decode_answer(body: bytes) -> AnswerIn:
    """The answer given, ids in lower case. Raises Refusal 400, 422."""
    asked = _decode(body, AnswerIn)
    if asked.selected_index is None and asked.marked is None:
        raise problems.invalid("/selected_index", "required", "selected_index, marked or both are needed")
    return msgspec.structs.replace(asked, question_id=asked.question_id.lower())


def decode_submit(body: bytes) -> None:
    """Nothing or an object. Raises Refusal 400, 422."""
    if body.strip():
        _decode(body, SubmitIn)


def decode_change(body: bytes) -> SessionChange:
    """A change of a session as a device tells it, ids in lower case. Raises Refusal 400, 422."""
    change = _decode(body, SessionChange)
    if change.created is None and change.answer is None and change.ended is None and not change.events:
        raise problems.invalid("", "required", "at least one of created, answer, ended and events is needed")
    created, answered = change.created, change.answer
    if created is not None:
        if change.rev != 1:
            raise problems.invalid("/rev", "range", "a session is created by its change number 1")
        questions = _questions(created.question_ids, "/created")
        _check_choices(created.mode, created.filters, len(questions), "/created")
        created = msgspec.structs.replace(created, question_ids=questions)
    if answered is not None:
        answered = msgspec.structs.replace(answered, question_id=answered.question_id.lower())
    return msgspec.structs.replace(
        change,
        session_id=change.session_id.lower(),
        user_id=change.user_id.lower(),
        created=created,
        answer=answered,
    )


def _decode(body: bytes, kind: type[In]) -> In:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.unreadable(body, kind, error) from None


def _questions(given: list[str], where: str) -> list[str]:
    questions = [question.lower() for question in given]
    if len(set(questions)) != len(questions):
        raise problems.invalid(f"{where}/question_ids", "unique", "each question stands in a session once")
    return questions


def _check_choices(mode: str, filters: Mapping[str, Any], count: int, where: str) -> None:
    """What becomes the payload of SESSION_CREATED has to pass as one."""
    payload = {"mode": mode, "filters": filters, "count": count}
    if found := privacy.personal(payload):
        raise track.personal_data(f"{where}{found[0]}", found[1])
    if fault := envelope.choices_fault(filters):
        raise problems.invalid(f"{where}/filters", "pattern", fault)
    if len(msgspec.json.encode(payload)) > envelope.PAYLOAD_BYTES_MAX:
        detail = f"mode and filters have at most {envelope.PAYLOAD_BYTES_MAX} bytes together"
        raise problems.invalid(f"{where}/filters", "length", detail)


def canonical(filters: Mapping[str, Any]) -> str:
    """The filters as JSON, the same text for the same choices."""
    return msgspec.json.encode(filters, order="deterministic").decode()


def named_user(header: str | None) -> str | None:
    """The learner named by `PiSync-User`, in lower case, or None. Raises Refusal 400."""
    if header is None:
        return None
    if not envelope.is_uuid(header):
        raise problems.malformed(
            f"{USER_HEADER} is not a UUID", code="user-invalid", hint=f"{USER_HEADER}: UUID of the learner"
        )
    return header.lower()


def user_missing() -> Refusal:
    """400: nobody said whose it is."""
    hint = f"{USER_HEADER}: UUID of the learner"
    return Refusal(400, "user-missing", "the request does not say who the learner is", hint=hint)


def unknown(session_id: str) -> Refusal:
    """404: no such session."""
    hint = "POST /v1/sessions creates one; sessions made on a device are known here once it has delivered them"
    return Refusal(404, "session-unknown", f"there is no session {session_id[:64]!r}", hint=hint)


def not_yours() -> Refusal:
    """403: somebody else's session."""
    return Refusal(403, "session-not-yours", "this session belongs to another learner", hint="use your own sessions")
