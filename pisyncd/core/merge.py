"""Reconciles copies of a record: what each side wrote, whichever has seen what, in any order, any number of times.

    join(a, b)       all writes that neither side has seen overwritten; nothing is decided here
    view(state)      what the record says: a pure function of its writes, so equal states show the same everywhere
    decisions(state) which writes the view does not show though nobody has overwritten them, and why

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

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pisyncd.core.problems import Refusal
from pisyncd.core.record import (
    EMPTY,
    FIELDS_BYTES_MAX,
    FIELDS_EVER_MAX,
    FIELDS_MAX,
    JUDGED_TRUSTED,
    NUMBER_MAX,
    TRUSTED,
    UNTRUSTED,
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
Writes = tuple[Write, ...]
CLOUD = "c-"


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


def _age(write: Write) -> tuple[bool, int, str, int]:
    return write.trusted, write.at_ms, write.writer, write.count


def _latest(writes: Iterable[Write]) -> Write:
    return max(writes, key=_age)


def _first(writes: Iterable[Write]) -> Write:
    return min(writes, key=lambda write: (not write.trusted, write.at_ms, write.writer, write.count))


def _client_first(writes: Iterable[Write]) -> Write:
    return max(writes, key=lambda write: (not write.writer.startswith(CLOUD), *_age(write)))


def _greatest(writes: Iterable[Write]) -> Write:
    return max(writes, key=lambda write: (_number(write.value), *_age(write)))


def _number(value: Any) -> tuple[int, float]:
    return (1, value) if isinstance(value, int | float) else (0, 0.0)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _clamped(value: float) -> Any:
    """A sum stays a number that can be kept."""
    return min(max(value, -NUMBER_MAX), NUMBER_MAX)


def _deletion_first(writes: Iterable[Write]) -> Write:
    return max(writes, key=lambda write: (write.value is None, *_age(write)))


_WHOLE: dict[Strategy, Callable[[Iterable[Write]], Write]] = {
    "last-write-wins": _latest,
    "client-priority": _client_first,
    "manual": _latest,
}
_PICK: dict[FieldRule, Callable[[Iterable[Write]], Write]] = {
    "last-write-wins": _latest,
    "max": _greatest,
    "immutable": _first,
}
#: Rules by which all writes are shown together, and which values go into that.
_SUMMED: dict[FieldRule, Callable[[Any], bool]] = {"union": _is_list, "counter": _is_number}


def view(state: State, rule: TypeRule) -> View:
    """What the record says."""
    presence = state.registers.get("", ())
    if not state:
        return View(fields={}, deleted=False, exists=False, conflicted=False)
    if not rule.by_field:
        value = _WHOLE[rule.strategy](presence).value if presence else None
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
    if rule == "counter" and (counts := [write.value for write in writes if _is_number(write.value)]):
        return _clamped(sum(counts))
    if rule == "union" and len(writes) > 1:
        return _union(writes)
    return _PICK.get(rule, _latest)(writes).value


def _union(writes: Sequence[Write]) -> Any:
    elements: dict[bytes, Any] = {}
    lists = [write.value for write in writes if isinstance(write.value, list)]
    for each in lists:
        elements.update((canonical(element), element) for element in each)
    return [elements[key] for key in sorted(elements)] if lists else _latest(writes).value


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
    own, value, before = (each if _is_number(each) else 0 for each in (own, value, before))
    return _clamped(own + value - before)


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


# Explaining


def decisions(record_type: str, record_id: str, state: State, rule: TypeRule) -> list[Decision]:
    """What the view does not show though nobody has overwritten it, register by register."""
    found: list[Decision] = []
    presence = state.registers.get("", ())
    if not rule.by_field:
        if len(presence) > 1:
            winner = _WHOLE[rule.strategy](presence)
            _add(found, record_type, record_id, "", rule.strategy, winner, presence)
        return found
    deletion = _deletion_first(presence) if presence else None
    for name, writes in state.registers.items():
        kind = rule.rule_of(name)
        if deletion is not None and deletion.value is None:
            # Written beside a deletion that had not seen it.
            rivals = (deletion, *writes)
            _add(found, record_type, record_id, name, "last-write-wins", deletion, rivals, reason="deleted")
        elif name and len(writes) > 1 and kind in _SUMMED:
            _add_unsummed(found, record_type, record_id, name, kind, writes)
        elif name and len(writes) > 1:
            _add(found, record_type, record_id, name, kind, _PICK[kind](writes), writes)
    return found


def _add_unsummed(
    found: list[Decision], record_type: str, record_id: str, name: str, rule: FieldRule, writes: Writes
) -> None:
    """What does not go into a union or a sum: a removal beside an addition, or what was written under another rule."""
    summed = [write for write in writes if _SUMMED[rule](write.value)]
    others = [write for write in writes if not _SUMMED[rule](write.value)]
    if others:
        _add(found, record_type, record_id, name, rule, _latest(summed or others), others, reason="added")


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
    rival = max(losers, key=_age)
    if rule == "client-priority" and winner.writer.startswith(CLOUD) != rival.writer.startswith(CLOUD):
        return "client"
    if winner.trusted != rival.trusted:
        return "trusted-clock"
    return "later" if winner.at_ms != rival.at_ms else "tie"


def _side(write: Write) -> Side:
    return Side(writer=write.writer, count=write.count, at_ms=write.at_ms, trusted=write.trusted, value=write.value)


# At the cloud: what a device may say


def admitted(incoming: State, known: State, own: Callable[[str], bool]) -> State:
    """What of a device's copy counts: its own writes, and of others only what is known here already.

    A device learns of others' writes through the cloud alone. Whatever else it claims to have seen would let it erase
    what it never saw. And what was overwritten by a write that does not count is not overwritten: a copied card tells
    of its past before the one that it was copied from.
    """
    version = {
        writer: count if own(writer) else min(count, known.version.get(writer, 0))
        for writer, count in incoming.version.items()
        if own(writer) or writer in known.version
    }
    registers: dict[str, Writes] = {}
    for name, writes in incoming.registers.items():
        current = {write.dot: write for write in known.registers.get(name, ())}
        kept = tuple(current.get(write.dot, write) for write in writes if own(write.writer) or write.dot in current)
        if kept:
            registers[name] = kept
    if any(version.get(writer, 0) < count for writer, count in incoming.version.items()):
        registers = _with_standing(registers, known, own)
    return State(version=version, registers=registers) if version else EMPTY


def _with_standing(registers: Mapping[str, Writes], known: State, own: Callable[[str], bool]) -> dict[str, Writes]:
    """With all that is known and that no new write of its own stands for."""

    def written(writes: Writes) -> bool:
        return any(own(write.writer) and write.count > known.version.get(write.writer, 0) for write in writes)

    found = dict(registers)
    if not written(found.get("", ())):
        for name, current in known.registers.items():
            kept = found.get(name, ())
            if not written(kept):
                writers = {write.writer for write in kept}
                standing = (*kept, *(write for write in current if write.writer not in writers))
                found[name] = tuple(sorted(standing, key=lambda write: write.dot))
    return dict(sorted(found.items()))


def judged(incoming: State, known: State, judge: Callable[[Write], tuple[int, int]]) -> State:
    """Every write that is new here with its time judged: `judge` gives (at_ms, JUDGED_...)."""
    registers: dict[str, Writes] = {}
    for name, writes in incoming.registers.items():
        registers[name] = tuple(
            write if known.version.get(write.writer, 0) >= write.count else _dated(write, *judge(write))
            for write in writes
        )
    return State(version=incoming.version, registers=registers)


def shows_alike(a: State, b: State) -> bool:
    """Whether both hold the same writes and nothing depends on their times: no two beside each other."""
    if a.version != b.version or a.registers.keys() != b.registers.keys():
        return False
    return all(
        len(writes) == 1 and [one.dot for one in a.registers[name]] == [writes[0].dot]
        for name, writes in b.registers.items()
    )


def begun(state: State, own: Callable[[str], bool]) -> State:
    """Fields of a merged record that have lost their beginning, with one by the newest write of `own` among them.

    The beginning was somebody else's write that this side no longer knows (it was set back) and does not take from
    others; without one the record would show as deleted, by nobody.
    """
    writes = [write for each in state.registers.values() for write in each if own(write.writer)]
    if "" in state.registers or not writes:
        return state
    newest = _latest(writes)
    beginning = Write(newest.writer, newest.count, newest.at_ms, newest.clock, True)
    return State(version=state.version, registers={"": (beginning,), **state.registers})


def _dated(write: Write, at_ms: int, clock: int) -> Write:
    return Write(write.writer, write.count, at_ms, clock, write.value)


def reused(incoming: State, known: State) -> set[str]:
    """Writers that gave one number to two different writes: a database that was set back (a restored card)."""
    found: set[str] = set()
    for name, writes in incoming.registers.items():
        values = {write.dot: write.value for write in known.registers.get(name, ())}
        for write in writes:
            if write.dot in values and canonical(values[write.dot]) != canonical(write.value):
                found.add(write.writer)
    return found


def renamed(incoming: State, writer: str) -> State:
    """The same with all writes of `writer` as those of another one, named after them: what a database that was set
    back has written again under used numbers stands beside what it wrote before."""
    own = {name: each for name, writes in incoming.registers.items() for each in writes if each.writer == writer}
    if not own:
        return incoming
    alias = f"{writer.partition('~')[0]}~{hashlib.sha256(canonical(own)).hexdigest()[:8]}"
    registers = {
        name: tuple(
            sorted(
                (
                    Write(alias, each.count, each.at_ms, each.clock, each.value) if each.writer == writer else each
                    for each in writes
                ),
                key=lambda write: write.dot,
            )
        )
        for name, writes in incoming.registers.items()
    }
    version = {name: count for name, count in incoming.version.items() if name != writer}
    version[alias] = incoming.version[writer]
    return State(version=dict(sorted(version.items())), registers=registers)


def split(state: State, writer: str, first: int, alias: str) -> State:
    """The same with what `writer` wrote from the count `first` on as another one's: at the device, when another copy of
    its database has used those numbers. Counts stay."""
    registers = {
        name: tuple(
            sorted(
                (
                    msgspec.structs.replace(each, writer=alias)
                    if each.writer == writer and each.count >= first
                    else each
                    for each in writes
                ),
                key=lambda write: write.dot,
            )
        )
        for name, writes in state.registers.items()
    }
    version = {**state.version, writer: first - 1, alias: state.version[writer]}
    return State(version=dict(sorted((name, count) for name, count in version.items() if count)), registers=registers)


def alias_of(writer: str, of: str) -> str:
    """Another name of a writer, the same for the same `of`: 'd-5f0c' -> 'd-5f0c~1a2b3c4d'."""
    return f"{writer.partition('~')[0]}~{hashlib.sha256(of.encode()).hexdigest()[:8]}"
