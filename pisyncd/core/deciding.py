"""What was decided between writes that have not seen each other: which one is shown, why, and what lost.

A pure function of a record's writes, as its view is, so every copy tells the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from pisyncd.core import picking
from pisyncd.core.record import (
    FieldRule,
    RecordId,
    RecordType,
    State,
    Strategy,
    TypeRule,
    Write,
    canonical,
)

Reason = Literal["later", "trusted-clock", "tie", "client", "greatest", "first", "deleted", "undecided", "added"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the writes that a decision was between. `value` None: it deleted the record or removed the field."""

    writer: str
    count: int
    at_ms: int
    trusted: bool
    value: Any


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Which of several writes is shown, and why. `field` is '' for the whole record.

    The same writes with the same winner give the same id on every side, however often they meet.
    """

    id: str
    type: RecordType
    record_id: RecordId
    field: str
    rule: Strategy | FieldRule
    reason: Reason
    winner: Side
    losers: tuple[Side, ...]

    @property
    def open(self) -> bool:
        """Whether a person has to decide."""
        return self.reason == "undecided"


def decisions(record_type: str, record_id: str, state: State, rule: TypeRule) -> list[Decision]:
    """What the view does not show though nobody has overwritten it, register by register."""
    found: list[Decision] = []
    presence = state.registers.get("", ())
    if not rule.by_field:
        if len(presence) > 1:
            winner = picking.WHOLE[rule.strategy](presence)
            _add(found, record_type, record_id, "", rule.strategy, winner, presence)
        return found
    deletion = picking.deletion_first(presence) if presence else None
    for name, writes in state.registers.items():
        kind = rule.rule_of(name)
        if deletion is not None and deletion.value is None:
            # Written beside a deletion that had not seen it.
            rivals = (deletion, *writes)
            _add(found, record_type, record_id, name, "last-write-wins", deletion, rivals, reason="deleted")
        elif name and len(writes) > 1 and kind in picking.SUMMED:
            _add_unsummed(found, record_type, record_id, name, kind, writes)
        elif name and len(writes) > 1:
            _add(found, record_type, record_id, name, kind, picking.PICK[kind](writes), writes)
    return found


def _add_unsummed(
    found: list[Decision], record_type: str, record_id: str, name: str, rule: FieldRule, writes: tuple[Write, ...]
) -> None:
    """What does not go into a union or a sum: a removal beside an addition, or what was written under another rule."""
    summed = [write for write in writes if picking.SUMMED[rule](write.value)]
    others = [write for write in writes if not picking.SUMMED[rule](write.value)]
    if others:
        _add(found, record_type, record_id, name, rule, picking.latest(summed or others), others, reason="added")


def _add(
    found: list[Decision],
    record_type: str,
    record_id: str,
    field: str,
    rule: Strategy | FieldRule,
    winner: Write,
    writes: Iterable[Write],
    reason: Reason | None = None,
) -> None:
    value = canonical(winner.value)
    losers = [write for write in writes if write.dot != winner.dot and canonical(write.value) != value]
    if not losers:
        return
    dots = ",".join(f"{write.writer}:{write.count}" for write in (winner, *losers))
    key = f"{record_type}\0{record_id}\0{field}\0{dots}"
    found.append(
        Decision(
            id="cf_" + hashlib.sha256(key.encode()).hexdigest()[:24],
            type=record_type,
            record_id=record_id,
            field=field,
            rule=rule,
            reason=reason or _reason(rule, winner, losers),
            winner=_side(winner),
            losers=tuple(map(_side, losers)),
        )
    )


def _reason(rule: Strategy | FieldRule, winner: Write, losers: Sequence[Write]) -> Reason:
    if rule == "manual":
        return "undecided"
    if rule == "max":
        return "greatest"
    if rule == "immutable":
        return "first"
    rival = max(losers, key=picking.age)
    if rule == "client-priority" and winner.writer.startswith(picking.CLOUD) != rival.writer.startswith(picking.CLOUD):
        return "client"
    if winner.trusted != rival.trusted:
        return "trusted-clock"
    return "later" if winner.at_ms != rival.at_ms else "tie"


def _side(write: Write) -> Side:
    return Side(writer=write.writer, count=write.count, at_ms=write.at_ms, trusted=write.trusted, value=write.value)
