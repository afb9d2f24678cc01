"""The queue: events wait here until somebody has answered for them. Bounded; what does not fit is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pisyncd.client import rules
from pisyncd.client.events import Event, Spoiled, now_rfc3339
from pisyncd.client.queuefile import BUSY_S, QueueFile
from pisyncd.client.rules import Settled, Trouble
from pisyncd.client.salvage import COLUMNS

FAILED_MAX = 1000
SESSIONS_SPAN = 10_000
GROUP_BYTES_MAX = 256 * 1024
_COUNTERS = ("captured", "sent", "failed", "dropped", "pending", "bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """One event of a group."""

    n: int
    id: str
    event_type: str
    seq: int | None
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Events of one kind and one user, oldest first: what can travel in one request."""

    kind: str
    user_id: str
    events: Sequence[Waiting]


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """captured = sent + failed + dropped + pending. `bytes` wait."""

    captured: int = 0
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    pending: int = 0
    bytes: int = 0

    def plus(self, other: Totals) -> Totals:
        """Of two queues."""
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in _COUNTERS})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An event that was refused for good."""

    id: str
    event_type: str
    code: str
    detail: str
    at: str


class Store:
    """The queue at `path`, None for one in memory. Every method may raise StoreTrouble, and has then done nothing."""

    def __init__(self, path: Path | None, *, events_max: int, bytes_max: int, busy_s: float = BUSY_S) -> None:
        self.file = QueueFile(path, busy_s=busy_s)
        self._events_max = events_max
        self._bytes_max = bytes_max

    def add(self, events: Iterable[Event], spoiled: Iterable[Spoiled] = (), *, dropped: int = 0) -> None:
        """Keeps events; counts what could not be made into one, and what was dropped before."""
        with self.file.using(write=True) as db:
            captured = dropped
            for event in events:
                _insert(db, event)
                captured += 1
            bad = list(spoiled)
            for each in bad:
                row = (each.event_type, each.code, each.detail, now_rfc3339())
                db.execute(_SPOILED, row)
            db.execute(
                "UPDATE totals SET captured = captured + ?, failed = failed + ?, dropped = dropped + ?",
                (captured + len(bad), len(bad), dropped),
            )
            if bad:
                _forget_failures(db)
            self._make_room(db)

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Behaviour goes first, answers last, the oldest of each before the newer."""
        pending, size = db.execute("SELECT pending, bytes FROM totals").fetchone()
        while pending and (pending > self._events_max or size > self._bytes_max):
            db.execute("DELETE FROM events WHERE n = (SELECT n FROM events ORDER BY rank, n LIMIT 1)")
            db.execute("UPDATE totals SET dropped = dropped + 1")
            pending, size = db.execute("SELECT pending, bytes FROM totals").fetchone()

    def newest(self) -> int:
        """The number of the newest event that waits; 0 for none."""
        with self.file.using(write=False) as db:
            return int(db.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()[0])

    def take(self, *, upto: int, user_id: str | None, count_max: int | None = None) -> Group | None:
        """The oldest events that can travel together; they stay until they are settled. `user_id` None is anybody's."""
        with self.file.using(write=False) as db:
            first = db.execute(_FIRST, (upto, user_id, user_id)).fetchone()
            if first is None:
                return None
            kind, user = first
            limit = min(count_max or rules.GROUP_MAX[kind], rules.GROUP_MAX[kind])
            rows = db.execute(_GROUP, (upto, kind, user, limit)).fetchall()
        events: list[Waiting] = []
        size = 0
        for n, event_id, event_type, seq, body in rows:
            size += len(body)
            if events and size > GROUP_BYTES_MAX:
                break
            events.append(Waiting(n=n, id=event_id, event_type=event_type, seq=seq, body=body))
        return Group(kind=kind, user_id=user, events=events)

    def settle(self, group: Group, settled: Settled) -> tuple[int, int]:
        """Takes an answered group out; (sent, failed), not counting what was dropped in the meantime."""
        gone = failed = 0
        with self.file.using(write=True) as db:
            for index, event in enumerate(group.events):
                trouble = settled.failed.get(index)
                if trouble is not None:
                    failed += _fail(db, event.n, trouble)
                gone += db.execute("DELETE FROM events WHERE n = ?", (event.n,)).rowcount
            unnamed = min(settled.unnamed, gone - failed)
            if unnamed:
                detail = f"{unnamed} of a group of {len(group.events)}; only the first reasons are told"
                db.execute(_SPOILED, ("", "rejected-unnamed", detail, now_rfc3339()))
            failed += unnamed
            if failed:
                _forget_failures(db)
            db.execute("UPDATE totals SET sent = sent + ?, failed = failed + ?", (gone - failed, failed))
        return gone - failed, failed

    def count_of(self, user_id: str | None) -> int:
        """How many wait that may be sent for this user, None for anybody."""
        with self.file.using(write=False) as db:
            return int(db.execute(_COUNT, (user_id, user_id)).fetchone()[0])

    def totals(self) -> Totals:
        """Since the queue was made, whoever captured and sent."""
        with self.file.using(write=False) as db:
            row = db.execute(f"SELECT {', '.join(_COUNTERS)} FROM totals").fetchone()  # noqa: S608
        return Totals(**dict(zip(_COUNTERS, row, strict=True)))

    def failures(self, limit: int) -> list[Failure]:
        """Newest first."""
        with self.file.using(write=False) as db:
            rows = db.execute(
                "SELECT id, event_type, code, detail, at FROM failed ORDER BY n DESC LIMIT ?", (limit,)
            ).fetchall()
        return [Failure(id=row[0], event_type=row[1], code=row[2], detail=row[3], at=row[4]) for row in rows]

    def retry_failed(self) -> int:
        """Puts what was refused, and is still kept, into the queue again; how many."""
        with self.file.using(write=True) as db:
            found = db.execute(
                f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM failed WHERE body IS NOT NULL ORDER BY n"  # noqa: S608
            ).rowcount
            db.execute("DELETE FROM failed WHERE body IS NOT NULL")
            db.execute("UPDATE totals SET failed = failed - ?", (found,))
            self._make_room(db)
        return found

    def housekeep(self) -> None:
        """Forgets the counters of sessions long past and writes the log back. For the sender's thread."""
        with self.file.using(write=True) as db:
            db.execute(
                "DELETE FROM sessions WHERE touched_n < (SELECT seq FROM sqlite_sequence WHERE name = 'events') - ?",
                (SESSIONS_SPAN,),
            )
        self.file.checkpoint()


def _insert(db: sqlite3.Connection, event: Event) -> None:
    seq = None
    if event.kind == "learning":
        seq = db.execute(_NEXT_SEQ, (event.session_id,)).fetchone()[0]
    db.execute(
        f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (event.id, event.event_type, event.kind, event.rank, event.user_id, seq, event.body, event.bytes),
    )


def _fail(db: sqlite3.Connection, n: int, trouble: Trouble) -> int:
    return db.execute(
        f"INSERT INTO failed ({COLUMNS}, code, detail, at) SELECT {COLUMNS}, ?, ?, ? FROM events WHERE n = ?",  # noqa: S608
        (trouble.code, trouble.detail, now_rfc3339(), n),
    ).rowcount


def _forget_failures(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM failed WHERE n <= (SELECT max(n) FROM failed) - ?", (FAILED_MAX,))


_NEXT_SEQ = """
INSERT INTO sessions (session_id, seq, touched_n)
VALUES (?, 1, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0))
ON CONFLICT (session_id) DO UPDATE SET seq = seq + 1, touched_n = excluded.touched_n
RETURNING seq
"""
_SPOILED = """
INSERT INTO failed (id, event_type, kind, rank, user_id, body, bytes, code, detail, at)
VALUES ('', ?, '', 0, '', NULL, 0, ?, ?, ?)
"""
_FIRST = "SELECT kind, user_id FROM events WHERE n <= ? AND (? IS NULL OR user_id = ?) ORDER BY n LIMIT 1"
_GROUP = """
SELECT n, id, event_type, seq, body FROM events WHERE n <= ? AND kind = ? AND user_id = ? ORDER BY n LIMIT ?
"""
_COUNT = "SELECT count(*) FROM events WHERE (? IS NULL OR user_id = ?)"
