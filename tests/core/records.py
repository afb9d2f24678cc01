"""States of records from little, and any state that a stranger could send and have accepted."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pisyncd.core import deciding, merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.problems import Refusal
from pisyncd.core.record import EMPTY, State, TypeRule, Write

A, B, C, CLOUD = "d-000a", "d-000b", "d-000c", "c-0001"
WHOLE = TypeRule(strategy="last-write-wins", personal=True)
CLIENT = TypeRule(strategy="client-priority", personal=True)
MANUAL = TypeRule(strategy="manual", personal=True)
FIELDS = {"percent": "max", "badges": "union", "attempts": "counter", "born": "immutable"}
MERGED = TypeRule(strategy="merge", personal=True, fields=FIELDS)  # type: ignore[arg-type]
RULES = {"last-write-wins": WHOLE, "client-priority": CLIENT, "manual": MANUAL, "merge": MERGED}


def pen(writer: str, at_ms: int = 0, *, sure: bool = True) -> Pen:
    """One who writes."""
    if writer.startswith("c-"):
        return Pen.of_cloud(writer, at_ms)
    return Pen.of_device(writer, at_ms, trusted=sure)


def beside(rule: TypeRule, base: State, *edits: tuple[str, int, dict[str, Any] | None]) -> State:
    """Edits (writer, at_ms, fields of a PATCH or None to delete) of which none has seen another, joined."""
    whole = base
    for writer, at_ms, fields in edits:
        one = merge.delete(base, rule, pen(writer, at_ms)) if fields is None else (
            merge.patch(base, rule, fields, pen(writer, at_ms))
        )  # fmt: skip
        whole = merge.join(whole, one)
    return whole


def value_of(rule: TypeRule, base: State, *edits: tuple[str, int, dict[str, Any] | None]) -> dict[str, Any]:
    """What they show together."""
    return dict(merge.view(beside(rule, base, *edits), rule).fields)


def one(writer: str, count: int, value: Any, at_ms: int = 0, clock: int = 1) -> Write:
    """A write."""
    return Write(writer, count, at_ms, clock, value)


def decided(state: State, rule: TypeRule) -> list[deciding.Decision]:
    """What was decided in it."""
    return deciding.decisions("progress", "p", state, rule)


def lost(state: State, rule: TypeRule) -> set[tuple[str, int, str]]:
    """(writer, count, register) of what a stored explanation names as a loser."""
    return {(side.writer, side.count, each.field) for each in decided(state, rule) for side in each.losers}


NUMBERS = st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0, 1e308, -1e308, 2**53, -(2**53), 0.1, True, False])
TEXTS = st.sampled_from(["", "a", "é", "e\u0301", "\U0001f600", "a\nb", "ä", "ﬀ", "1", "true"])
LEAVES = st.none() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6
)
WRITERS = st.sampled_from([A, B, C, CLOUD, "u-00ff", "d-000a~12345678"])


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any state that `checked_state` lets in, of whatever form."""
    version = draw(st.dictionaries(WRITERS, st.sampled_from([1, 2, 3, 2**53]), min_size=1, max_size=4))
    registers: dict[str, tuple[Write, ...]] = {}
    for name in draw(st.sets(st.sampled_from(["", "percent", "badges", "attempts", "born", "x"]), max_size=4)):
        writers = draw(st.sets(st.sampled_from(sorted(version)), min_size=1))
        registers[name] = tuple(
            one(
                writer,
                draw(st.integers(1, min(version[writer], 3))),
                draw(VALUES),
                draw(st.sampled_from([0, 1, -1, 2**53, -(2**53)])),
                draw(st.integers(0, 3)),
            )
            for writer in writers
        )
    return record.checked_state(record.canonical(State(version=version, registers=registers)))


__all__ = ["EMPTY", "Refusal"]
