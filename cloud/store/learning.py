"""Reads what learning events have to be judged by, and writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from cloud.rules import rows
from cloud.rules.admit import Changes, First, Knowledge, Outcome, Unit
from cloud.rules.facts import AttemptFact, MessageFact, TrackFact
from cloud.store.db import Tx
from pisyncd.core.envelope import Envelope

ERRORS_MAX = 20


def attempt_row(event: Envelope, *, event_ts: int, dk: int = 0) -> tuple[Any, ...]:
    """An event that a session here emitted, as a row for `add_attempts`."""
    return rows.attempt(event, event.user_id, event_ts, dk)


def sessions_in(units: Sequence[Unit]) -> set[str]:
    """The sessions that the facts of `units` speak of."""
    found: set[str] = set()
    for unit in units:
        for fact in unit.facts:
            if isinstance(fact, AttemptFact):
                found.add(fact.event.session_id)
            elif isinstance(fact, MessageFact) and fact.change is not None:
                found.add(fact.change.session_id)
    return found


async def know(tx: Tx, units: Sequence[Unit], known: Knowledge) -> None:
    """Adds what is kept already of the events in `units`."""
    tracks: set[tuple[int, str, str]] = set()
    attempts: set[str] = set()
    for unit in units:
        for fact in unit.facts:
            if isinstance(fact, TrackFact):
                tracks.add((unit.dk, unit.user_id or fact.user_id, fact.event_id))
            elif isinstance(fact, AttemptFact):
                attempts.add(fact.event.id)
            elif isinstance(fact, MessageFact):
                attempts.update(event.id for event in fact.events)
    for row in await tx.lookup("known_tracks", list(tracks)):
        known.tracks[row["dk"], row["user_id"], row["event_id"]] = First(
            digest=bytes(row["digest"]), received_at_ms=row["received_at_ms"], batch_id=row["batch_id"]
        )
    for row in await tx.lookup("known_attempts", [(event_id,) for event_id in attempts]):
        known.attempts[row["id"]] = bytes(row["digest"])


async def write(tx: Tx, changes: Changes) -> None:
    """Writes the events of a judged group."""
    await tx.bulk("add_tracks", changes.tracks)
    await tx.bulk("add_attempts", changes.attempts)


def batch_row(unit: Unit, outcomes: Sequence[Outcome], now_ms: int, duration_ms: int) -> tuple[Any, ...]:
    """A batch's entry in the log: counts, and the first of its errors and conflicts. For `log_batches`."""
    counts = Counter(outcome.status for outcome in outcomes)
    return (
        unit.dk,
        unit.user_id,
        unit.batch_id,
        len(outcomes),
        counts["synced"],
        counts["failed"],
        counts["conflict"],
        counts["duplicate"],
        now_ms,
        duration_ms,
        _details(outcomes, "failed") if counts["failed"] else "[]",
        _details(outcomes, "conflict") if counts["conflict"] else "[]",
    )


def _details(outcomes: Sequence[Outcome], status: str) -> str:
    found = [_detail(outcome) for outcome in outcomes if outcome.status == status]
    return msgspec.json.encode(found[:ERRORS_MAX]).decode()


def _detail(outcome: Outcome) -> dict[str, str | None]:
    told: dict[str, str | None] = {"itemId": outcome.item_id, "code": outcome.code, "detail": outcome.detail[:200]}
    if (found := outcome.resolution) is not None:
        told["code"] = outcome.code or ("undecided" if found.winner == "undecided" else "merged")
        told |= {"detail": found.detail, "conflictId": found.conflictId, "strategy": found.strategy}
    return told
