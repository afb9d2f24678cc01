"""What a device may say about records, and which time what it wrote has. pisyncd.core.merge joins it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cloud.rules.facts import RecordPush, Stamp
from pisyncd.core import admitting, explain, merge, record, recordwire, timeline, wire
from pisyncd.core.deciding import Decision
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import EMPTY, JUDGED_TRUSTED, JUDGED_UNTRUSTED, NUMBER_MAX, State, TypeRule, Write

#: How wide the bounds of a boot may be for it to tell the time of a write.
BOUNDS_MS = 240_000
#: How far in the future a trusted clock may seem to be.
FUTURE_MS = 120_000
#: By how many names one device may have written in a record: one that makes up names shuts nobody else out.
WRITERS_EACH_MAX = 64
#: What devices and users leave free for the cloud, so that a full record can still be put right.
WRITERS_ROOM = 16


#: Codes that are told as they are; all others mean that the item is invalid.
_TOLD = frozenset({"personal-data", "record-too-large", "field-immutable"})

Key = tuple[str, str]
Scope = tuple[str, str]
Moment = tuple[int, int]


def user_writer(actor: str) -> str:
    """The writer in which the cloud writes for a device's application or a user: 'u-' and 16 hex digits."""
    return "u-" + hashlib.sha256(actor.encode()).hexdigest()[:16]


def claimable(writer: str) -> bool:
    """Whether a device may be this writer: the cloud's own, and those it writes in for others, are nobody else's."""
    return writer.startswith("d-")


def pushed(data: bytes, rules: record.Rules) -> RecordPush:
    """The record in the data of a device's item; `taken_in` looks at what is new in it.

    Raises Refusal 400, 404, 413, 422.
    """
    asked = recordwire.decode_pushed(data)
    rule = rules.get(asked.type)
    if rule is None:
        raise recordwire.type_unknown(asked.type, rules)
    state = record.checked_state(bytes(asked.state))
    record.check_form(rule, state)
    return RecordPush(type=asked.type, id=asked.id, state=state)


def check_plain(plain: recordwire.Plain, rules: record.Rules) -> None:
    """Plain fields, before anything is known of their record. Raises Refusal 404, 413, 422."""
    rule = rules.get(plain.type)
    if rule is None:
        raise recordwire.type_unknown(plain.type, rules)
    if not plain.deleted:
        pointer = "/itemData"
        record.check_fields(rule, {n: value for n, value in plain.fields.items() if value is not None}, pointer=pointer)


def fits(state: State) -> bool:
    """Whether what has become of a record can still travel."""
    if len(state.version) > record.WRITERS_MAX or len(state.registers) > record.REGISTERS_MAX:
        return False
    return len(record.canonical(state)) <= record.STATE_BYTES_MAX


def crowded(state: State, known: State) -> bool:
    """Whether a device or user brings a writer to a record that has room for the cloud's alone."""
    return len(known.version) < len(state.version) > record.WRITERS_MAX - WRITERS_ROOM


def check_size(state: State, known: State | None = None) -> None:
    """`known`: how the record was, when it was not the cloud itself that wrote. Raises Refusal 413."""
    if not fits(state) or (known is not None and crowded(state, known)):
        raise Refusal(
            413,
            "record-too-large",
            f"a record with its versions has at most {record.STATE_BYTES_MAX} bytes and {record.WRITERS_MAX} writers",
            hint="split it into several records",
        )


# Times


def moment_of(stamp: Stamp, offset: timeline.Bounds | None, received_ms: int) -> Moment:
    """(wall milliseconds, JUDGED_...) of what has this stamp; `offset` is what is known of its boot."""
    corrected = _corrected(stamp, offset)
    if corrected is not None:
        return min(corrected, received_ms), JUDGED_TRUSTED
    if stamp.wall_ms is None:
        return received_ms, JUDGED_UNTRUSTED
    return _own_word(stamp.wall_ms, bool(stamp.trusted), received_ms)


def _corrected(stamp: Stamp, offset: timeline.Bounds | None) -> int | None:
    if offset is None or stamp.boottime_ms is None or offset.low_ms is None or offset.high_ms is None:
        return None
    if not 0 <= offset.high_ms - offset.low_ms <= BOUNDS_MS:
        return None
    low_ms, high_ms = offset.low_ms + stamp.boottime_ms, offset.high_ms + stamp.boottime_ms
    # The first batch of a boot leaves two minutes open: the middle would set a right clock back by one.
    if stamp.trusted and stamp.wall_ms is not None and low_ms <= stamp.wall_ms <= high_ms:
        return stamp.wall_ms
    return (low_ms + high_ms) // 2


def _own_word(at_ms: int, trusted: bool, received_ms: int) -> Moment:
    if trusted and at_ms <= received_ms + FUTURE_MS:
        return at_ms, JUDGED_TRUSTED
    return min(at_ms, received_ms), JUDGED_UNTRUSTED


def judge(state: State, stamp: Stamp, offset: timeline.Bounds | None, received_ms: int) -> Callable[[Write], Moment]:
    """Gives each new write of a pushed state its time: the item's stamp is that of the newest one of its writer."""

    def judged(write: Write) -> Moment:
        if write.count == state.version.get(write.writer):
            corrected = _corrected(stamp, offset)
            if corrected is not None:
                return min(corrected, received_ms), JUDGED_TRUSTED
        return _own_word(write.at_ms, bool(write.clock & 1), received_ms)

    return judged


# What a device pushes


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Why an item is not taken."""

    code: str
    detail: str


def taken_in(
    push: RecordPush,
    rule: TypeRule,
    known: State,
    own: Callable[[str], bool],
    judge: Callable[[State], Callable[[Write], Moment]],
) -> tuple[State, set[str]] | Refused:
    """(the record with what the device said of it, the writers that the device has become), or why not.

    `own`: whether a writer is the device's or may become it.
    """
    told = push.state
    reused = {writer for writer in admitting.reused(told, known) if own(writer)}
    for writer in sorted(reused):
        told = admitting.renamed(_only_new(told, known, writer), writer)
    incoming = admitting.admitted(told, known, own)
    news = {writer for writer, count in incoming.version.items() if known.version.get(writer, 0) < count}
    if not news and not merge.seen(known.version, told.version):
        return Refused(code="ownership-mismatch", detail="what is new in it was written by another device")
    try:
        _check_news(rule, incoming, known)
    except Refusal as refusal:
        return refused(refusal)
    joined = merge.join(known, admitting.judged(incoming, known, judge(incoming)))
    if rule.by_field:
        joined = admitting.begun(joined, own)
    grown = len(joined.version) > len(known.version)
    if not fits(joined) or crowded(joined, known) or (grown and sum(map(own, joined.version)) > WRITERS_EACH_MAX):
        return Refused(code="record-too-large", detail="with what is here already the record is too large")
    return joined, news


def _check_news(rule: TypeRule, incoming: State, known: State) -> None:
    """Looks at the values that are new here. Raises Refusal 413, 422."""
    for name, writes in incoming.registers.items():
        for write in writes:
            if known.version.get(write.writer, 0) >= write.count:
                continue
            if name:
                record.check_fields(rule, {name: write.value})
            elif isinstance(write.value, dict):
                record.check_fields(rule, write.value)


def _code(refusal: Refusal) -> str:
    return refusal.code if refusal.code in _TOLD else "item-invalid"


def _told(refusal: Refusal) -> str:
    return "; ".join(f"{error.pointer}: {error.detail}" for error in refusal.errors) or refusal.detail


def refused(refusal: Refusal) -> Refused:
    """What a Refusal says, for the outcome of an item."""
    return Refused(code=_code(refusal), detail=_told(refusal)[:1000].replace("\0", ""))


def _only_new(told: State, known: State, writer: str) -> State:
    """Of a writer that was set back only what it wrote since, as far as that is sure: the newest, and what differs.

    What it wrote before would be there twice, and a counter would count it twice.
    """
    newest = told.version[writer]
    registers = {}
    for name, writes in told.registers.items():
        values = {each.dot: record.canonical(each.value) for each in known.registers.get(name, ())}
        kept = tuple(
            each
            for each in writes
            if each.writer != writer
            or (each.count == newest and each.dot not in values)
            or (each.dot in values and values[each.dot] != record.canonical(each.value))
        )
        if kept:
            registers[name] = kept
    return State(version=told.version, registers=registers)


def beside(known: State, rule: TypeRule, plain: recordwire.Plain, writer: str, moment: Moment) -> State:
    """The record with plain data beside what its sender had not seen. Raises Refusal 422 field-immutable."""
    pen = Pen(writer=writer, at_ms=moment[0], clock=moment[1])
    seen = _seen(known, {**(plain.base or {}), writer: NUMBER_MAX})
    if not plain.deleted:
        written = merge.patch(seen, rule, plain.fields, pen)
    elif not merge.view(known, rule).present:
        return known
    elif merge.view(seen, rule).present:
        written = merge.delete(seen, rule, pen)
    else:
        # A deletion of what was not seen stands beside it; a write of nothing gives it something to delete.
        written = merge.delete(merge.put(seen, rule, {}, pen), rule, pen)
    return known if written is seen else merge.join(known, written)


def _seen(known: State, base: Mapping[str, int]) -> State:
    """What of a record who had seen `base` of it has seen."""
    version = {writer: min(count, base[writer]) for writer, count in known.version.items() if base.get(writer, 0) > 0}
    registers = {
        name: kept
        for name, writes in known.registers.items()
        if (kept := tuple(write for write in writes if version.get(write.writer, 0) >= write.count))
    }
    return State(version=version, registers=registers) if version else EMPTY


# What comes of it


def resolution(
    news: Collection[Decision], own: Callable[[str], bool], names: Mapping[str, str]
) -> wire.Resolution | None:
    """How the conflicts that one item met ended, told by the first of them that is open, else by the first."""
    if not news:
        return None
    chosen = next((decision for decision in news if decision.open), next(iter(news)))
    winner: Literal["client", "server", "undecided"] = "client" if own(chosen.winner.writer) else "server"
    more = f" And {len(news) - 1} more." if len(news) > 1 else ""
    return wire.Resolution(
        conflictId=chosen.id,
        strategy=chosen.rule,
        winner="undecided" if chosen.open else winner,
        detail=explain.sentence(chosen, names) + more,
    )


def scopes_after(
    before: Mapping[Scope, bool], had: set[Scope], has: set[Scope], added: Iterable[Scope], *, deleted: bool
) -> dict[Scope, bool]:
    """The scopes that change, each with whether it is gone. `had` and `has`: by the fields, before and now.

    A deleted record keeps those that it had, else nobody would hear of the deletion.
    """
    gone = set() if deleted else had - has
    holding = (has if not deleted else set()) | set(added)
    changed = {scope: False for scope in holding if before.get(scope, True)}
    return changed | {scope: True for scope in gone - holding if not before.get(scope, True)}
