"""A record as both ends keep it, and the rules of its type.

A record is a set of *registers*, each a set of *writes* of which none has seen the other; and a *version*, how far it
has seen each writer. For a type that is kept whole there is one register, '', whose value is all fields, or None for a
deleted record. For a type that is merged each field is a register, and '' says whether the record is there (True) or
deleted (None).

    {"version": {"d-5f0c": 3, "c-91aa": 1},
     "registers": {"percent": [["d-5f0c", 3, 1772438405000, 1, 75]], "": [["c-91aa", 1, 1772438400000, 3, true]]}}

A writer is one instance of one database on one board (a copied card is a new writer), or the cloud; it counts its own
writes of each record from 1. (writer, count) names a write for good. See pisyncd.core.merge for what happens to them,
and docs/records.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pisyncd.core import privacy, problems, track
from pisyncd.core.problems import Refusal

_WHOLE = r"$(?!\n)"  # a bare $ would let a trailing newline pass
NUMBER_MAX = 2**53
FIELDS_MAX = 100
FIELDS_EVER_MAX = 200  # removed ones are remembered until the record is deleted
FIELDS_BYTES_MAX = 32 * 1024
#: Of a copy with all that has not been seen by all: more than one copy may write, since none is refused that joins.
STATE_BYTES_MAX = 512 * 1024
REGISTERS_MAX = 1000
WRITERS_MAX = 256
DEPTH_MAX = 8

Writer = Annotated[str, Meta(pattern=r"^[cdu]-[0-9a-f]{4,32}(~[0-9a-f]{8})?" + _WHOLE)]
Count = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
RecordType = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}" + _WHOLE)]
RecordId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:~@-]{0,127}" + _WHOLE)]
FieldName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}" + _WHOLE)]

Strategy = Literal["last-write-wins", "client-priority", "merge", "manual"]
FieldRule = Literal["last-write-wins", "max", "union", "counter", "immutable"]

#: How sure a write's time is. The device says 0 or 1; the cloud judges once, when the write arrives first, and from
#: then on its word stands at both ends.
UNTRUSTED, TRUSTED, JUDGED_UNTRUSTED, JUDGED_TRUSTED = range(4)


class Write(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One write of one register. `at_ms` is wall time, `clock` how sure it is, `value` decoded JSON."""

    writer: Writer
    count: Count
    at_ms: Annotated[int, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)]
    clock: Annotated[int, Meta(ge=UNTRUSTED, le=JUDGED_TRUSTED)]
    value: Any

    @property
    def dot(self) -> tuple[str, int]:
        """What names the write."""
        return self.writer, self.count

    @property
    def trusted(self) -> bool:
        """Whether its time may be compared."""
        return bool(self.clock & 1)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one record. Registers are in the order of their names, writes in that of their dots."""

    version: dict[str, int] = {}
    registers: dict[str, tuple[Write, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.version)


EMPTY = State()


class TypeRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How records of one type are reconciled. Fields that are not named are last-write-wins.

    `personal`: records of persons by their nature; others are refused when they hold something personal.
    """

    strategy: Strategy
    fields: dict[FieldName, FieldRule] = {}
    personal: bool = False

    @property
    def by_field(self) -> bool:
        """Whether each field is a register of its own."""
        return self.strategy == "merge"

    def rule_of(self, field: str) -> FieldRule:
        """The rule of one field of a merged type."""
        return self.fields.get(field, "last-write-wins")


Rules = Mapping[str, TypeRule]

BUILT_IN: dict[str, TypeRule] = {
    "enrollment": TypeRule(strategy="last-write-wins", personal=True),
    "profile": TypeRule(strategy="merge", personal=True, fields={"createdAt": "immutable", "created_at": "immutable"}),
    "progress": TypeRule(
        strategy="merge",
        fields={
            "percent": "max",
            "score": "max",
            "best_score": "max",
            "bestScore": "max",
            "completed": "max",
            "attempts": "counter",
            "time_spent_s": "counter",
            "timeSpent": "counter",
            "completed_lessons": "union",
            "completedLessons": "union",
            "badges": "union",
            "started_at": "immutable",
            "startedAt": "immutable",
        },
    ),
    "assessment": TypeRule(strategy="client-priority"),
}
#: By which names the fields of a record say whom it concerns.
SCOPE_FIELDS: dict[str, tuple[str, ...]] = {
    "site": ("siteId", "site_id", "schoolId", "school_id"),
    "group": ("groupId", "group_id", "classId", "class_id"),
    "user": ("userId", "user_id", "studentId", "student_id", "learnerId", "learner_id"),
}
#: By which names the data of an item names its record.
ID_FIELDS = ("recordId", "progressId", "assessmentId", "enrollmentId", "profileId", "id")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~@-]{0,127}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_encoder = msgspec.json.Encoder(order="deterministic")
_state_decoder = msgspec.json.Decoder(State)


def canonical(value: Any) -> bytes:
    """The same bytes for the same value."""
    return _encoder.encode(value)


def encode(state: State) -> str:
    """A state as JSON, the same text for the same state."""
    return canonical(state).decode()


def decode(text: str | bytes) -> State:
    """What `encode` gave; for what this side has written itself."""
    return _state_decoder.decode(text)


def etag(state: State) -> str:
    """32 hex digits that stand for a version: equal when both have seen the same."""
    return hashlib.sha256(canonical(state.version)).hexdigest()[:32]


def digest(state: State) -> str:
    """The SHA-256 of all of a state, 64 hex digits; for the audit log."""
    return hashlib.sha256(canonical(state)).hexdigest()


def rules_etag(rules: Rules) -> str:
    """32 hex digits that stand for a set of rules."""
    return hashlib.sha256(canonical(dict(rules))).hexdigest()[:32]


def is_record_id(text: str) -> bool:
    """1-128 of A-Z a-z 0-9 . _ : ~ @ -, beginning with a letter or digit."""
    return _ID.fullmatch(text) is not None


def checked_state(raw: bytes) -> State:
    """A state from outside. Raises Refusal 413, 422."""
    if len(raw) > STATE_BYTES_MAX:
        raise Refusal(413, "record-too-large", f"a record with its versions has at most {STATE_BYTES_MAX} bytes")
    try:
        state = _state_decoder.decode(raw)
        writers = msgspec.convert(state.version, dict[Writer, Count])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problems.invalid("/state", "state", f"not the state of a record: {error}"[:300]) from None
    if not writers or len(writers) > WRITERS_MAX or len(state.registers) > REGISTERS_MAX:
        raise problems.invalid(
            "/state", "size", f"a record has 1-{WRITERS_MAX} writers, at most {REGISTERS_MAX} fields"
        )
    registers = {name: _checked_register(name, state.registers[name], writers) for name in sorted(state.registers)}
    return State(version=dict(sorted(writers.items())), registers=registers)


def _checked_register(name: str, writes: tuple[Write, ...], version: Mapping[str, int]) -> tuple[Write, ...]:
    if name and not _FIELD.fullmatch(name):
        raise problems.invalid(f"/registers/{name[:64]}", "name", "the name of a field is not one")
    if not writes or len({write.writer for write in writes}) != len(writes):
        raise problems.invalid(f"/registers/{name}", "writes", "each writer has one write of a register")
    for write in writes:
        if version.get(write.writer, 0) < write.count:
            raise problems.invalid(f"/registers/{name}", "version", "a write is newer than the version")
        # the whole record is one level above its fields
        if fault := value_fault(write.value, DEPTH_MAX + (not name)):
            raise problems.invalid(f"/registers/{name}", "value", fault)
    return tuple(sorted(writes, key=lambda write: write.dot))


def check_form(rule: TypeRule, state: State) -> None:
    """Whether a checked state is one of this type: a type that is kept whole has one register, and so on.

    Else what it holds would never be shown nor explained. Raises Refusal 422.
    """
    presence = state.registers.get("", ())
    if not presence:
        raise problems.invalid("/registers", "form", "the register '' says whether the record is there")
    kept = bool if rule.by_field else dict
    for write in presence:
        if write.value is not None and (not isinstance(write.value, kept) or write.value is False):
            raise problems.invalid("/registers/", "form", "the register '' has another form in this type")
    if not rule.by_field and len(state.registers) > 1:
        raise problems.invalid("/registers", "form", "records of this type are kept whole")


def check_fields(rule: TypeRule, fields: Mapping[str, Any], *, pointer: str = "/fields") -> None:
    """What an application writes. Raises Refusal 413, 422."""
    if len(fields) > FIELDS_MAX:
        raise problems.invalid(pointer, "size", f"a record has at most {FIELDS_MAX} fields")
    for name, value in fields.items():
        if not _FIELD.fullmatch(name):
            raise problems.invalid(
                f"{pointer}/{name[:64]}",
                "name",
                "a field's name has 1-64 of A-Z a-z 0-9 _ . - and begins with a letter",
            )
        if fault := _kind_fault(rule, name, value):
            raise problems.invalid(f"{pointer}/{name}", "field-type", fault)
        if fault := value_fault(value, DEPTH_MAX):
            raise problems.invalid(f"{pointer}/{name}", "value", fault)
    if len(canonical(dict(fields))) > FIELDS_BYTES_MAX:
        raise Refusal(
            413, "record-too-large", f"the fields of a record have at most {FIELDS_BYTES_MAX} bytes", hint="send ids"
        )
    if not rule.personal and (found := privacy.personal(dict(fields))):
        raise track.personal_data(f"{pointer}{found[0]}", found[1])


def _kind_fault(rule: TypeRule, name: str, value: Any) -> str:
    if value is None or not rule.by_field:
        return ""
    kind = rule.rule_of(name)
    if kind == "counter" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a counter is a number"
    if kind == "max" and not isinstance(value, int | float):
        return "what is merged by max is a number, true or false"
    if kind == "union" and not isinstance(value, list):
        return "what is merged by union is a list"
    return ""


def value_fault(value: Any, depth_max: int = DEPTH_MAX) -> str:
    """Why a value cannot be kept, or ''.

    Larger numbers lose digits in JavaScript and do not fit a database; a null character fits no text of PostgreSQL.
    """
    waiting = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > depth_max:
            return f"values are nested at most {DEPTH_MAX} deep"
        if isinstance(node, dict):
            waiting += [(each, depth + 1) for each in node.values()]
            waiting += [(each, depth) for each in node]
        elif isinstance(node, list):
            waiting += [(each, depth + 1) for each in node]
        elif isinstance(node, str):
            if "\0" in node:
                return "text has no null characters"
        elif isinstance(node, int):
            if not -NUMBER_MAX <= node <= NUMBER_MAX:
                return f"whole numbers are from -{NUMBER_MAX} to {NUMBER_MAX}"
        elif isinstance(node, float) and not math.isfinite(node):
            return "numbers are finite"
    return ""


def scopes(record_type: str, record_id: str, fields: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Whom a record concerns by its fields: {('user', '7d44...'), ('group', '4b')}. A profile concerns its own id."""
    found = {("user", record_id)} if record_type == "profile" else set()
    for kind, names in SCOPE_FIELDS.items():
        for name in names:
            value = fields.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and 0 < len(value) <= 128 and "\0" not in value:
                found.add((kind, value))
    return found


def instance_id(*parts: str) -> str:
    """The writer that a database on a board is: 'd-' and 16 hex digits of what makes it one of its kind."""
    return "d-" + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
