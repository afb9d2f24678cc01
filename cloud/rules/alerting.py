"""Which troubles become incidents, which of them belong together, and when they are over. Pure; see docs/operators.md.

Per rule a device is in at most one open incident, from the moment it matches until it matches no more, whatever its
state is in between: once per streak. Many at once are one incident:

* devices of one region (else site) that are overdue: a region that goes quiet is one message, not a thousand
* devices that fail by the same error: "212 devices: card full"

as soon as there are `together_min` of them, and of a group `together_percent` of its devices. It takes in single
incidents and later comers without a word, and is over when fewer than a third of its devices are left in it, and too
few for a common incident; those go on as incidents of their own, without being told again.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cloud.rules.standing import StateName

Kind = Literal["device", "group", "fault"]
#: What is left of a common incident when it ends.
REST = 3


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A row of alert_rule. Empty lists match everything; `faults` are error codes, 'card-*' too."""

    name: str
    states: tuple[str, ...]
    groups: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    wait_ms: int = 0
    escalate_after_ms: int | None = None
    escalate_to: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """A device in a state that some rule is about. `place`: its region, else its site, else ''."""

    dk: int
    device_id: str
    state: StateName
    since_ms: int
    fault: str = ""
    place: str = ""
    groups: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """An open incident and the devices that are in it now; `devices`: how many it has been about in all."""

    id: int
    rule: str
    kind: Kind
    subject: str
    cause: str
    members: frozenset[int]
    devices: int
    escalate_at_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Open:
    """A new incident. `quietly`: what it is about has been told already."""

    rule: Rule
    kind: Kind
    subject: str
    cause: StateName
    fault: str
    members: tuple[int, ...]
    quietly: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """Devices that join and leave an open incident."""

    incident: Incident
    joins: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Close:
    """An incident is over. `quietly`: nobody recovered, it is part of another one, or was taken out by hand."""

    incident: Incident
    quietly: bool


@dataclass(frozen=True, kw_only=True)
class Escalate:
    """Nobody has taken it on in time."""

    incident: Incident
    rule: Rule


Action = Open | Change | Close | Escalate


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that a plan is made of. `hushed`: devices that are muted or retired; `sizes`: devices per place."""

    rules: Sequence[Rule]
    troubles: Sequence[Trouble]
    incidents: Sequence[Incident]
    sizes: Mapping[str, int] = field(default_factory=dict)
    hushed: frozenset[int] = frozenset()
    now_ms: int
    together_min: int = 5
    together_percent: float = 20.0


def matches(rule: Rule, trouble: Trouble, now_ms: int) -> bool:
    """Whether a rule is about this device, now."""
    return (
        trouble.state in rule.states
        and trouble.since_ms + rule.wait_ms <= now_ms
        and (not rule.groups or not rule.groups.isdisjoint(trouble.groups))
        and (not rule.tags or not rule.tags.isdisjoint(trouble.tags))
        and (not rule.faults or any(fnmatch.fnmatchcase(trouble.fault, each) for each in rule.faults))
    )


def next_due_ms(
    rules: Iterable[Rule], troubles: Iterable[Trouble], incidents: Iterable[Incident], now_ms: int
) -> int | None:
    """When time alone changes the plan: a state has lasted long enough, or nobody has taken an incident on."""
    waits = (trouble.since_ms + rule.wait_ms for rule in rules for trouble in troubles if trouble.state in rule.states)
    escalations = (each.escalate_at_ms for each in incidents if each.escalate_at_ms is not None)
    return min((due for due in (*waits, *escalations) if due > now_ms), default=None)


def plan(situation: Situation) -> list[Action]:
    """What is to be done, rule by rule."""
    by_rule: dict[str, list[Incident]] = {}
    for incident in situation.incidents:
        by_rule.setdefault(incident.rule, []).append(incident)
    actions: list[Action] = []
    for rule in situation.rules:
        actions += _Planner(situation, rule, by_rule.pop(rule.name, [])).plan()
    # Incidents of a rule that is no more.
    actions += [Close(incident=each, quietly=True) for left in by_rule.values() for each in left]
    return actions


class _Planner:
    """One rule."""

    def __init__(self, situation: Situation, rule: Rule, incidents: Sequence[Incident]) -> None:
        self._now = situation
        self._rule = rule
        self._common = {(each.kind, each.subject): each for each in incidents if each.kind != "device"}
        self._single = {dk: each for each in incidents if each.kind == "device" for dk in each.members}
        self._stray = [each for each in incidents if each.kind == "device" and not each.members]
        self._matched = {each.dk: each for each in situation.troubles if matches(rule, each, situation.now_ms)}
        #: Who was in a common incident that ends now.
        self._released: set[int] = set()
        self._actions: list[Action] = [Close(incident=each, quietly=True) for each in self._stray]

    def plan(self) -> list[Action]:
        held = self._common_incidents()
        for dk, incident in self._single.items():
            if dk in held:
                self._actions.append(Close(incident=incident, quietly=True))
            elif dk not in self._matched:
                self._actions.append(Close(incident=incident, quietly=dk in self._now.hushed))
            elif self._is_late(incident):
                self._actions.append(Escalate(incident=incident, rule=self._rule))
        for dk, trouble in self._matched.items():
            if dk not in held and dk not in self._single:
                self._actions.append(self._open_single(trouble, quietly=dk in self._released))
        return self._actions

    def _common_incidents(self) -> set[int]:
        """Decides what is common; the devices that are in a common incident then."""
        inside = {dk for each in self._common.values() for dk in each.members if dk in self._matched}
        keyed: dict[tuple[Kind, str], list[int]] = {}
        for trouble in self._matched.values():
            # Who is in a common incident stays there, also when it fails by another error now.
            if trouble.dk not in inside and (key := _key(trouble)) is not None:
                keyed.setdefault(key, []).append(trouble.dk)
        ending = {key for key, each in self._common.items() if self._ends(key, each, len(keyed.get(key, ())))}
        for key in ending:
            incident = self._common[key]
            quietly = bool(incident.members) and incident.members <= self._now.hushed
            self._actions.append(Close(incident=incident, quietly=quietly))
            self._released |= {dk for dk in incident.members if dk in self._matched}
        for dk in self._released:
            if (key := _key(self._matched[dk])) is not None:
                keyed.setdefault(key, []).append(dk)
        held: set[int] = set()
        for key, incident in self._common.items():
            if key not in ending:
                held |= self._carry_on(incident, keyed.pop(key, []))
        for key, members in keyed.items():
            if len(members) >= self._needed(key):
                held |= set(members)
                self._actions.append(self._open_common(key, [self._matched[dk] for dk in members]))
        return held

    def _ends(self, key: tuple[Kind, str], incident: Incident, joining: int) -> bool:
        """Few are left of it, and too few for a common incident."""
        left = sum(dk in self._matched for dk in incident.members) + joining
        return not left or (left * REST < incident.devices + joining and left < self._needed(key))

    def _carry_on(self, incident: Incident, joins: Sequence[int]) -> set[int]:
        stays = {dk for dk in incident.members if dk in self._matched}
        leaves = tuple(sorted(incident.members - stays))
        if joins or leaves:
            self._actions.append(Change(incident=incident, joins=tuple(joins), leaves=leaves))
        if self._is_late(incident):
            self._actions.append(Escalate(incident=incident, rule=self._rule))
        return stays | set(joins)

    def _needed(self, key: tuple[Kind, str]) -> float:
        share = self._now.sizes.get(key[1], 0) * self._now.together_percent / 100 if key[0] == "group" else 0
        return max(self._now.together_min, share)

    def _is_late(self, incident: Incident) -> bool:
        return incident.escalate_at_ms is not None and incident.escalate_at_ms <= self._now.now_ms

    def _open_single(self, trouble: Trouble, *, quietly: bool) -> Open:
        return Open(
            rule=self._rule,
            kind="device",
            subject=trouble.device_id,
            cause=trouble.state,
            fault=trouble.fault,
            members=(trouble.dk,),
            quietly=quietly,
        )

    def _open_common(self, key: tuple[Kind, str], troubles: Sequence[Trouble]) -> Open:
        return Open(
            rule=self._rule,
            kind=key[0],
            subject=key[1],
            cause=troubles[0].state,
            fault=key[1] if key[0] == "fault" else "",
            members=tuple(sorted(each.dk for each in troubles)),
        )


def _key(trouble: Trouble) -> tuple[Kind, str] | None:
    """What a trouble may have in common with others."""
    if trouble.state == "overdue" and trouble.place:
        return "group", trouble.place
    if trouble.state == "failing" and trouble.fault:
        return "fault", trouble.fault
    return None
