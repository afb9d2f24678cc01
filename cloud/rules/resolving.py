"""Which edit of a record a person's choice between writes is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pisyncd.core import merge, problems
from pisyncd.core.deciding import Decision, Side
from pisyncd.core.record import State, TypeRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """One of the sides: the winner, or the loser number `index`."""

    side: Literal["winner", "loser"]
    index: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Become:
    """What the record is to become: `fields` None deletes it; `whole`: all of them, else only those named."""

    fields: Mapping[str, Any] | None
    whole: bool = False


def given(rule: TypeRule, fields: Mapping[str, Any]) -> Become:
    """Fields that a person has merged."""
    return Become(fields=fields, whole=not rule.by_field)


def picked(decision: Decision, rule: TypeRule, state: State, pick: Pick) -> Become:
    """A side as it was. `state` is the record as it is now. Raises Refusal 422 for a side that is not there."""
    side = _side(decision, pick)
    if not rule.by_field:
        return Become(fields=side.value if isinstance(side.value, dict) else None, whole=True)
    now = merge.view(state, rule)
    if decision.field == "":
        return Become(fields=None if side.value is None else _hidden(state, rule), whole=True)
    if side.value is None and (not now.present or (decision.reason == "deleted" and pick.side == "winner")):
        return Become(fields=None)
    if decision.rule == "union" and pick.side == "winner":
        # The winner stands for all lists that were joined.
        return Become(fields={decision.field: now.fields.get(decision.field, side.value)})
    return Become(fields={decision.field: side.value})


def _side(decision: Decision, pick: Pick) -> Side:
    if pick.side == "winner":
        return decision.winner
    count = len(decision.losers)
    index = 0 if pick.index is None and count == 1 else pick.index
    if index is None or index >= count:
        raise problems.invalid("/index", "range", f"there are {count} losing sides, counted from 0")
    return decision.losers[index]


def _hidden(state: State, rule: TypeRule) -> dict[str, Any]:
    """The fields that a record has, or that a deletion hides."""
    fields = {name: merge.shown(writes, rule.rule_of(name)) for name, writes in state.registers.items() if name}
    return {name: value for name, value in fields.items() if value is not None}
