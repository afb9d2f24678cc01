"""What must not travel is found by key and by shape, and what learning data looks like passes."""

import uuid
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import privacy

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "key",
    [
        "name", "firstName", "first_name", "FIRST-NAME", "studentName", "learner-name", "email", "user_email", "E-Mail",
        "phone", "mobileNumber", "homeAddress", "street", "ip", "ipAddress", "client_ip", "dateOfBirth",
        "password", "name1", "userEmail1", "latitude1", "studentNames", "nameOfStudent", "emailOfUser", "fName",
        "phone_number_home", "ip_addr", "remote_ip", "userIP", "user_agent", "ｎａｍｅ", "e-mail-addr",
    ],
)  # fmt: skip
def test_keys_that_name_what_is_personal(key: str) -> None:
    found = privacy.personal({"deep": [{key: 1}]})
    assert found is not None
    assert found[0] == f"/deep/0/{key}"


@pytest.mark.parametrize(
    "key", ["question", "questionText", "question_text", "questionText2", "options", "stem", "prompt_text", "comments"]
)
def test_keys_of_free_text_may_hold_numbers_and_flags_only(key: str) -> None:
    assert privacy.personal({key: "Which of these is right?"}) is not None
    assert privacy.personal({key: ["a", "b"]}) is not None
    assert privacy.personal({key: 4}) is None
    assert privacy.personal({key: True, "phone": False}) is None


@pytest.mark.parametrize(
    "key", ["mode", "fileName", "module_name", "questionId", "question_id", "itemType", "selected_index", "eventName"]
)
def test_keys_of_learning_data_pass(key: str) -> None:
    assert privacy.personal({key: 1}) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("amina@example.org", "an e-mail address"),
        ("write to a.b+c@school.example.org please", "an e-mail address"),
        ("+49 171 1234567", "a phone number"),
        ("0171-123 4567", "a phone number"),
        ("(0171) 123456", "a phone number"),
        ("10.0.0.1", "an IP address"),
        ("from 192.168.1.17 today", "an IP address"),
        ("0712345678", "a phone number"),
        ("00491511234567", "a phone number"),
        ("(555) 123-4567", "a phone number"),
        ("tel:+254712345678", "a phone number"),
        ("ana＠mail.com", "an e-mail address"),
        ("ana%40mail.com", "an e-mail address"),
        ("ana@пример.рф", "an e-mail address"),
        ("ip=fe80::1", "an IP address"),
        ("[fe80::1]:80", "an IP address"),
        ("aabb.ccdd.eeff", "a hardware address"),
        ("fe80::1", "an IP address"),
        ("[2001:db8::1]", "an IP address"),
        ("b8:27:eb:01:02:03", "a hardware address"),
        ("x" * 201, "text of more than 200 characters"),
    ],
)
def test_shapes_that_are_personal(text: str, reason: str) -> None:
    assert privacy.personal({"value": text}) == ("/value", reason)
    assert privacy.personal([text]) == ("/0", reason)
    assert privacy.personal({text: 1}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-20T12:34:56.000Z", "2026-01-20", "03-04-2026", "12:34:56", "1700000000123", "int_123", "1.2.3", "0.75",
        "550e8400-e29b-41d4-a716-446655440000", "practice", "-0.1234567", "3/4", "level 3 of 12", "x" * 200,
        "a::b", "0001 0002 0003", "000012345678",
    ],
)  # fmt: skip
def test_shapes_of_learning_data_pass(text: str) -> None:
    assert privacy.personal({"value": text}) is None


@given(st.uuids(), st.datetimes())
def test_ids_and_times_pass(some_id: uuid.UUID, when: datetime) -> None:
    assert privacy.personal({"id": str(some_id), "hex": some_id.hex, "at": when.isoformat() + "Z"}) is None


def test_what_is_too_deep_to_be_looked_through_does_not_pass() -> None:
    nested: object = 1
    for _ in range(20):
        nested = [nested]
    assert privacy.personal(nested) is not None
    assert privacy.personal([[] for _ in range(3000)]) is not None


@given(JSON)
def test_it_never_raises_and_always_says_where(value: object) -> None:
    found = privacy.personal(value)
    assert found is None or (found[1] and (found[0] == "" or found[0].startswith("/")))


@given(JSON, st.emails())
def test_an_address_anywhere_is_found(value: object, email: str) -> None:
    assert privacy.personal({"k": [value, {"x": email}]}) is not None
