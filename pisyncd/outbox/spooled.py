"""The files of the spool directory: their lines are taken in once, and how far commits with them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pisyncd.core import envelope, track, wire
from pisyncd.core.envelope import Rejection
from pisyncd.core.problems import Refusal
from pisyncd.outbox import arrivals
from pisyncd.outbox.books import Ledger
from pisyncd.outbox.db import Database, queries
from pisyncd.outbox.intake import Intake, Outcome, Piece
from pisyncd.sources import refused
from pisyncd.sources.lines import Mark
from pisyncd.sources.refused import Reason

_sql = queries("learning", in_thread=True)
_reading: Any = queries("learning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a file is taken in. `refused_bytes` and `reasons_bytes` are the lengths of the files beside it."""

    name: bytes
    mark: Mark
    refused: int = 0
    refused_bytes: int = 0
    reasons_bytes: int = 0
    first_reason: str = ""
    done: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line, its number counted from 1, and what it is."""

    number: int
    raw: bytes
    found: Piece | Rejection


class _Shape(msgspec.Struct, frozen=True):
    event_type: Any = None
    eventType: Any = None
    id: Any = None
    user_id: str | None = None


_shape_decoder = msgspec.json.Decoder(_Shape)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def judge(raw: bytes, base: bytes, number: int) -> Line | None:
    """One line of a file, as in track (`eventType`) or of envelope v1 (`event_type`); None when it is empty.

    Without an id it gets one from the file's content and its number, so that the same file again adds nothing.
    """
    raw = raw.removeprefix(b"\xef\xbb\xbf").strip()
    return Line(number=number, raw=raw, found=_found(raw, base, number)) if raw else None


def _found(raw: bytes, base: bytes, number: int) -> Piece | Rejection:
    try:
        shape = _shape_decoder.decode(raw)
        if shape.user_id is not None and not envelope.is_uuid(shape.user_id):
            return Rejection(code="event-invalid", detail="user_id is not a UUID")
        own_id = envelope.derived_id(hashlib.blake2b(base + number.to_bytes(8, "big"), digest_size=16).digest())
        if shape.event_type is not None:
            if shape.id is None:
                given = _object_decoder.decode(raw)
                raw = msgspec.json.encode({**given, "id": own_id})
            return arrivals.judge_event(raw, None, None)
        if shape.eventType is None:
            return Rejection(code="event-invalid", detail="neither eventType nor event_type is there")
        event = track.decode_item(raw)
    except _UNREADABLE as error:
        return Rejection(code="event-invalid", detail=str(error)[:300])
    except Refusal as refusal:
        return arrivals.rejection(refusal)
    return arrivals.tracked(event, event.id or own_id, (shape.user_id or "").lower())


class Spooled:
    """progress, take, refuse, forget. `directory` is a descriptor of the one for refused lines."""

    def __init__(self, db: Database, intake: Intake, ledger: Ledger) -> None:
        self._db = db
        self._intake = intake
        self._ledger = ledger

    async def progress(self, name: bytes) -> Progress | None:
        """How far a file of this name is taken in."""
        row = await _reading.spooled(self._db.reader, name=name)
        if row is None:
            return None
        mark = Mark(
            inode=row["inode"],
            size=row["size"],
            base=row["base"],
            tail=row["tail"],
            offset=row["offset"],
            lines=row["lines"],
        )
        return Progress(
            name=name,
            mark=mark,
            refused=row["refused"],
            refused_bytes=row["refused_bytes"],
            reasons_bytes=row["reasons_bytes"],
            first_reason=row["first_reason"],
            done=bool(row["done"]),
        )

    async def names(self) -> list[bytes]:
        """The files that were begun."""
        return [row["name"] async for row in _reading.spooled_names(self._db.reader)]

    async def take(
        self, before: Progress, lines: Sequence[Line], after: Mark, directory: int, *, at_end: bool
    ) -> Progress | str:
        """Takes lines in and moves on to `after`, in one transaction; the reason when there is no room for them.

        Raises StorageBusy, OSError when refused lines cannot be kept.
        """
        good = [line for line in lines if not isinstance(line.found, Rejection)]
        outcomes: list[Outcome] = []

        def work(db: sqlite3.Connection) -> Progress | str:
            nonlocal outcomes
            if reason := self._no_room(db, lines):
                return reason
            pieces = [line.found for line in good if not isinstance(line.found, Rejection)]
            outcomes = self._intake.take_in(db, pieces, may_shed=False)
            bad = _bad(lines, good, outcomes)
            return self._move(db, _kept(before, bad, directory), after, at_end=at_end)

        result = await self._db.write(work)
        if isinstance(result, Progress):
            self._intake.told(outcomes)
        return result

    async def refuse(
        self, before: Progress, reason: Reason, lengths: tuple[int, int], after: Mark, *, at_end: bool
    ) -> Progress:
        """One line that is kept already; `lengths` are those of the refused lines and of the reasons."""
        progress = _counted(before, [reason], *lengths)
        return await self._db.write(lambda db: self._move(db, progress, after, at_end=at_end))

    async def forget(self, name: bytes) -> None:
        """The file is gone."""
        await self._db.write(lambda db: _sql.forget_spooled(db, name=name))

    def _no_room(self, db: sqlite3.Connection, lines: Sequence[Line]) -> str:
        """Files wait where they are: nothing of them needs to be shed."""
        if not self._intake.has_room():
            return self._intake.no_room(db)
        behaviour = any(
            not isinstance(line.found, Rejection) and line.found.priority <= envelope.SHEDDABLE_MAX for line in lines
        )
        return self._intake.no_room(db) if behaviour else ""

    def _move(self, db: sqlite3.Connection, progress: Progress, after: Mark, *, at_end: bool) -> Progress:
        progress = replace(progress, mark=after, done=at_end)
        _sql.set_spooled(
            db,
            name=progress.name,
            inode=after.inode,
            base=after.base,
            tail=after.tail,
            size=after.size,
            offset=after.offset,
            lines=after.lines,
            refused=progress.refused,
            refused_bytes=progress.refused_bytes,
            reasons_bytes=progress.reasons_bytes,
            first_reason=progress.first_reason,
            done=at_end,
        )
        if at_end and progress.refused:
            detail = f"{wire.display_path(progress.name)}: {progress.refused} of {after.lines} lines, first: "
            code = progress.first_reason.partition(":")[0].rpartition(" ")[2]
            detail += progress.first_reason
            self._ledger.enter(db, "lines-refused", code, count=progress.refused, detail=detail)
        return progress


def _bad(lines: Sequence[Line], good: Sequence[Line], outcomes: Sequence[Outcome]) -> list[tuple[Line, Reason]]:
    """The lines that were refused, before they were taken or by what is known here, in their order."""
    refused_later = {
        line.number: Reason(line=line.number, code=outcome.code, detail=outcome.detail)
        for line, outcome in zip(good, outcomes, strict=True)
        if outcome.code is not None
    }
    bad: list[tuple[Line, Reason]] = []
    for line in lines:
        if isinstance(line.found, Rejection):
            bad.append((line, Reason(line=line.number, code=line.found.code, detail=line.found.detail)))
        elif line.number in refused_later:
            bad.append((line, refused_later[line.number]))
    return bad


def _kept(before: Progress, bad: Sequence[tuple[Line, Reason]], directory: int) -> Progress:
    if not bad:
        return before
    lines_name, reasons_name = refused.names(before.name, before.mark.base)
    length = refused.append(directory, lines_name, before.refused_bytes, (line.raw + b"\n" for line, _ in bad))
    reasons = [reason for _, reason in bad]
    reasons_length = refused.append(directory, reasons_name, before.reasons_bytes, refused.told(reasons))
    return _counted(before, reasons, length, reasons_length)


def _counted(before: Progress, reasons: Sequence[Reason], refused_bytes: int, reasons_bytes: int) -> Progress:
    first = f"line {reasons[0].line} {reasons[0].code}: {reasons[0].detail}"
    return replace(
        before,
        refused=before.refused + len(reasons),
        refused_bytes=refused_bytes,
        reasons_bytes=reasons_bytes,
        first_reason=before.first_reason or first,
    )
