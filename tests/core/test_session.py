"""Learner sessions: which events each call gives, what is refused, and that a device's changes come in any order."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import envelope, session, session_merge
from pisyncd.core.problems import Refusal
from pisyncd.core.session import Answer, AnswerIn, AnswerPart, CreatedPart, Session, SessionChange, SessionIn, Step


def uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


USER, OTHER, S = uid(1), uid(2), uid(3)
QUESTIONS = [uid(100 + n) for n in range(4)]


def ids() -> Callable[[], str]:
    numbers = itertools.count(0x1000)
    return lambda: uid(next(numbers))


def created(**asked: Any) -> Session:
    step = session.create(
        None,
        SessionIn(**{"mode": "exam", "question_ids": QUESTIONS, "id": S, **asked}),
        user_id=USER,
        now_ms=1000,
        new_id=ids(),
    )
    return step.session


def answered(known: Answer | None, now_ms: int = 2000, *, of: Session | None = None, **asked: Any) -> Step:
    asked_in = AnswerIn(**{"question_id": QUESTIONS[1], **asked})
    return session.answer(of or created(), known, asked_in, now_ms=now_ms, new_id=ids())


def told(step: Step) -> list[tuple[str, Any]]:
    return [(event.event_type, msgspec.json.decode(event.payload)) for event in step.events]


def refused(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.detail
    return caught.value.status, caught.value.code


def test_a_session_is_created_with_its_event() -> None:
    asked = SessionIn(
        mode="exam", question_ids=QUESTIONS, filters={"topic": "algebra", "levels": [1, 2]}, duration_s=60
    )
    step = session.create(None, asked, user_id=USER, now_ms=1000, new_id=ids())
    made = step.session
    assert (made.state, made.rev, made.created_at_ms, made.expires_at_ms) == ("active", 1, 1000, 61_000)
    assert told(step) == [
        ("SESSION_CREATED", {"mode": "exam", "filters": {"topic": "algebra", "levels": [1, 2]}, "count": 4})
    ]
    event = step.events[0]
    assert (event.source, event.session_id, event.user_id, event.client_ts) == ("api", made.id, USER, None)
    out = msgspec.to_builtins(session.session_out(made))
    assert out == {
        "id": made.id,
        "user_id": USER,
        "mode": "exam",
        "filters": {"topic": "algebra", "levels": [1, 2]},
        "count": 4,
        "question_ids": QUESTIONS,
        "state": "active",
        "created_at": "1970-01-01T00:00:01.000Z",
        "expires_at": "1970-01-01T00:01:01.000Z",
        "submitted_at": None,
        "last_updated_at": "1970-01-01T00:00:01.000Z",
    }


def test_the_same_id_again_is_the_same_session() -> None:
    known = created(filters={"a": 1, "b": 2}, duration_s=5)

    def again(user_id: str = USER, **other: Any) -> Step:
        asked = {"mode": "exam", "question_ids": QUESTIONS, "filters": {"b": 2, "a": 1}, "duration_s": 5, "id": S}
        return session.create(known, SessionIn(**(asked | other)), user_id=user_id, now_ms=99_000, new_id=ids())

    assert again() == Step(session=known)
    for other in ({"mode": "drill"}, {"question_ids": QUESTIONS[::-1]}, {"filters": {}}, {"duration_s": None}):
        assert refused(lambda other=other: again(**other)) == (409, "id-conflict")  # type: ignore[misc]
    assert refused(lambda: again(user_id=OTHER)) == (403, "session-not-yours")


def test_choices_and_marks() -> None:
    first = answered(None, selected_index=2)
    assert told(first) == [("ANSWER_SELECTED", {"position": 1, "selected_index": 2})]
    assert first.answer is not None
    assert (first.answer.rev, first.session.rev, first.events[0].question_id) == (2, 2, QUESTIONS[1])
    again = answered(first.answer, of=first.session, selected_index=2)
    assert (told(again), again.session, again.answer, again.change) == ([], first.session, first.answer, None)
    both = answered(first.answer, of=first.session, selected_index=0, marked=True)
    assert told(both) == [
        ("ANSWER_CHANGED", {"position": 1, "from_index": 2, "to_index": 0}),
        ("MARK_FOR_REVIEW_TOGGLED", {"position": 1, "marked": True}),
    ]
    assert len({event.id for event in both.events}) == 2
    assert both.session.rev == 3
    marked_alone = answered(None, marked=True)
    assert told(marked_alone) == [("MARK_FOR_REVIEW_TOGGLED", {"position": 1, "marked": True})]
    later = answered(marked_alone.answer, of=marked_alone.session, selected_index=1)
    assert told(later) == [("ANSWER_SELECTED", {"position": 1, "selected_index": 1})]
    assert later.answer is not None
    assert later.answer.marked
    nothing = answered(None, marked=False)
    assert (told(nothing), nothing.change) == ([], None)
    assert nothing.answer is not None
    assert session.answer_out(nothing.answer).answered_at is None


def test_what_cannot_be_answered() -> None:
    assert refused(lambda: answered(None, selected_index=1, question_id=uid(9))) == (422, "question-not-in-session")
    timed = created(duration_s=1)
    assert answered(None, 1999, of=timed, selected_index=1).events
    assert refused(lambda: answered(None, 2000, of=timed, selected_index=1)) == (409, "session-closed")
    ended = session.submit(created(), now_ms=1500, new_id=ids()).session
    assert refused(lambda: answered(None, of=ended, selected_index=1)) == (409, "session-closed")


def test_the_end_of_a_session() -> None:
    done = session.submit(created(), now_ms=1500, new_id=ids())
    assert told(done) == [("SESSION_SUBMITTED", {"reason": "manual"})]
    assert (done.session.state, done.session.ended_at_ms, done.session.rev) == ("submitted", 1500, 2)
    assert session.submit(done.session, now_ms=9000, new_id=ids()) == Step(session=done.session)
    assert session.expire(done.session, now_ms=10**9, new_id=ids()) == Step(session=done.session)

    timed = created(duration_s=1)
    assert session.expire(timed, now_ms=1999, new_id=ids()) == Step(session=timed)
    over = session.expire(timed, now_ms=5000, new_id=ids())
    assert told(over) == [("SESSION_EXPIRED", {}), ("SESSION_SUBMITTED", {"reason": "expired"})]
    assert (over.session.state, over.session.ended_at_ms, over.session.updated_at_ms) == ("expired", 2000, 5000)
    assert told(session.submit(timed, now_ms=5000, new_id=ids())) == told(over)
    assert session.submit(over.session, now_ms=6000, new_id=ids()) == Step(session=over.session)


def test_a_review_is_for_what_has_ended() -> None:
    assert refused(lambda: session.review(created(), new_id=ids())) == (409, "session-active")
    done = session.submit(created(), now_ms=1500, new_id=ids()).session
    step = session.review(done, new_id=ids())
    assert (told(step), step.session) == ([("REVIEW_OPENED", {})], done)
    late = answered(None, selected_index=1, question_id=QUESTIONS[3]).answer
    early = answered(None, selected_index=0, question_id=QUESTIONS[0]).answer
    assert late is not None
    assert early is not None
    shown = session.review_out(done, [late, early])
    assert [(one.question_id, one.position) for one in shown.answers] == [(QUESTIONS[0], 0), (QUESTIONS[3], 3)]


BASE = {"mode": "exam", "question_ids": QUESTIONS}


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, "/mode"),
        ({**BASE, "question_ids": []}, 422, "/question_ids"),
        ({**BASE, "question_ids": [uid(n) for n in range(501)]}, 422, "/question_ids"),
        ({**BASE, "question_ids": ["x"]}, 422, "/question_ids/0"),
        ({**BASE, "question_ids": ["ABCDEF00-0000-4000-8000-000000000000", "abcdef00-0000-4000-8000-000000000000"]},
         422, "/question_ids"),
        ({**BASE, "mode": "a mode with an é"}, 422, "/mode"),
        ({**BASE, "mode": "10.11.12.13"}, 422, "/mode"),
        ({**BASE, "mode": 5}, 422, "/mode"),
        ({**BASE, "duration_s": 0}, 422, "/duration_s"),
        ({**BASE, "duration_s": 604_801}, 422, "/duration_s"),
        ({**BASE, "duration_s": 1.5}, 422, "/duration_s"),
        ({**BASE, "duration_s": True}, 422, "/duration_s"),
        ({**BASE, "id": "1"}, 422, "/id"),
        ({**BASE, "filters": []}, 422, "/filters"),
        ({**BASE, "filters": {"a": {"b": 1}}}, 422, "/filters"),
        ({**BASE, "filters": {"e mail\n": 1}}, 422, "/filters"),
        ({**BASE, "filters": {"a": "two\nlines"}}, 422, "/filters"),
        ({**BASE, "filters": {"a": ["ok", "ünï"]}}, 422, "/filters"),
        ({**BASE, "filters": {"email": "x"}}, 422, "/filters/email"),
        ({**BASE, "filters": {"topic": "0791 234 56 78"}}, 422, "/filters/topic"),
        ({**BASE, "filters": {f"k{n}": 1 for n in range(51)}}, 422, "/filters"),
        ({**BASE, "filters": {f"k{n}": "v" * 64 for n in range(50)} | {"k0": ["v" * 64] * 20}}, 422, "/filters"),
        ([], 422, ""),
    ],
)  # fmt: skip
def test_what_is_no_session(body: Any, status: int, pointer: str) -> None:
    with pytest.raises(Refusal) as caught:
        session.decode_session(msgspec.json.encode(body))
    assert caught.value.status == status
    assert caught.value.code in ("validation", "personal-data")
    assert caught.value.hint or caught.value.errors
    assert caught.value.errors[0].pointer.startswith(pointer)


def test_any_number_can_be_a_choice() -> None:
    for number in (b"1e300", b"18446744073709551615", b"-9223372036854775808", b"1" + b"0" * 40):
        body = b'{"mode":"exam","question_ids":["%b"],"filters":{"n":%b}}' % (QUESTIONS[0].encode(), number)
        made = session.create(None, session.decode_session(body), user_id=USER, now_ms=1, new_id=ids())
        assert float(session.session_out(made.session).filters["n"]) == float(number)
    assert refused(lambda: session.decode_session(body.replace(b"1" + b"0" * 40, b"1e999")))[0] in (400, 422)


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b"[" * 100_000, b"nul", b'{"mode": "\xff"}'])
def test_what_is_no_json(body: bytes) -> None:
    for decode in (session.decode_session, session.decode_answer, session.decode_change):
        assert refused(lambda decode=decode: decode(body))[0] in (400, 422)  # type: ignore[misc]


def test_ids_are_kept_in_lower_case() -> None:
    body = msgspec.json.encode({"mode": "exam", "question_ids": [QUESTIONS[0].upper()], "id": S.upper()})
    asked = session.decode_session(body)
    assert (asked.question_ids, asked.id) == ([QUESTIONS[0]], S)
    given_ = session.decode_answer(msgspec.json.encode({"question_id": QUESTIONS[0].upper(), "marked": True}))
    assert given_.question_id == QUESTIONS[0]
    assert session.named_user(USER.upper()) == USER


@pytest.mark.parametrize(
    "body",
    [
        {"question_id": QUESTIONS[0]},
        {"question_id": QUESTIONS[0], "selected_index": None, "marked": None},
        {"question_id": QUESTIONS[0], "selected_index": -1},
        {"question_id": QUESTIONS[0], "selected_index": 1001},
        {"question_id": QUESTIONS[0], "selected_index": "1"},
        {"question_id": QUESTIONS[0], "marked": 1},
        {"question_id": "q", "marked": True},
        {"marked": True},
    ],
)
def test_what_is_no_answer(body: Any) -> None:
    assert refused(lambda: session.decode_answer(msgspec.json.encode(body))) == (422, "validation")


def test_submitting_takes_nothing() -> None:
    for body in (b"", b"  \n", b"{}", b'{"later": 1}'):
        session.decode_submit(body)
    assert refused(lambda: session.decode_submit(b"[]"))[0] == 422
    assert refused(lambda: session.decode_submit(b"x"))[0] == 400


def test_the_user_that_a_device_names() -> None:
    assert session.named_user(None) is None
    for header in ("", "me", USER + "\n", f"{{{USER}}}", USER.replace("-", "")):
        assert refused(lambda header=header: session.named_user(header)) == (400, "user-invalid")  # type: ignore[misc]


def test_a_change_travels_and_arrives_as_it_was() -> None:
    made = session.create(
        None, SessionIn(mode="exam", question_ids=QUESTIONS, filters={"t": "x"}, duration_s=9), user_id=USER,
        now_ms=1000, new_id=ids(),
    )  # fmt: skip
    given_ = session.answer(
        made.session, None, AnswerIn(question_id=QUESTIONS[2], selected_index=1, marked=True), now_ms=1100, new_id=ids()
    )
    done = session.submit(given_.session, now_ms=1200, new_id=ids())
    seen = session.review(done.session, new_id=ids())
    for step in (made, given_, done, seen):
        assert step.change is not None
        back = session.decode_change(msgspec.json.encode(step.change))
        assert back == step.change
        assert [envelope.judge(bytes(raw)) for raw in back.events] == list(step.events)
        for event in step.events:
            assert len(event.payload) <= envelope.PAYLOAD_BYTES_MAX


CHANGE = {"session_id": S, "user_id": USER, "rev": 2}


@pytest.mark.parametrize(
    "body",
    [
        CHANGE,
        {**CHANGE, "events": []},
        {**CHANGE, "events": [{}] * 11},
        {**CHANGE, "ended": "active"},
        {**CHANGE, "rev": 0, "ended": "expired"},
        {**CHANGE, "rev": 2**53 + 1, "ended": "expired"},
        {**CHANGE, "created": {"mode": "exam", "question_ids": QUESTIONS}},
        {**CHANGE, "rev": 1, "created": {"mode": "exam", "question_ids": [QUESTIONS[0]] * 2}},
        {**CHANGE, "rev": 1, "created": {"mode": "exam", "question_ids": QUESTIONS, "filters": {"phone": 1}}},
        {**CHANGE, "answer": {"question_id": QUESTIONS[0], "position": 0, "selected_index": 1}},
        {**CHANGE, "answer": {"question_id": QUESTIONS[0], "position": -1, "selected_index": 1, "marked": False}},
        {**CHANGE, "session_id": "s", "ended": "expired"},
    ],
)
def test_what_is_no_change(body: Any) -> None:
    assert refused(lambda: session.decode_change(msgspec.json.encode(body)))[0] == 422


# A life of a session: what its owner does in order, and what arrives at the cloud of it.

VERBS = st.lists(
    st.one_of(
        st.tuples(st.just("choose"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("mark"), st.integers(0, 3), st.booleans()),
        st.just(("submit",)),
        st.just(("wait",)),
        st.just(("review",)),
    ),
    max_size=14,
)
Arrived = list[tuple[SessionChange, int]]


def live(verbs: list[tuple[Any, ...]]) -> tuple[Arrived, Session, dict[str, Answer]]:
    new_id = ids()
    asked = SessionIn(mode="exam", question_ids=QUESTIONS, filters={"t": "x"}, duration_s=20, id=S)
    step = session.create(None, asked, user_id=USER, now_ms=1000, new_id=new_id)
    now_ms, known, told_ = 1000, {}, [(step.change, 1000)]
    state = step.session
    for verb in verbs:
        now_ms += 1000
        try:
            if verb[0] in ("choose", "mark"):
                question = QUESTIONS[verb[1]]
                asked_in = (
                    AnswerIn(question_id=question, selected_index=verb[2])
                    if verb[0] == "choose"
                    else AnswerIn(question_id=question, marked=verb[2])
                )
                step = session.answer(state, known.get(question), asked_in, now_ms=now_ms, new_id=new_id)
            elif verb[0] == "submit":
                step = session.submit(state, now_ms=now_ms, new_id=new_id)
            elif verb[0] == "review":
                step = session.review(state, new_id=new_id)
            else:
                now_ms += 15_000
                step = session.expire(state, now_ms=now_ms, new_id=new_id)
        except Refusal:
            continue
        state = step.session
        if step.change is not None:
            told_.append((step.change, now_ms))
            if step.answer is not None:
                known[step.answer.question_id] = step.answer
    return told_, state, known  # type: ignore[return-value]


def put_together(arrived: Arrived) -> tuple[Session | None, dict[str, Answer]]:
    state: Session | None = None
    known: dict[str, Answer] = {}
    for change, at_ms in arrived:
        merged = session_merge.merge(state, known, change, at_ms)
        assert merged.refused is None
        state = merged.session
        known |= {one.question_id: one for one in merged.answers}
    return state, known


@given(VERBS, st.data())
def test_changes_in_any_order_and_repeated_give_the_session_as_it_was(
    verbs: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    told_, state, known = live(verbs)
    arrived = data.draw(st.permutations(told_ + data.draw(st.lists(st.sampled_from(told_), max_size=6))))
    found, answers = put_together(arrived)
    assert found is not None
    assert answers == known
    # What only the cloud knows otherwise: when it heard of the end, and that somebody looked at it.
    assert session.session_out(found).submitted_at == session.session_out(state).submitted_at
    assert (found.state, found.rev, found.question_ids, found.filters, found.mode) == (
        state.state, state.rev, state.question_ids, state.filters, state.mode,
    )  # fmt: skip
    assert (found.created_at_ms, found.expires_at_ms) == (state.created_at_ms, state.expires_at_ms)
    assert put_together(told_) == (found, answers)


# Changes that no honest device would tell: the laws hold for them as well.

WILD = st.builds(
    lambda rev, made, given_, ended, at_ms: (
        SessionChange(
            session_id=S,
            user_id=USER,
            rev=1 if made else rev,
            created=made,
            answer=given_,
            ended=ended,
            events=[msgspec.Raw(b"{}")],
        ),
        at_ms,
    ),
    st.integers(1, 4),
    st.none()
    | st.builds(
        CreatedPart,
        mode=st.sampled_from(["exam", "drill"]),
        question_ids=st.sampled_from([QUESTIONS[:2], QUESTIONS[2:]]),
        filters=st.sampled_from([{}, {"a": 1}]),
        duration_s=st.sampled_from([None, 1, 604_800]),
    ),
    st.none()
    | st.builds(
        AnswerPart,
        question_id=st.sampled_from(QUESTIONS[:2]),
        position=st.integers(0, 1),
        selected_index=st.none() | st.integers(0, 2),
        marked=st.booleans(),
    ),
    st.none() | st.sampled_from(["submitted", "expired"]),
    st.sampled_from([-(2**63), -1, 0, 5, 6, 2**62]),
)


@given(st.lists(WILD, min_size=1, max_size=6), st.data())
def test_the_laws_of_merging(arrived: Arrived, data: st.DataObject) -> None:
    found = put_together(arrived)
    assert put_together(data.draw(st.permutations(arrived))) == found
    assert put_together(arrived + arrived) == found
    again = data.draw(st.sampled_from(arrived))
    assert put_together([*arrived, again]) == found
    assert found[0] is not None
    session.review_out(found[0], found[1].values())  # every time of it can be written down


def test_a_change_for_somebody_elses_session_changes_nothing() -> None:
    known = created()
    change = SessionChange(session_id=S, user_id=OTHER, rev=9, ended="submitted")
    merged = session_merge.merge(known, {}, change, 5)
    assert (merged.session, merged.answers, merged.refused) == (known, (), "session-not-yours")


def test_every_type_of_the_rules_can_be_built_and_dropped_again_and_again() -> None:
    """msgspec 0.22.0 frees what is in use for a union of a text with a pattern and a list: such a type ends us here."""
    for kind in (SessionIn, SessionChange, CreatedPart, envelope.SessionCreated):
        for field in msgspec.structs.fields(kind):
            for _ in range(300):
                with contextlib.suppress(msgspec.ValidationError):
                    msgspec.json.decode(b'{"a": {"b": 1}}', type=field.type)
    gc.collect()
