"""Reconciles copies of a record: what each side wrote, whichever has seen what, in any order, any number of times.

    join(a, b)       all writes that neither side has seen overwritten; nothing is decided here
    view(state)      what the record says: a pure function of its writes, so equal states show the same everywhere

What the view does not show though nobody has overwritten it tells pisyncd.core.deciding.

`join` is idempotent, commutative and associative: per register a write stays when both have it, or when the other side
has not seen it; versions meet at their greatest counts. This is the join of an optimised dotted version vector set
(Almeida et al., "Scalable and Accurate Causality Tracking for Eventually Consistent Stores", 2014). So the strategy of
a type is part of the view and never of the state, and a copy that was merged by three others in three orders is the
same. When one side has seen all that the other has, it simply replaces it: a fast-forward.

    strategy          shown of writes that have not seen each other
    last-write-wins   the latest by corrected time; a trusted time before any other; ties by writer
    client-priority   a device's before the cloud's, then as above
    manual            as last-write-wins until a person decides; the decision stays open
    merge             each field by its own rule:
      last-write-wins   as above
      max               the greatest number (true is greater than false)
      union             all elements of all lists
      counter           the sum of each writer's own count
      immutable         the first, where it was set more than once
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pisyncd.core import picking
from pisyncd.core.problems import Refusal
from pisyncd.core.record import (
    FIELDS_BYTES_MAX,
    FIELDS_EVER_MAX,
    FIELDS_MAX,
    JUDGED_TRUSTED,
    TRUSTED,
    UNTRUSTED,
    FieldRule,
    State,
    TypeRule,
    Write,
    canonical,
)

Writes = tuple[Write, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a record says. `exists` is False for what was never written; a deleted one exists, without fields."""

    fields: Mapping[str, Any]
    deleted: bool
    exists: bool
    conflicted: bool

    @property
    def present(self) -> bool:
        """There, and not deleted."""
        return self.exists and not self.deleted


def seen(version: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether `version` has seen all that `other` has."""
    return all(version.get(writer, 0) >= count for writer, count in other.items())


def join(a: State, b: State) -> State:
    """Both copies in one."""
    if not b:
        return a
    if not a:
        return b
    version = {
        writer: max(a.version.get(writer, 0), b.version.get(writer, 0)) for writer in sorted({*a.version, *b.version})
    }
    registers: dict[str, Writes] = {}
    for name in sorted({*a.registers, *b.registers}):
        writes = _join_register(a.registers.get(name, ()), a.version, b.registers.get(name, ()), b.version)
        if writes:
            registers[name] = writes
    return State(version=version, registers=registers)


def _join_register(
    mine: Writes, my_version: Mapping[str, int], theirs: Writes, their_version: Mapping[str, int]
) -> Writes:
    ours = {write.dot: write for write in mine}
    others = {write.dot: write for write in theirs}
    kept: list[Write] = []
    for dot in sorted({*ours, *others}):
        left, right = ours.get(dot), others.get(dot)
        if left is not None and right is not None:
            # never by ==: it takes 1, 1.0 and True for the same, and which of them is kept would depend on the order
            kept.append(left if left is right else max(left, right, key=_authority))
        elif left is not None and their_version.get(dot[0], 0) < dot[1]:
            kept.append(left)
        elif right is not None and my_version.get(dot[0], 0) < dot[1]:
            kept.append(right)
    return tuple(kept)


def _authority(write: Write) -> tuple[int, int, bytes]:
    """Of two accounts of the same write: the cloud's judgement of its time stands above the device's own."""
    return write.clock, write.at_ms, canonical(write.value)


def view(state: State, rule: TypeRule) -> View:
    """What the record says."""
    presence = state.registers.get("", ())
    if not state:
        return View(fields={}, deleted=False, exists=False, conflicted=False)
    if not rule.by_field:
        value = picking.WHOLE[rule.strategy](presence).value if presence else None
        fields = value if isinstance(value, dict) else {}
        undecided = rule.strategy == "manual" and len(_distinct(presence)) > 1
        return View(fields=fields, deleted=not isinstance(value, dict), exists=True, conflicted=undecided)
    if not presence or any(write.value is None for write in presence):
        return View(fields={}, deleted=True, exists=True, conflicted=False)
    fields = {
        name: value
        for name, writes in state.registers.items()
        if name and (value := shown(writes, rule.rule_of(name))) is not None
    }
    return View(fields=fields, deleted=False, exists=True, conflicted=False)


def shown(writes: Sequence[Write], rule: FieldRule) -> Any:
    """The value of one field; None when it has none."""
    if rule == "counter" and (counts := [write.value for write in writes if picking.is_number(write.value)]):
        return picking.clamped(sum(counts))
    if rule == "union" and len(writes) > 1:
        return _union(writes)
    return picking.PICK.get(rule, picking.latest)(writes).value


def _union(writes: Sequence[Write]) -> Any:
    elements: dict[bytes, Any] = {}
    lists = [write.value for write in writes if isinstance(write.value, list)]
    for each in lists:
        elements.update((canonical(element), element) for element in each)
    return [elements[key] for key in sorted(elements)] if lists else picking.latest(writes).value


def _distinct(writes: Iterable[Write]) -> set[bytes]:
    return {canonical(write.value) for write in writes}


# Writing


@dataclass(frozen=True, kw_only=True, slots=True)
class Pen:
    """Who writes, and when by which clock."""

    writer: str
    at_ms: int
    clock: int

    @classmethod
    def of_device(cls, writer: str, wall_ms: int, *, trusted: bool) -> Pen:
        """A device's; the cloud will judge its time."""
        return cls(writer=writer, at_ms=wall_ms, clock=TRUSTED if trusted else UNTRUSTED)

    @classmethod
    def of_cloud(cls, writer: str, wall_ms: int) -> Pen:
        """The cloud's own; its time is right by definition."""
        return cls(writer=writer, at_ms=wall_ms, clock=JUDGED_TRUSTED)


def put(state: State, rule: TypeRule, fields: Mapping[str, Any], pen: Pen, *, decided: bool = False) -> State:
    """All fields anew: those not given are removed, but for counters and immutable ones. The same state when that
    changes nothing.

    `decided`: a person has seen all sides, so all of them are overwritten. Raises Refusal 413, 422 field-immutable.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    now = view(state, rule)
    if not rule.by_field:
        settled = len(state.registers.get("", ())) <= 1 or not (decided or now.conflicted)
        if now.present and settled and canonical(now.fields) == canonical(given):
            return state
        return _bounded(state, now, _overwritten(state, pen, {"": given}, keep_others=False), rule)
    lasting = ("counter", "immutable")
    removed = {name: None for name in now.fields if name not in given and rule.rule_of(name) not in lasting}
    return _bounded(state, now, _by_field(state, rule, {**given, **removed}, pen, now, decided=decided), rule)


def patch(state: State, rule: TypeRule, fields: Mapping[str, Any], pen: Pen, *, decided: bool = False) -> State:
    """Some fields anew; None removes one (RFC 7396 for the first level). Raises Refusal 413, 422 field-immutable."""
    now = view(state, rule)
    if not rule.by_field:
        merged = {name: value for name, value in {**now.fields, **fields}.items() if value is not None}
        return put(state, rule, merged, pen, decided=decided)
    return _bounded(state, now, _by_field(state, rule, fields, pen, now, decided=decided), rule)


def _bounded(before: State, now: View, after: State, rule: TypeRule) -> State:
    """One write after another must not make what the other side would not take any more.

    What two sides made together may be larger, and can always be made smaller.
    """
    if after is before:
        return after
    if len(after.registers) > len(before.registers) > FIELDS_EVER_MAX:
        raise Refusal(
            422, "too-many-fields", "the record has had too many fields", hint="DELETE it, then PUT what it has now"
        )
    fields = view(after, rule).fields
    if len(fields) > max(FIELDS_MAX, len(now.fields)):
        raise Refusal(422, "too-many-fields", f"a record has at most {FIELDS_MAX} fields", hint="remove some with null")
    size = len(canonical(fields))
    if size > FIELDS_BYTES_MAX and size > len(canonical(now.fields)):
        raise Refusal(413, "record-too-large", f"the fields of a record have at most {FIELDS_BYTES_MAX} bytes")
    return after


def delete(state: State, rule: TypeRule, pen: Pen) -> State:
    """The record as deleted, with nothing left of its fields; the same state when it is deleted already.

    Deleting what is shown as deleted decides, when a person has still to decide between that and something else.
    """
    now = view(state, rule)
    return _overwritten(state, pen, {"": None}, keep_others=False) if now.present or now.conflicted else state


def _by_field(state: State, rule: TypeRule, fields: Mapping[str, Any], pen: Pen, now: View, *, decided: bool) -> State:
    if not now.present:
        # A new beginning: what a deletion left hidden does not come back.
        written = {name: value for name, value in fields.items() if value is not None}
        return _overwritten(state, pen, {"": True, **written}, keep_others=False)
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        before = now.fields.get(name)
        same = canonical(before) == canonical(value)
        kind = rule.rule_of(name)
        if same and not (decided and len(state.registers.get(name, ())) > 1 and kind != "counter"):
            continue
        if kind == "immutable" and before is not None and not decided:
            raise _immutable(name)
        changed[name] = _own_count(state, name, before, value, pen) if kind == "counter" else value
    if not changed:
        return state
    counters = frozenset(name for name in changed if rule.rule_of(name) == "counter")
    return _overwritten(state, pen, changed, keep_others=True, counters=counters)


def _own_count(state: State, name: str, before: Any, value: Any, pen: Pen) -> Any:
    """What this writer's own count has to be for the sum to become `value`."""
    own = next((write.value for write in state.registers.get(name, ()) if write.writer == pen.writer), 0)
    own, value, before = (each if picking.is_number(each) else 0 for each in (own, value, before))
    return picking.clamped(own + value - before)


def _immutable(name: str) -> Refusal:
    return Refusal(
        422,
        "field-immutable",
        f"{name} is set once and for all",
        hint="leave it out or send the value that it has; an operator can change it by resolving a conflict",
    )


def _overwritten(
    state: State,
    pen: Pen,
    values: Mapping[str, Any],
    *,
    keep_others: bool,
    counters: frozenset[str] = frozenset(),
) -> State:
    """One more write of the pen's, over all of each named register that has been seen.

    Of a counter only the writer's own count is overwritten: the others' stand.
    """
    count = state.version.get(pen.writer, 0) + 1
    registers = dict(state.registers) if keep_others else {}
    for name, value in values.items():
        write = Write(pen.writer, count, pen.at_ms, pen.clock, value)
        others = (one for one in registers.get(name, ()) if one.writer != pen.writer) if name in counters else ()
        registers[name] = tuple(sorted((*others, write), key=lambda one: one.dot))
    version = dict(sorted({**state.version, pen.writer: count}.items()))
    return State(version=version, registers=dict(sorted(registers.items())))
