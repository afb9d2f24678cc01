"""The laws of reconciling: any order, any loss, any repetition, and every copy says the same; no write vanishes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisyncd.core import deciding, merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.record import EMPTY, State, TypeRule

RULES = {
    "last-write-wins": TypeRule(strategy="last-write-wins"),
    "client-priority": TypeRule(strategy="client-priority"),
    "manual": TypeRule(strategy="manual"),
    "merge": TypeRule(
        strategy="merge", fields={"percent": "max", "badges": "union", "attempts": "counter", "born": "immutable"}
    ),
}
WRITERS = ("d-000a", "d-000b", "d-000c", "c-0001")


def pen(writer: str, at_ms: int, trusted: bool) -> Pen:
    if writer.startswith("c-"):
        return Pen.of_cloud(writer, at_ms)
    return Pen.of_device(writer, at_ms, trusted=trusted)


def act(state: State, rule: TypeRule, verb: str, fields: dict[str, Any], with_pen: Pen) -> State:
    if verb == "delete":
        return merge.delete(state, rule, with_pen)
    if rule.by_field and merge.view(state, rule).present:
        fields = {name: value for name, value in fields.items() if name != "born"}
    return (merge.put if verb == "put" else merge.patch)(state, rule, fields, with_pen)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "percent": st.integers(0, 4) | st.booleans(),
        "badges": st.lists(st.sampled_from("xyz"), max_size=3),
        "attempts": st.integers(0, 5),
        "born": st.integers(1, 3),
        "name": st.sampled_from(["Amina", "Ben", None]),
    },
)
STEP = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["put", "patch", "patch", "delete", "sync", "sync"]),
    FIELDS,
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 3),
)


def history(rule: TypeRule, steps: Sequence[Any]) -> tuple[list[State], list[State]]:
    """Four replicas write and hear of each other; gives what each holds, and every state that ever was sent."""
    replicas, sent = [EMPTY] * 4, [EMPTY]
    for who, verb, fields, at_ms, trusted, other in steps:
        if verb == "sync":
            replicas[who] = merge.join(replicas[who], replicas[other])
            continue
        replicas[who] = act(replicas[who], rule, verb, fields, pen(WRITERS[who], at_ms, trusted))
        sent.append(replicas[who])
    return replicas, sent


@pytest.mark.parametrize("strategy", RULES)
@given(steps=st.lists(STEP, max_size=25), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_any_order_any_loss_any_repetition_gives_the_same(strategy: str, steps: list[Any], seed: int) -> None:
    rule, chance = RULES[strategy], random.Random(seed)
    replicas, sent = history(rule, steps)
    results = []
    for _ in range(3):
        heard = [*replicas, *chance.choices(sent, k=chance.randrange(2 * len(sent)))]
        chance.shuffle(heard)
        whole = EMPTY
        for each in heard:
            whole = merge.join(whole, each)
        results.append(whole)
    assert results[0] == results[1] == results[2]
    views = [merge.view(each, rule) for each in results]
    assert views[0] == views[1] == views[2]
    told = [deciding.decisions("progress", "p", each, rule) for each in results]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("strategy", RULES)
@given(steps=st.lists(STEP, max_size=25), picks=st.tuples(*[st.integers(0, 10**6)] * 3))
@settings(max_examples=100, deadline=None)
def test_join_is_idempotent_commutative_and_associative(
    strategy: str, steps: list[Any], picks: tuple[int, int, int]
) -> None:
    replicas, sent = history(RULES[strategy], steps)
    states = [*sent, *replicas]
    a, b, c = (states[pick % len(states)] for pick in picks)
    join = merge.join
    assert join(a, a) == a
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    if joined := join(a, b):
        assert record.checked_state(record.encode(joined).encode()) == joined


@pytest.mark.parametrize("strategy", RULES)
@given(steps=st.lists(STEP, max_size=25))
@settings(max_examples=100, deadline=None)
def test_every_write_is_shown_or_overwritten_knowingly_or_explained(strategy: str, steps: list[Any]) -> None:
    rule = RULES[strategy]
    replicas, sent = history(rule, steps)
    whole = EMPTY
    explained: set[tuple[str, int]] = set()
    for each in [*sent, *replicas]:
        whole = merge.join(whole, each)
        for decision in deciding.decisions("progress", "p", whole, rule):
            explained.update((side.writer, side.count) for side in decision.losers)
    view = merge.view(whole, rule)
    for name, writes in whole.registers.items():
        for write in writes:
            if write.dot in explained:
                continue
            shown = view.fields if name == "" else view.fields.get(name)
            kind = rule.rule_of(name) if rule.by_field else None
            if name == "" and rule.by_field:
                assert write.value is None or not view.deleted
            elif name == "":
                assert record.canonical(shown) == record.canonical(write.value or {})
                assert view.deleted is (write.value is None)
            elif kind == "union" and isinstance(write.value, list):
                assert all(element in (shown or []) for element in write.value)
            elif kind != "counter":
                assert record.canonical(shown) == record.canonical(write.value)
    for each in sent:
        for name, writes in each.registers.items():
            for write in writes:
                kept = any(write.dot == one.dot for one in whole.registers.get(name, ()))
                assert kept or whole.version.get(write.writer, 0) >= write.count


@given(steps=st.lists(STEP, max_size=25))
@settings(max_examples=50, deadline=None)
def test_a_counter_counts_every_increment_once(steps: list[Any]) -> None:
    rule = RULES["merge"]
    replicas = [merge.put(EMPTY, rule, {"attempts": 0}, pen(WRITERS[0], 0, True))] * 4
    expected = 0
    for who, verb, _, at_ms, trusted, other in steps:
        if verb == "sync":
            replicas[who] = merge.join(replicas[who], replicas[other])
            continue
        shown = merge.view(replicas[who], rule).fields["attempts"]
        replicas[who] = merge.patch(replicas[who], rule, {"attempts": shown + 1}, pen(WRITERS[who], at_ms, trusted))
        expected += 1
    whole = replicas[0]
    for each in replicas:
        whole = merge.join(whole, each)
    assert merge.view(whole, rule).fields["attempts"] == expected


@given(steps=st.lists(STEP, max_size=20), at_ms=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_an_untrusted_clock_never_wins_by_its_time(steps: list[Any], at_ms: int) -> None:
    rule = RULES["last-write-wins"]
    replicas, _ = history(rule, steps)
    base = replicas[0]
    trusted = merge.put(base, rule, {"name": "trusted", "n": 1}, pen("d-000a", at_ms, True))
    untrusted = merge.put(base, rule, {"name": "unsure", "n": 2}, pen("d-000b", 10**15, False))
    assert merge.view(merge.join(trusted, untrusted), rule).fields["name"] == "trusted"
