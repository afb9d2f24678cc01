"""States, fields and data from outside: what is let in, and what is refused with a clear answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import CLOUD, EMPTY, MERGED, WHOLE, A, B, decided, one, pen, states

from pisyncd.core import admitting, explain, merge, record, recordwire
from pisyncd.core.problems import Refusal
from pisyncd.core.record import State, TypeRule


def state_of(value: Any = 1, *, version: Any = None, name: str = "x", count: Any = 1, writer: Any = A) -> bytes:
    version = {A: 1} if version is None else version
    return json.dumps({"version": version, "registers": {name: [[writer, count, 0, 0, value]]}}).encode()


def raw_state(value: bytes) -> bytes:
    return state_of().replace(b"1]", value + b"]")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"{", b'"x"', b"\xff", b'{"version": {}}', b'{"version": null}',
        state_of(version={"nobody": 1}), state_of(version={"d-000a\n": 1}), state_of(version={A: 0}),
        state_of(version={A: 2**53 + 1}), state_of(version={A: True}), state_of(version={A: 1.5}),
        state_of(version={B: 1}), state_of(count=2), state_of(count=0), state_of(count="1"), state_of(writer=None),
        state_of(name="\x00"), state_of(name="a b"), state_of(name="x" * 65), state_of(name="9"),
        state_of("a\x00b"), state_of({"a\x00": 1}), state_of([{"a": ["\x00"]}]),
        state_of(2**53 + 1), state_of(-(2**53) - 1), state_of([10**30]), state_of("\ud800"),
        raw_state(b"1e999"), raw_state(b"1" * 6000), raw_state(b"NaN"), raw_state(b"[" * 9 + b"]" * 9),
        raw_state(b"[" * 5000 + b"]" * 5000),
        b'{"version":{"d-000a":1},"registers":{"x":[]}}',
        b'{"version":{"d-000a":1},"registers":{"x":[["d-000a",1,0,0,1],["d-000a",1,0,0,2]]}}',
        b'{"version":{"d-000a":1},"registers":{"x":[["d-000a",1,0,4,1]]}}',
        b'{"version":{"d-000a":1},"registers":{"x":[["d-000a",1,99999999999999999,0,1]]}}',
        json.dumps({"version": {f"d-{n:04x}": 1 for n in range(257)}}).encode(),
        b" " * (record.STATE_BYTES_MAX + 1),
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        record.checked_state(raw)
    assert refused.value.status in (413, 422)
    assert refused.value.detail


@given(raw=st.binary(max_size=60) | states().map(record.canonical).flatmap(
    lambda whole: st.integers(0, len(whole)).map(lambda at: whole[:at] + whole[at + 1 :])
))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_a_state_or_refused(raw: bytes) -> None:
    try:
        state = record.checked_state(raw)
    except Refusal:
        return
    assert record.checked_state(record.canonical(state)) == state


def test_the_last_of_two_keys_counts_at_every_end() -> None:
    raw = b'{"version":{"d-000a":1,"d-000a":2},"registers":{"x":[["d-000a",2,0,0,1]],"x":[["d-000a",2,0,0,2]]}}'
    assert record.checked_state(raw).registers["x"] == (one(A, 2, 2, 0, 0),)


@pytest.mark.parametrize(
    ("rule", "registers", "fits"),
    [
        (WHOLE, {"": {"x": 1}}, True), (WHOLE, {"": None}, True), (WHOLE, {"": 5}, False), (WHOLE, {"": True}, False),
        (WHOLE, {"": {}, "x": 1}, False), (WHOLE, {"x": 1}, False), (WHOLE, {}, False),
        (MERGED, {"": True, "x": 1}, True), (MERGED, {"": None}, True), (MERGED, {"": 1}, False),
        (MERGED, {"": False}, False), (MERGED, {"": {"x": 1}}, False), (MERGED, {"x": 1}, False),
    ],
)  # fmt: skip
def test_the_form_of_a_type(rule: TypeRule, registers: dict[str, Any], fits: bool) -> None:
    state = State(version={A: 1}, registers={name: (one(A, 1, value),) for name, value in registers.items()})
    if fits:
        record.check_form(rule, state)
    else:
        with pytest.raises(Refusal):
            record.check_form(rule, state)


@pytest.mark.parametrize(
    "fields",
    [
        {"": 1}, {"a b": 1}, {"x": "\x00"}, {"x": 2**60}, {"x": float("nan")}, {"x": float("inf")}, {"x": {"\x00": 1}},
        {"percent": "5"}, {"attempts": True}, {"badges": {}}, {"x": [[[[[[[[[1]]]]]]]]]}, {"x": "y" * 40_000},
        {f"f{n}": 1 for n in range(101)},
    ],
)  # fmt: skip
def test_fields_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        record.check_fields(MERGED, fields)


def test_who_is_personal() -> None:
    record.check_fields(WHOLE, {"firstName": "Amina"})
    with pytest.raises(Refusal, match="personal"):
        record.check_fields(TypeRule(strategy="manual"), {"firstName": "Amina"})


def test_an_etag_stands_for_what_was_seen() -> None:
    state = merge.put(EMPTY, WHOLE, {"x": 1}, pen(A))
    assert record.etag(state) == record.etag(State(version={A: 1}))
    assert record.etag(state) != record.etag(merge.put(state, WHOLE, {"x": 2}, pen(A)))
    assert len(record.etag(state)) == 32 and len(record.digest(state)) == 64


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        ("progress", {"progressId": "p", "percent": 75}, ("progress", "p", {"percent": 75}, None, False)),
        ("progress", {"id": "p", "baseVersion": {A: 2}}, ("progress", "p", {}, {A: 2}, False)),
        ("profile", {"userId": "u"}, ("profile", "u", {"userId": "u"}, None, False)),
        ("record", {"recordType": "attendance", "recordId": "a"}, ("attendance", "a", {}, None, False)),
        ("enrollment", {"id": "e", "deleted": True}, ("enrollment", "e", {}, None, True)),
        ("progress", {"percent": 1}, None), ("record", {"id": "x"}, None), ("progress", {"id": 5}, None),
    ],
)  # fmt: skip
def test_plain_data(kind: str, data: dict[str, Any], found: Any) -> None:
    plain = recordwire.plain(kind, data)
    assert (plain and (plain.type, plain.id, plain.fields, plain.base, plain.deleted)) == found


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("progress", {"id": "a b"}), ("progress", {"id": "p", "deleted": "yes"}),
        ("record", {"id": "p", "recordType": 5}),
        ("record", {"id": "p", "recordType": "No"}), ("progress", {"id": "p", "baseVersion": []}),
        ("progress", {"id": "p", "baseVersion": {A: -1}}), ("progress", {"id": "p", "baseVersion": {"x": 1}}),
        ("progress", {"id": "p", "baseVersion": {A: 10**30}}),
    ],
)  # fmt: skip
def test_plain_data_that_is_refused(kind: str, data: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        recordwire.plain(kind, data)
    assert refused.value.status == 422


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"fields": []}', b'{"fields": {}, "x": 1}', b"\xff"])
def test_bodies_that_are_refused(body: bytes) -> None:
    for decode in (recordwire.decode_fields, recordwire.decode_pushed):
        with pytest.raises(Refusal) as refused:
            decode(body)
        assert refused.value.status in (400, 422)


def test_a_sentence_says_who_what_when_and_why() -> None:
    base = merge.put(EMPTY, WHOLE, {"x": 0}, pen(A))
    mine = merge.put(base, WHOLE, {"x": 85}, pen(A, 1_772_447_400_000))
    state = merge.join(mine, merge.put(base, WHOLE, {"x": 80}, pen(CLOUD, 1_772_447_100_000)))
    (decision,) = decided(state, WHOLE)
    assert explain.sentence(decision, {A: "pibox-1"}) == (
        'the record: {"x":85} of pibox-1 (2026-03-02T10:30:00.000Z) was kept over {"x":80} of the cloud '
        "(2026-03-02T10:25:00.000Z): it was written later."
    )


def test_what_was_written_under_used_numbers_goes_by_another_name() -> None:
    first = merge.put(EMPTY, MERGED, {"x": 1, "y": 1}, pen(A))
    theirs = merge.patch(first, MERGED, {"x": 2}, pen(A, 5))
    mine = merge.patch(merge.patch(first, MERGED, {"y": 3}, pen(A, 6)), MERGED, {"z": 4}, pen(A, 7))
    alias = admitting.alias_of(A, B)
    renamed = admitting.split(mine, A, 2, alias)
    assert renamed.version == {A: 1, alias: 3} and renamed == admitting.split(mine, A, 2, alias)
    assert record.checked_state(record.canonical(renamed)) == renamed
    both = merge.join(theirs, renamed)
    assert merge.view(both, MERGED).fields == {"x": 2, "y": 3, "z": 4}
