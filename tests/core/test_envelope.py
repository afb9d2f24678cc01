"""Envelope v1: each type's payload by its own schema, whatever comes is judged and nothing is raised."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import envelope
from pisyncd.core.envelope import Envelope, Rejection
from pisyncd.core.problems import Refusal

UUIDS = st.uuids().map(str)
POSITION = st.integers(0, 10_000)
INDEX = st.integers(0, 1_000)
WORD = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,12}", fullmatch=True)
STEP = st.fixed_dictionaries({"from_position": POSITION, "to_position": POSITION})
PAYLOADS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "SESSION_CREATED": st.fixed_dictionaries(
        {"mode": st.just("practice"), "filters": st.just({"topic": "algebra"}), "count": st.integers(0, 500)}
    ),
    "SESSION_SUBMITTED": st.fixed_dictionaries({"reason": st.sampled_from(["manual", "expired"])}),
    "SESSION_EXPIRED": st.just({}),
    "REVIEW_OPENED": st.just({}),
    "QUESTION_VIEWED": st.fixed_dictionaries({"position": POSITION}),
    "NAVIGATE_NEXT": STEP,
    "NAVIGATE_PREV": STEP,
    "NAVIGATE_JUMP": STEP,
    "ANSWER_SELECTED": st.fixed_dictionaries({"position": POSITION, "selected_index": INDEX}),
    "ANSWER_CHANGED": st.fixed_dictionaries({"position": POSITION, "from_index": INDEX, "to_index": INDEX}),
    "MARK_FOR_REVIEW_TOGGLED": st.fixed_dictionaries({"position": POSITION, "marked": st.booleans()}),
    "PAUSE_BLUR": st.fixed_dictionaries({"state": st.sampled_from(["blur", "focus"])}),
}
OPTIONAL = {"id": UUIDS, "seq": st.integers(0, 2**53), "question_id": UUIDS, "source": st.sampled_from(["web", "api"])}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid event of any type."""
    kind = draw(st.sampled_from(sorted(PAYLOADS)))
    event = {"event_type": kind, "session_id": draw(UUIDS), "payload": draw(PAYLOADS[kind])}
    for name, values in OPTIONAL.items():
        if draw(st.booleans()):
            event[name] = draw(values)
    return event


def judged(event: Any, **more: Any) -> Envelope | Rejection:
    return envelope.judge(json.dumps(event).encode(), **more)


def test_the_twelve_types_each_have_a_schema_and_a_priority() -> None:
    assert set(envelope.TYPES) == set(PAYLOADS)
    assert len(envelope.TYPES) == 12
    answers = {name for name, (kind, _) in envelope.TYPES.items() if envelope.PRIORITY[kind] <= envelope.SHEDDABLE_MAX}
    assert answers == {"QUESTION_VIEWED", "NAVIGATE_NEXT", "NAVIGATE_PREV", "NAVIGATE_JUMP", "PAUSE_BLUR"}


@given(events(), UUIDS)
def test_a_valid_event_is_taken_with_all_its_fields(event: dict[str, Any], user: str) -> None:
    found = judged(event, source="mobile", user_id=user)
    assert isinstance(found, Envelope), found
    assert (found.event_type, found.session_id, found.user_id) == (event["event_type"], event["session_id"], user)
    assert found.source == event.get("source", "mobile")
    assert (found.seq, found.question_id) == (event.get("seq"), event.get("question_id"))
    assert json.loads(found.payload) == event["payload"]
    assert found.id == event.get("id", found.id)


@given(events())
def test_sending_it_again_gives_the_same_id_and_digest(event: dict[str, Any]) -> None:
    first, second = judged(event), judged(event)
    assert isinstance(first, Envelope)
    assert first == second
    assert envelope.is_uuid(first.id)


@given(events())
def test_what_a_device_passes_on_is_the_same_event(event: dict[str, Any]) -> None:
    first = judged(event, source="web", user_id="11111111-1111-4111-8111-111111111111")
    assert isinstance(first, Envelope)
    second = envelope.judge(msgspec.json.encode(envelope.message(first)))
    assert second == first


@given(events(), st.sampled_from(["payload", "session_id", "event_type"]))
def test_what_is_required_is_required(event: dict[str, Any], field: str) -> None:
    del event[field]
    assert isinstance(judged(event), Rejection)


@given(events(), WORD)
def test_a_payload_carries_nothing_else(event: dict[str, Any], key: str) -> None:
    known = set(event["payload"])
    event["payload"] = {**event["payload"], f"x_{key}": 1}
    found = judged(event)
    assert isinstance(found, Rejection)
    assert found.code in ("payload-invalid", "personal-data")
    assert known.isdisjoint({f"x_{key}"})


@given(events(), JSON)
def test_any_payload_is_judged_and_nothing_is_raised(event: dict[str, Any], payload: Any) -> None:
    event["payload"] = payload
    raw = json.dumps(event).encode()
    assert isinstance(envelope.judge(raw), Envelope | Rejection)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_judged_and_nothing_is_raised(raw: bytes) -> None:
    assert isinstance(envelope.judge(raw), Rejection)


def test_a_payload_of_more_than_four_kilobytes_is_too_large() -> None:
    space = " " * 4096
    raw = f'{{"event_type":"REVIEW_OPENED","session_id":"{"1" * 8}-1111-4111-8111-{"1" * 12}","payload":{{{space}}}}}'
    found = envelope.judge(raw.encode())
    assert isinstance(found, Rejection)
    assert found.code == "payload-too-large"


def test_more_than_fifty_events_are_refused_as_a_whole() -> None:
    assert len(envelope.decode_events(json.dumps({"events": [1] * 50}).encode()).events) == 50
    with pytest.raises(Refusal) as caught:
        envelope.decode_events(json.dumps({"events": [1] * 51}).encode())
    assert (caught.value.status, caught.value.code) == (413, "too-many-events")
