"""Which troubles become incidents: once per streak, together when there are many, over when they are over."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.rules import alerting
from cloud.rules.alerting import Change, Close, Escalate, Incident, Open, Rule, Situation, Trouble

RULE = Rule(name="all", states=("failing", "overdue"), channels=("mail",))


def trouble(dk: int, state: str = "failing", since_ms: int = 0, **more: object) -> Trouble:
    return Trouble(dk=dk, device_id=f"pi-{dk}", state=state, since_ms=since_ms, **more)  # type: ignore[arg-type]


@dataclass
class World:
    """Applies plans as the flow does; counts what people would hear."""

    rules: list[Rule] = field(default_factory=lambda: [RULE])
    sizes: dict[str, int] = field(default_factory=dict)
    open: dict[int, Incident] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def look(
        self, troubles: list[Trouble], now_ms: int = 0, hushed: frozenset[int] = frozenset()
    ) -> list[alerting.Action]:
        actions = alerting.plan(
            Situation(
                rules=self.rules, troubles=troubles, incidents=list(self.open.values()), sizes=self.sizes,
                hushed=hushed, now_ms=now_ms,
            )
        )  # fmt: skip
        for action in actions:
            self._apply(action)
        return actions

    def _apply(self, action: alerting.Action) -> None:
        if isinstance(action, Open):
            number = next(self.numbers)
            self.open[number] = Incident(
                id=number, rule=action.rule.name, kind=action.kind, subject=action.subject, cause=action.cause,
                members=frozenset(action.members), devices=len(action.members),
            )  # fmt: skip
            if not action.quietly:
                self.told.append(f"opened {action.kind} {action.subject}")
        elif isinstance(action, Change):
            old = self.open[action.incident.id]
            members = (old.members | set(action.joins)) - set(action.leaves)
            self.open[old.id] = replace(old, members=members, devices=old.devices + len(action.joins))
        elif isinstance(action, Close):
            gone = self.open.pop(action.incident.id)
            if not action.quietly:
                self.told.append(f"recovered {gone.kind} {gone.subject}")
        else:
            self.told.append(f"escalated {action.incident.subject}")


def test_a_streak_is_told_once_and_its_end_too() -> None:
    world = World()
    for _ in range(3):
        world.look([trouble(1)])
    world.look([trouble(1, "overdue")])
    world.look([])
    world.look([])
    assert world.told == ["opened device pi-1", "recovered device pi-1"]


def test_what_is_muted_or_retired_has_not_recovered() -> None:
    world = World()
    world.look([trouble(1)])
    world.look([], hushed=frozenset({1}))
    assert world.told == ["opened device pi-1"]
    assert world.open == {}


@pytest.mark.parametrize(
    ("rule", "matched"),
    [
        (RULE, True),
        (replace(RULE, states=("overdue",)), False),
        (replace(RULE, groups=frozenset({"north", "x"})), True),
        (replace(RULE, groups=frozenset({"south"})), False),
        (replace(RULE, tags=frozenset({"lab"})), True),
        (replace(RULE, tags=frozenset({"home"})), False),
        (replace(RULE, faults=("card-*",)), True),
        (replace(RULE, faults=("dns", "card-lost")), False),
        (replace(RULE, wait_ms=1000), True),
        (replace(RULE, wait_ms=1001), False),
    ],
)
def test_what_a_rule_is_about(rule: Rule, matched: bool) -> None:
    one = trouble(1, fault="card-full", groups=frozenset({"north"}), tags=frozenset({"lab"}))
    assert alerting.matches(rule, one, 1000) == matched


def test_a_region_that_goes_quiet_is_one_message() -> None:
    world = World(sizes={"north": 1000})
    silent: list[Trouble] = []
    for first in range(0, 1000, 50):
        silent += [trouble(dk, "overdue", place="north") for dk in range(first, first + 50)]
        world.look(silent)
    assert len(world.told) <= 201
    assert world.told.count("opened group north") == 1
    (left,) = world.open.values()
    assert len(left.members) == left.devices == 1000


def test_a_region_that_goes_quiet_within_a_minute_is_nothing_but_one_message() -> None:
    world = World(sizes={"north": 1000})
    world.look([trouble(dk, "overdue", place="north") for dk in range(1000)])
    assert world.told == ["opened group north"]


def test_a_few_of_a_large_region_are_told_one_by_one() -> None:
    world = World(sizes={"north": 1000})
    world.look([trouble(dk, "overdue", place="north") for dk in range(6)])
    assert len(world.told) == 6


def test_the_same_error_on_many_is_one_message_and_takes_the_first_ones_in() -> None:
    world = World()
    full = [trouble(dk, fault="card-full") for dk in range(212)]
    for count in (1, 4, 212):
        world.look(full[:count])
    assert world.told == [*(f"opened device pi-{dk}" for dk in range(4)), "opened fault card-full"]
    assert [each.kind for each in world.open.values()] == ["fault"]


def test_a_common_incident_ends_when_a_third_is_left_and_the_rest_goes_on_alone() -> None:
    world = World(sizes={"north": 40})
    silent = [trouble(dk, "overdue", place="north") for dk in range(40)]
    world.look(silent)
    world.look(silent[:14])
    assert world.told == ["opened group north"]
    world.look(silent[:3])
    assert world.told == ["opened group north", "recovered group north"]
    assert {each.subject for each in world.open.values()} == {"pi-0", "pi-1", "pi-2"}
    world.look(silent[:2])
    assert world.told[-1] == "recovered device pi-2"


def test_nobody_took_it_on() -> None:
    rule = replace(RULE, escalate_after_ms=1000, escalate_to=("boss",))
    late = Incident(
        id=1, rule="all", kind="device", subject="pi-1", cause="failing", members=frozenset({1}), devices=1,
        escalate_at_ms=1000,
    )  # fmt: skip
    situation = Situation(rules=[rule], troubles=[trouble(1)], incidents=[late], now_ms=999)
    assert alerting.plan(situation) == []
    assert alerting.next_due_ms([rule], situation.troubles, [late], 999) == 1000
    assert alerting.plan(replace(situation, now_ms=1000)) == [Escalate(incident=late, rule=rule)]


def test_who_fails_by_another_error_now_stays_in_one_incident() -> None:
    world = World()
    full = [trouble(dk, fault="card-full") for dk in range(5)]
    world.look([*full, *(trouble(dk, fault="dns") for dk in range(5, 10))])
    world.look([*(trouble(dk, fault="dns") for dk in range(10))])
    inside = [dk for each in world.open.values() for dk in each.members]
    assert sorted(inside) == list(range(10))
    world.look([trouble(0, fault="dns")])
    assert [each.subject for each in world.open.values()] == ["pi-0"]


def test_incidents_of_a_rule_that_is_no_more_end_quietly() -> None:
    world = World()
    world.look([trouble(1)])
    world.rules = []
    world.look([trouble(1)])
    assert world.open == {}
    assert world.told == ["opened device pi-1"]


fleets = st.lists(
    st.dictionaries(
        st.integers(0, 25),
        st.tuples(
            st.sampled_from(["failing", "overdue"]), st.sampled_from(["", "card-full", "dns"]),
            st.sampled_from(["", "north", "south"]),
        ),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(fleets)
def test_per_rule_a_troubled_device_is_in_exactly_one_open_incident(
    looks: list[dict[int, tuple[str, str, str]]],
) -> None:
    world = World(rules=[RULE, replace(RULE, name="failing", states=("failing",))], sizes={"north": 20, "south": 4})
    for look in [*looks, {}]:
        troubles = [trouble(dk, state, fault=fault, place=place) for dk, (state, fault, place) in look.items()]
        world.look(troubles)
        for rule in world.rules:
            inside = sorted(dk for each in world.open.values() if each.rule == rule.name for dk in each.members)
            assert inside == sorted(each.dk for each in troubles if each.state in rule.states)
        assert world.look(troubles) == [], "the same again asks for nothing"
    assert world.open == {}
