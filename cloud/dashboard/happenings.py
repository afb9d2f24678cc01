"""What happened to a device, from several tables, as one list for people. Syncs have a table of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from cloud.rules import faults as kinds
from cloud.store.db import Row

SHOWN = 30
#: What is told by a row of its own already.
_TOLD = ("device.muted", "device.unmuted", "incident.acknowledged")


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """One line. `state`: what the device became; `by`: who did it; `href`: where there is more."""

    at_ms: int
    text: str
    state: str = ""
    by: str = ""
    href: str = ""


def merged(
    *,
    transitions: Sequence[Row],
    faults: Sequence[Row],
    commands: Sequence[Row],
    incidents: Sequence[Row],
    entries: Sequence[Row],
) -> list[Happening]:
    """The newest of all, newest first."""
    found: list[Happening] = [
        *(_transition(row) for row in transitions),
        *(_fault(row) for row in faults),
        *_commands(commands),
        *_incidents(incidents),
        *(_entry(row) for row in entries if row["action"] not in _TOLD),
    ]
    return sorted(found, key=lambda each: each.at_ms, reverse=True)[:SHOWN]


def _transition(row: Row) -> Happening:
    why = row["detail"] or row["reason"].replace("-", " ")
    return Happening(at_ms=row["at_ms"], state=row["new_state"], text=why)


def _fault(row: Row) -> Happening:
    return Happening(at_ms=row["first_seen_ms"], text=f"first failed with: {kinds.about(row['code']).title}")


def _commands(rows: Iterable[Row]) -> Iterator[Happening]:
    for row in rows:
        what = row["kind"].replace("-", " ")
        yield Happening(at_ms=row["created_at_ms"], text=f"asked for a {what}", by=row["created_by"])
        if row["ended_at_ms"] is not None:
            text = f"the {what} that was asked for: {row['state']}"
            yield Happening(at_ms=row["ended_at_ms"], text=text)


def _incidents(rows: Iterable[Row]) -> Iterator[Happening]:
    for row in rows:
        href, what = f"/incidents/{row['id']}", f"incident {row['subject']} {row['cause']}"
        yield Happening(at_ms=row["opened_at_ms"], text=f"{what} opened", href=href)
        if row["acknowledged_at_ms"] is not None:
            yield Happening(
                at_ms=row["acknowledged_at_ms"], text=f"{what} taken on", by=row["acknowledged_by"] or "", href=href
            )
        if row["closed_at_ms"] is not None:
            yield Happening(at_ms=row["closed_at_ms"], text=f"{what} closed", href=href)


def _entry(row: Row) -> Happening:
    detail = msgspec.json.decode(row["detail"])
    said = ", ".join(f"{name} {_plain(value)}" for name, value in detail.items() if value not in (None, "", []))
    what = row["action"].removeprefix("device.").replace("_", " ").replace(".", " ")
    return Happening(at_ms=row["at_ms"], text=what + (f": {said}" if said else ""), by=row["actor"])


def _plain(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
