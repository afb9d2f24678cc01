"""Every write that was ever accepted, and what has become of it: shown, overwritten by who had seen it, or named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pisyncd.core import merge, record
from pisyncd.core.deciding import Decision
from pisyncd.core.record import State, TypeRule, Write

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Mark:
    """One register of one write. `writer` without what a set back database is called afterwards."""

    key: Key
    register: str
    writer: str
    count: int
    value: bytes


def mark(key: Key, register: str, write: Write) -> Mark:
    """What names a write even when its numbers were used twice."""
    return Mark(key, register, write.writer.partition("~")[0], write.count, record.canonical(write.value))


def marks(key: Key, state: State) -> set[Mark]:
    """All that stand in a state."""
    return {mark(key, name, write) for name, writes in state.registers.items() for write in writes}


@dataclass(kw_only=True, slots=True)
class Act:
    """One accepted write: what it says, and what it overwrote. `lost`: gone with the card before it was delivered."""

    who: str
    key: Key
    says: set[Mark]
    over: set[Mark]
    counted: float = 0
    lost: bool = False
    number: int = 0


@dataclass(kw_only=True)
class Account:
    """wrote, and at the end unaccounted."""

    rules: Mapping[str, TypeRule]
    acts: list[Act] = field(default_factory=list)

    def wrote(self, who: str, key: Key, before: State, after: State) -> Act | None:
        """Who has changed its copy from one state to the next by one write; None when it has not."""
        was, now = marks(key, before), marks(key, after)
        if was == now:
            return None
        act = Act(who=who, key=key, says=now - was, over=was - now, number=len(self.acts))
        act.counted = self._count(key, after) - self._count(key, before)
        self.acts.append(act)
        return act

    def _count(self, key: Key, state: State) -> float:
        return float(merge.view(state, self.rules[key[0]]).fields.get("attempts", 0) or 0)

    def unaccounted(self, final: Mapping[Key, State], told: Iterable[Decision]) -> list[tuple[Act, Mark]]:
        """The writes that have vanished without a trace."""
        named = {
            ((each.type, each.record_id), each.field, side.writer.partition("~")[0], side.count)
            for each in told
            for side in each.losers
        }
        overwritten = {one for act in self.acts if not act.lost for one in act.over}
        visible = {key: shown_marks(key, state, self.rules[key[0]]) for key, state in final.items()}
        missing: list[tuple[Act, Mark]] = []
        for act in self.acts:
            for one in act.says:
                gone = act.lost or one in overwritten or one in visible.get(act.key, set())
                if not gone and (one.key, one.register, one.writer, one.count) not in named:
                    missing.append((act, one))
        return missing


def shown_marks(key: Key, state: State, rule: TypeRule) -> set[Mark]:
    """The writes whose values a record shows."""
    view, found = merge.view(state, rule), set()
    for name, writes in state.registers.items():
        for write in writes:
            if _shows(view, rule, name, write):
                found.add(mark(key, name, write))
    return found


def _shows(view: merge.View, rule: TypeRule, name: str, write: Write) -> bool:
    if name == "":
        same = rule.by_field or record.canonical(view.fields) == record.canonical(write.value or {})
        return view.deleted is (write.value is None) and same
    if view.deleted:
        return write.value is None  # removed from a record that is gone
    shown, kind = view.fields.get(name), rule.rule_of(name)
    if kind == "union" and isinstance(write.value, list) and isinstance(shown, list):
        return all(element in shown for element in write.value)
    return kind == "counter" or record.canonical(shown) == record.canonical(write.value)
