"""What counts of a copy that comes from elsewhere: whose writes, of which time, under which name.

A device learns of others' writes through the cloud alone, and a database that was set back counts anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from pisyncd.core import picking
from pisyncd.core.record import (
    EMPTY,
    State,
    Write,
    canonical,
)

Writes = tuple[Write, ...]


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
    newest = picking.latest(writes)
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
