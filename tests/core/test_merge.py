"""What each strategy and each field's rule shows, and what it says of the losers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import (
    CLIENT,
    CLOUD,
    EMPTY,
    FIELDS,
    MANUAL,
    MERGED,
    RULES,
    WHOLE,
    A,
    B,
    C,
    beside,
    decided,
    lost,
    one,
    pen,
    states,
)

from pisyncd.core import admitting, deciding, explain, merge, record
from pisyncd.core.problems import Refusal
from pisyncd.core.record import JUDGED_TRUSTED, JUDGED_UNTRUSTED, State, TypeRule

X, Y, Z = {"x": 1}, {"x": 2}, {"x": 3}


@pytest.mark.parametrize(
    ("rule", "edits", "shown", "reason"),
    [
        (WHOLE, [(A, 5, X), (B, 4, Y)], X, "later"),
        (WHOLE, [(A, 5, X), (CLOUD, 6, Y)], Y, "later"),
        (WHOLE, [(A, 5, X), (B, 5, Y)], Y, "tie"),
        (WHOLE, [(A, 5, X), (B, 9, None)], {}, "later"),
        (CLIENT, [(A, 5, X), (CLOUD, 9, Y)], X, "client"),
        (CLIENT, [(A, 5, X), (B, 6, Y), (CLOUD, 9, Z)], Y, "client"),
        (CLIENT, [(A, 5, X), (B, 6, Y)], Y, "later"),
        (MANUAL, [(A, 5, X), (B, 6, Y)], Y, "undecided"),
        (MANUAL, [(A, 5, X), (B, 6, None)], {}, "undecided"),
    ],
)
def test_records_that_are_kept_whole(rule: TypeRule, edits: list[Any], shown: dict[str, Any], reason: str) -> None:
    base = merge.put(EMPTY, rule, {"x": 0}, pen(A))
    state = beside(rule, base, *edits)
    assert merge.view(state, rule).fields == shown
    (decision,) = decided(state, rule)
    assert (decision.reason, decision.open) == (reason, reason == "undecided")
    assert len(decision.losers) == len(edits) - 1
    assert merge.view(state, rule).conflicted is (rule is MANUAL)


@pytest.mark.parametrize(
    ("edits", "shown", "reasons"),
    [
        ([(A, 9, {"percent": 50}), (B, 1, {"percent": 80})], {"percent": 80}, ["greatest"]),
        ([(A, 9, {"percent": False}), (B, 1, {"percent": True})], {"percent": True}, ["greatest"]),
        ([(A, 9, {"percent": None}), (B, 1, {"percent": 1})], {"percent": 1}, ["greatest"]),
        ([(A, 9, {"percent": 0.5}), (B, 1, {"percent": 2**53})], {"percent": 2**53}, ["greatest"]),
        ([(A, 9, {"badges": ["b", "a"]}), (B, 1, {"badges": ["c", "a"]})], {"badges": ["a", "b", "c"]}, []),
        ([(A, 9, {"badges": None}), (B, 1, {"badges": ["c"]})], {"badges": ["c"]}, ["added"]),
        ([(A, 9, {"attempts": 7}), (B, 1, {"attempts": 6})], {"attempts": 8}, []),
        ([(A, 9, {"name": "a"}), (B, 1, {"name": "b"})], {"name": "a"}, ["later"]),
        ([(A, 9, {"name": "a"}), (B, 1, {"name": "a"})], {"name": "a"}, []),
        ([(A, 9, {"name": None}), (B, 1, {"name": "b"})], {}, ["later"]),
        ([(A, 9, {"name": "a"}), (B, 1, {"other": "b"})], {"name": "a", "other": "b"}, []),
        ([(A, 1, None), (B, 9, {"name": "b"})], None, ["deleted"]),
        ([(A, 1, None), (B, 9, {"name": "b"}), (C, 1, {"percent": 3})], None, ["deleted", "deleted"]),
        ([(A, 1, None), (B, 9, None)], None, []),
    ],
)
def test_records_that_are_merged(edits: list[Any], shown: dict[str, Any] | None, reasons: list[str]) -> None:
    base = merge.put(EMPTY, MERGED, {"attempts": 5, "percent": 0, "badges": ["z"], "name": "n"}, pen(CLOUD))
    state = beside(MERGED, base, *edits)
    view = merge.view(state, MERGED)
    assert view.deleted is (shown is None)
    touched = {name for _, _, fields in edits for name in fields or {}}
    assert {name: value for name, value in view.fields.items() if name in touched} == (shown or {})
    assert [each.reason for each in decided(state, MERGED)] == reasons


def test_what_is_set_once_is_what_was_there_first() -> None:
    first = merge.put(EMPTY, MERGED, {"born": 1}, pen(A, 5))
    second = merge.put(EMPTY, MERGED, {"born": 2}, pen(B, 4))
    unsure = merge.put(EMPTY, MERGED, {"born": 3}, pen(C, 1, sure=False))
    state = merge.join(merge.join(first, second), unsure)
    assert merge.view(state, MERGED).fields == {"born": 2}
    assert [each.reason for each in decided(state, MERGED)] == ["first"]
    with pytest.raises(Refusal, match="once and for all") as refused:
        merge.patch(state, MERGED, {"born": 9}, pen(A))
    assert (refused.value.status, refused.value.code) == (422, "field-immutable")
    assert merge.patch(state, MERGED, {"born": 2}, pen(A)) is state
    assert merge.view(merge.patch(state, MERGED, {"born": 9}, pen(A), decided=True), MERGED).fields == {"born": 9}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_who_has_seen_the_other_replaces_it(rule: TypeRule) -> None:
    """Whatever the clocks say."""
    old = merge.put(EMPTY, rule, {"x": 1, "percent": 9}, pen(A, 10**12))
    new = merge.patch(old, rule, {"x": 2, "percent": 3}, pen(B, 0, sure=False))
    gone = merge.delete(new, rule, pen(CLOUD, -5))
    again = merge.put(gone, rule, {"x": 7}, pen(A, -(10**12), sure=False))
    for before, after in ((old, new), (new, gone), (gone, again), (old, again)):
        assert merge.join(before, after) == merge.join(after, before) == after
    assert merge.view(new, rule).fields == {"x": 2, "percent": 3}
    assert merge.view(gone, rule) == merge.View(fields={}, deleted=True, exists=True, conflicted=False)
    assert merge.view(again, rule).fields == {"x": 7}
    assert decided(again, rule) == []


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_changes_nothing_makes_no_version(rule: TypeRule) -> None:
    state = merge.put(EMPTY, rule, {"x": 1, "attempts": 2, "gone": None}, pen(A))
    assert merge.put(state, rule, {"attempts": 2, "x": 1}, pen(B, 9)) is state
    assert merge.patch(state, rule, {"x": 1, "missing": None}, pen(B, 9)) is state
    assert merge.patch(state, rule, {}, pen(B, 9)) is state
    deleted = merge.delete(state, rule, pen(A))
    assert merge.delete(deleted, rule, pen(B)) is deleted
    assert merge.delete(EMPTY, rule, pen(B)) is EMPTY


def test_a_put_keeps_what_counts_and_what_is_set_once() -> None:
    state = merge.put(EMPTY, MERGED, {"attempts": 3, "born": 1, "name": "n", "badges": ["a"]}, pen(A))
    after = merge.put(state, MERGED, {"name": "m"}, pen(B))
    assert merge.view(after, MERGED).fields == {"attempts": 3, "born": 1, "name": "m"}


def test_a_counter_that_is_set_beside_increments_keeps_them() -> None:
    base = merge.put(EMPTY, MERGED, {"attempts": 10}, pen(A))
    reset = merge.patch(base, MERGED, {"attempts": 0}, pen(B))
    more = merge.patch(base, MERGED, {"attempts": 12}, pen(C))
    assert merge.view(merge.join(reset, more), MERGED).fields == {"attempts": 2}


def test_a_person_decides_over_all_sides() -> None:
    state = beside(MANUAL, merge.put(EMPTY, MANUAL, {"x": 0}, pen(A)), (A, 5, X), (B, 6, Y))
    decision = merge.put(state, MANUAL, dict(merge.view(state, MANUAL).fields), pen(CLOUD), decided=True)
    assert decision.version != state.version
    assert not merge.view(decision, MANUAL).conflicted
    assert decided(decision, MANUAL) == []
    assert merge.join(state, decision) == decision


def test_the_same_written_by_two_is_no_conflict() -> None:
    state = beside(MANUAL, merge.put(EMPTY, MANUAL, {"x": 0}, pen(A)), (A, 5, X), (B, 6, X))
    assert len(state.registers[""]) == 2
    assert decided(state, MANUAL) == []
    assert not merge.view(state, MANUAL).conflicted
    assert merge.put(state, MANUAL, X, pen(C)) is state


def test_ids_of_decisions_are_those_of_what_met() -> None:
    base = merge.put(EMPTY, WHOLE, {"x": 0}, pen(A))
    one_way = beside(WHOLE, base, (A, 5, X), (B, 6, Y))
    other_way = beside(WHOLE, base, (B, 6, Y), (A, 5, X))
    assert decided(one_way, WHOLE) == decided(other_way, WHOLE)
    (first,), (third,) = decided(one_way, WHOLE), decided(beside(WHOLE, base, (A, 5, X), (B, 6, Y), (C, 1, Z)), WHOLE)
    assert first.id.startswith("cf_") and first.id != third.id
    assert deciding.decisions("other", "p", one_way, WHOLE)[0].id != first.id
    assert deciding.decisions("progress", "q", one_way, WHOLE)[0].id != first.id


# 1, 1.0 and True


@pytest.mark.parametrize(("left", "right"), [(1, True), (1, 1.0), (0.0, -0.0), ([1], [True]), ({"a": 1}, {"a": 1.0})])
def test_values_that_only_python_takes_for_equal(left: Any, right: Any) -> None:
    for rule in RULES.values():
        state = merge.put(EMPTY, rule, {"x": left}, pen(A))
        changed = merge.put(state, rule, {"x": right}, pen(A))
        assert changed is not state
        assert record.canonical(merge.view(changed, rule).fields) == record.canonical({"x": right})
        whole = merge.join(merge.put(EMPTY, rule, {"x": left}, pen(A)), merge.put(EMPTY, rule, {"x": right}, pen(B)))
        assert [each.losers[0].writer for each in decided(whole, rule)] == [A]
    first = State(version={A: 1}, registers={"": (one(A, 1, True),), "x": (one(A, 1, left),)})
    second = State(version={A: 1}, registers={"": (one(A, 1, True),), "x": (one(A, 1, right),)})
    assert record.encode(merge.join(first, second)) == record.encode(merge.join(second, first))
    assert admitting.reused(first, second) == {A}
    both = beside(
        MERGED, merge.put(EMPTY, MERGED, {"x": 0}, pen(C)), (A, 1, {"badges": [left]}), (B, 1, {"badges": [right]})
    )
    assert len(merge.view(both, MERGED).fields["badges"]) == 2


def test_sums_stay_numbers_that_can_be_kept() -> None:
    state, most = merge.put(EMPTY, MERGED, {"attempts": 2**53}, pen(A)), 2**53
    for writer in (B, C, CLOUD):
        state = merge.join(state, merge.put(EMPTY, MERGED, {"attempts": most}, pen(writer)))
    assert merge.view(state, MERGED).fields["attempts"] == most
    low = merge.patch(state, MERGED, {"attempts": -most}, pen(A))
    again = merge.patch(low, MERGED, {"attempts": most}, pen(A))
    assert record.checked_state(record.canonical(low)) == low
    assert record.checked_state(record.canonical(again)) == again
    floats = State(version={A: 1, B: 1}, registers={"attempts": (one(A, 1, 1e308), one(B, 1, 1e308))})
    assert merge.shown(floats.registers["attempts"], "counter") == most


def test_what_was_written_under_another_rule_is_shown_or_named() -> None:
    for name in ("attempts", "badges"):
        lone = State(version={A: 1}, registers={"": (one(A, 1, True),), name: (one(A, 1, "old"),)})
        assert merge.view(lone, MERGED).fields == {name: "old"}
        two = State(
            version={A: 1, B: 1}, registers={"": (one(A, 1, True),), name: (one(A, 1, "old"), one(B, 1, "new"))}
        )
        assert merge.view(two, MERGED).fields == {name: "new"}
        assert lost(two, MERGED) == {(A, 1, name)}
    mixed = State(
        version={A: 1, B: 1}, registers={"": (one(A, 1, True),), "attempts": (one(A, 1, "old"), one(B, 1, 4))}
    )
    assert merge.view(mixed, MERGED).fields == {"attempts": 4}
    assert lost(mixed, MERGED) == {(A, 1, "attempts")}
    counted = merge.patch(mixed, MERGED, {"attempts": 6}, pen(A))
    assert merge.view(counted, MERGED).fields == {"attempts": 6}


# Sizes


def test_writes_one_after_the_other_stay_within_what_the_other_side_takes() -> None:
    state = merge.put(EMPTY, MERGED, {f"f{n}": n for n in range(record.FIELDS_MAX)}, pen(A))
    with pytest.raises(Refusal, match="at most 100 fields"):
        merge.patch(state, MERGED, {"one_more": 1}, pen(A))
    swapped = merge.patch(state, MERGED, {"f0": None, "one_more": 1}, pen(A))
    assert len(swapped.registers) == record.FIELDS_MAX + 2
    big = merge.put(EMPTY, MERGED, {"a": "x" * 30_000}, pen(A))
    with pytest.raises(Refusal) as refused:
        merge.patch(big, MERGED, {"b": "x" * 30_000}, pen(A))
    assert refused.value.status == 413
    with pytest.raises(Refusal):
        merge.patch(merge.put(EMPTY, WHOLE, {"a": "x" * 30_000}, pen(A)), WHOLE, {"b": "x" * 30_000}, pen(A))


def test_names_that_come_and_go_end_somewhere() -> None:
    state = merge.put(EMPTY, MERGED, {"keep": 1}, pen(A))
    with pytest.raises(Refusal, match="too many fields"):
        for number in range(record.FIELDS_EVER_MAX + 3):
            state = merge.patch(state, MERGED, {f"f{number}": 1, f"f{number - 1}": None}, pen(A))
    assert len(state.registers) <= record.FIELDS_EVER_MAX + 2
    state = merge.patch(state, MERGED, {"keep": 2}, pen(A))
    anew = merge.put(merge.delete(state, MERGED, pen(A)), MERGED, {"keep": 1}, pen(A))
    assert set(anew.registers) == {"", "keep"}


def test_what_two_made_together_may_be_larger_and_can_be_made_smaller() -> None:
    half = {side: {f"{side}{n}": n for n in range(80)} for side in "ab"}
    state = merge.join(merge.put(EMPTY, MERGED, half["a"], pen(A)), merge.put(EMPTY, MERGED, half["b"], pen(B)))
    assert len(merge.view(state, MERGED).fields) == 160
    assert record.checked_state(record.canonical(state)) == state
    state = merge.patch(state, MERGED, {"a0": None, "a1": 7}, pen(C))
    assert len(merge.view(state, MERGED).fields) == 159
    with pytest.raises(Refusal):
        merge.patch(state, MERGED, {"c": 1, "d": 2}, pen(C))


# At the cloud


def own(writer: str) -> bool:
    return writer.startswith(A)


def test_of_a_device_only_what_is_its_own_or_known() -> None:
    known = merge.put(EMPTY, MERGED, {"name": "cloud", "x": 1}, pen(CLOUD))
    seen = merge.patch(known, MERGED, {"x": 2}, pen(A))
    assert admitting.admitted(seen, known, own) == seen
    forged = merge.patch(seen, MERGED, {"name": "forged"}, pen(B))
    admitted = admitting.admitted(forged, known, own)
    assert B not in admitted.version
    joined = merge.join(known, admitted)
    assert merge.view(joined, MERGED).fields == {"name": "cloud", "x": 2}
    lied = State(version={A: 1, B: 2**53, CLOUD: 2**53}, registers={"x": (one(A, 1, 2),)})
    assert admitting.admitted(lied, known, own).version == {A: 1, CLOUD: 1}
    assert admitting.admitted(State(version={B: 3}, registers={"x": (one(B, 3, 0),)}), known, own) is EMPTY


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_copied_card_tells_of_its_past_before_the_other_does(rule: TypeRule) -> None:
    """The original's deletion is not known here; what the copy says must not leave a hole where the record was."""
    known = merge.put(EMPTY, rule, {"name": "cloud", "x": 1}, pen(CLOUD))
    deleted = merge.delete(known, rule, pen(B))
    copy = merge.put(deleted, rule, {"x": 5}, pen(A, 9))
    assert merge.view(merge.join(known, admitting.admitted(copy, known, own)), rule).fields == {"x": 5}
    begun = merge.put(deleted, rule, {"x": 4}, pen(B))
    copy = merge.patch(begun, rule, {"y": 5}, pen(A, 9))
    at_cloud = merge.join(known, admitting.admitted(copy, known, own))
    if rule.by_field:
        assert merge.view(at_cloud, rule).fields == {"name": "cloud", "x": 1, "y": 5}
    both = merge.join(at_cloud, begun)
    again = merge.join(both, admitting.admitted(copy, both, own))
    assert again == merge.join(begun, copy), "once the original has delivered and the copy says it again, all is well"


def test_another_account_of_a_known_write_does_not_count() -> None:
    known = State(version={CLOUD: 1}, registers={"": (one(CLOUD, 1, True),), "x": (one(CLOUD, 1, 1, 50, 3),)})
    lied = State(
        version={A: 1, CLOUD: 1},
        registers={"": (one(CLOUD, 1, None),), "x": (one(CLOUD, 1, 666, 10**12, 3),), "y": (one(A, 1, 2),)},
    )
    assert admitting.admitted(lied, known, own).registers["x"] == known.registers["x"]
    assert merge.view(merge.join(known, admitting.admitted(lied, known, own)), MERGED).fields == {"x": 1, "y": 2}


def test_a_write_is_judged_once() -> None:
    state = merge.put(EMPTY, MERGED, {"x": 1}, pen(A, 10**15, sure=True))
    first = admitting.judged(state, EMPTY, lambda write: (70, JUDGED_UNTRUSTED))
    assert {write.at_ms for writes in first.registers.values() for write in writes} == {70}
    more = merge.patch(state, MERGED, {"y": 1}, pen(A, 10**15))
    again = admitting.judged(admitting.admitted(more, first, own), first, lambda write: (90, JUDGED_TRUSTED))
    joined = merge.join(first, again)
    assert [joined.registers[name][0].at_ms for name in ("x", "y")] == [70, 90]
    assert merge.join(joined, more) == joined, "at the device the cloud's word stands"


def test_a_number_used_twice_is_noticed() -> None:
    base = merge.put(EMPTY, MERGED, {"x": 0}, pen(A))
    first, second = (merge.patch(base, MERGED, {"x": value}, pen(A, 5)) for value in (1, 2))
    assert admitting.reused(second, first) == {A}
    assert admitting.reused(first, first) == admitting.reused(base, first) == admitting.reused(first, base) == set()
    later = merge.patch(first, MERGED, {"x": 3}, pen(A, 6))
    assert admitting.reused(first, later) == admitting.reused(later, first) == set()


def test_the_alias_of_what_was_written_twice() -> None:
    base = merge.put(EMPTY, MERGED, {"x": 0}, pen(A))
    first, second = (merge.patch(base, MERGED, {"x": value}, pen(A, 5)) for value in (1, 2))
    renamed = admitting.renamed(second, A)
    assert renamed == admitting.renamed(second, A)
    (alias,) = renamed.version
    assert alias.startswith(f"{A}~") and own(alias)
    assert record.checked_state(record.canonical(renamed)) == renamed
    joined = merge.join(first, renamed)
    assert joined == merge.join(joined, renamed)
    assert [write.value for write in joined.registers["x"]] == [1, 2]
    assert admitting.renamed(base, B) is base
    third = admitting.renamed(merge.patch(second, MERGED, {"y": 4}, pen(A, 6)), A)
    whole = merge.join(joined, third)
    assert merge.view(whole, MERGED).fields == {"x": 2, "y": 4}
    once_more = admitting.renamed(third, next(iter(third.version)))
    assert set(once_more.version) != set(third.version) and next(iter(once_more.version)).count("~") == 1


# Whatever a stranger sends


@pytest.mark.parametrize("strategy", RULES)
@given(a=states(), b=states(), c=states())
@settings(max_examples=60, deadline=None)
def test_the_laws_hold_for_any_states(strategy: str, a: State, b: State, c: State) -> None:
    """Byte for byte, as far as one number names one write: two accounts of it are for `reused` to find."""
    join, told = merge.join, record.encode
    assert told(join(a, a)) == told(a)
    assert told(join(a, b)) == told(join(b, a))
    assert told(join(join(a, b), c)) == told(join(a, join(b, c)))
    whole = join(join(a, b), c)
    assert record.checked_state(record.canonical(whole)) == whole
    view, same = merge.view(whole, RULES[strategy]), merge.view(record.decode(told(whole)), RULES[strategy])
    assert record.canonical(view.fields) == record.canonical(same.fields)


@pytest.mark.parametrize("strategy", RULES)
@given(a=states(), b=states())
@settings(max_examples=60, deadline=None)
def test_any_state_can_be_looked_at(strategy: str, a: State, b: State) -> None:
    rule = RULES[strategy]
    for state in (a, merge.join(a, b), admitting.renamed(a, A), admitting.admitted(a, b, own)):
        view = merge.view(state, rule)
        record.canonical(dict(view.fields))
        for decision in deciding.decisions("progress", "p", state, rule):
            assert explain.sentence(decision, {A: "pibox-1"})
            assert record.canonical(decision)
        record.scopes("profile", "p", view.fields)
    admitting.reused(a, b)
    admitting.judged(a, b, lambda write: (0, JUDGED_UNTRUSTED))


@pytest.mark.parametrize("strategy", RULES)
@given(a=states(), b=states())
@settings(max_examples=60, deadline=None)
def test_no_value_of_a_well_formed_state_is_hidden(strategy: str, a: State, b: State) -> None:
    rule, state = RULES[strategy], merge.join(a, b)
    try:
        record.check_form(rule, state)
    except Refusal:
        return
    view, named = merge.view(state, rule), lost(state, rule)
    for name, writes in state.registers.items():
        shown = view.fields if name == "" else view.fields.get(name)
        kind = FIELDS.get(name) if rule.by_field else None
        for write in writes:
            if (
                (*write.dot, name) in named
                or write.value is None
                or (name == "" and rule.by_field and not view.deleted)
            ):
                continue
            if kind == "union" and isinstance(write.value, list):
                assert all(element in shown for element in write.value)
            elif kind != "counter" or not isinstance(write.value, int | float):
                assert record.canonical(shown) == record.canonical(write.value)


@given(a=states(), fields=st.dictionaries(st.sampled_from(["x", "percent", "badges"]), st.integers(0, 3) | st.none()))
@settings(max_examples=60, deadline=None)
def test_any_state_can_be_written_over(a: State, fields: dict[str, Any]) -> None:
    if a.version.get(A, 0) >= record.NUMBER_MAX:
        return
    for rule in RULES.values():
        for write in (merge.put, merge.patch):
            after = write(a, rule, fields, pen(A))
            assert merge.join(a, after) == after
        assert merge.join(a, merge.delete(a, rule, pen(A))) == merge.delete(a, rule, pen(A))
