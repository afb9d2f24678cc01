"""Incidents: carries out what the rules plan, and lets people take them on.

The plan is made of how devices stand now, not of what changed: whatever was missed while no service ran is found by the
next look. One service at a time plans (a lock on one row), so that nothing is opened twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.flows import announcing, audit
from cloud.flows.announcing import Happening
from cloud.rules import alerting, notices
from cloud.rules.alerting import Change, Close, Escalate, Incident, Open, Rule, Situation, Trouble
from cloud.rules.calendar import Calendar
from cloud.rules.notices import Hours
from cloud.store.db import Database, Row, Tx
from pisyncd.core import wire
from pisyncd.core.problems import Refusal

ACKNOWLEDGED = "incident.acknowledged"
MEMBERS_SHOWN = 500
NOTE_MAX = 500
_HUSHED = frozenset({"muted", "retired", None})


@dataclass(frozen=True, kw_only=True)
class Terms:
    """See the settings notify_*; `timezone` is for channels that name none."""

    gather_ms: int = 60_000
    together_min: int = 5
    together_percent: float = 20.0
    timezone: str = "UTC"


def rule_of(row: Row) -> Rule:
    """A row of alert_rule."""
    after_s = row["escalate_after_s"]
    return Rule(
        name=row["name"],
        states=_list(row["states"]),
        groups=frozenset(_list(row["groups"])),
        tags=frozenset(_list(row["tags"])),
        faults=_list(row["faults"]),
        channels=_list(row["channels"]),
        wait_ms=row["wait_s"] * 1000,
        escalate_after_ms=None if after_s is None else after_s * 1000,
        escalate_to=_list(row["escalate_to"]),
    )


def hours_of(row: Row, timezone: str) -> Hours:
    """When a channel is used."""
    return Hours(
        calendar=Calendar(timezone=row["timezone"] or timezone),
        quiet=notices.span(row["quiet_hours"]) if row["quiet_hours"] else None,
        digest=notices.minutes(row["digest_at"]) if row["digest_at"] else None,
    )


class Alerting:
    """Looks at how devices stand and does what the rules ask for."""

    def __init__(self, db: Database, now_ms: Callable[[], int], terms: Terms) -> None:
        self._db = db
        self._now_ms = now_ms
        self._terms = terms

    async def last_transition(self) -> int:
        """Rises whenever any device has changed its state."""
        async with self._db.reading() as tx:
            return int(await tx.value("last_transition"))

    async def look(self) -> tuple[int, int | None]:
        """One look; (how much was done, when time alone asks for the next)."""
        now_ms = self._now_ms()
        async with self._db.transaction() as tx:
            await tx.run("lock_alerting")
            rules = [rule_of(row) for row in await tx.all("alert_rules") if row["enabled"]]
            troubles = [
                each
                for state in sorted({s for rule in rules for s in rule.states})
                for each in await _troubles(tx, state)
            ]
            incidents, hushed = await _open(tx)
            situation = Situation(
                rules=rules,
                troubles=troubles,
                incidents=incidents,
                sizes={row["name"]: row["devices"] for row in await tx.all("place_sizes")},
                hushed=hushed,
                now_ms=now_ms,
                together_min=self._terms.together_min,
                together_percent=self._terms.together_percent,
            )
            actions = alerting.plan(situation)
            hours = {
                row["name"]: hours_of(row, self._terms.timezone) for row in await tx.all("channels") if row["enabled"]
            }
            work = _Work(tx, hours, now_ms, self._terms.gather_ms)
            for action in actions:
                await work.do(action)
            if actions:
                await tx.run("fleet_changed")
                await announcing.announce(tx, work.happenings, now_ms)
        due = alerting.next_due_ms(rules, troubles, incidents, now_ms)
        fresh = [now_ms + rule.escalate_after_ms for rule in rules if rule.escalate_after_ms is not None]
        return len(actions), min((each for each in (due, *fresh) if each is not None), default=None)


class _Work:
    """Carries actions out inside a transaction."""

    def __init__(self, tx: Tx, hours: Mapping[str, Hours], now_ms: int, gather_ms: int) -> None:
        self._tx = tx
        self._hours = hours
        self._now_ms = now_ms
        self._gather_ms = gather_ms
        self.happenings: list[Happening] = []

    async def do(self, action: alerting.Action) -> None:
        if isinstance(action, Open):
            await self._open(action)
        elif isinstance(action, Change):
            await self._change(action)
        elif isinstance(action, Close):
            await self._close(action)
        else:
            await self._escalate(action)

    async def _open(self, action: Open) -> None:
        rule, after_ms = action.rule, action.rule.escalate_after_ms
        escalates = after_ms is not None and rule.escalate_to and not action.quietly
        number = await self._tx.value(
            "add_incident",
            rule=rule.name,
            kind=action.kind,
            subject=action.subject,
            cause=action.cause,
            fault=action.fault,
            escalate_at_ms=self._now_ms + (after_ms or 0) if escalates else None,
            devices=len(action.members),
            now_ms=self._now_ms,
        )
        await self._tx.bulk("join_incident", [(number, dk, self._now_ms) for dk in action.members])
        if action.quietly:
            return
        await self._tell(number, "opened", rule.channels, self._now_ms + self._gather_ms)
        self.happenings.append(_happening("incident.opened", number, action, len(action.members)))

    async def _change(self, action: Change) -> None:
        number = action.incident.id
        await self._tx.bulk("join_incident", [(number, dk, self._now_ms) for dk in action.joins])
        await self._tx.bulk("leave_incident_some", [(self._now_ms, number, dk) for dk in action.leaves])
        await self._tx.run("grow_incident", id=number, joined=len(action.joins), now_ms=self._now_ms)

    async def _close(self, action: Close) -> None:
        number = action.incident.id
        # Who had not been told of the trouble yet is not told of its end.
        for row in await self._tx.all("opened_notices", id=number):
            if row["state"] in ("pending", "processing"):
                await self._tx.run("drop_notice", id=row["id"], now_ms=self._now_ms)
            elif row["state"] == "sent" and not action.quietly:
                await self._tell(number, "recovered", (row["channel"],), self._now_ms)
        await self._tx.run("leave_incident", id=number, now_ms=self._now_ms)
        await self._tx.run("close_incident", id=number, now_ms=self._now_ms)
        if not action.quietly:
            self.happenings.append(_happening("incident.closed", number, action.incident, action.incident.devices))

    async def _escalate(self, action: Escalate) -> None:
        await self._tx.run("incident_escalated", id=action.incident.id, now_ms=self._now_ms)
        await self._tell(action.incident.id, "escalated", action.rule.escalate_to, self._now_ms)

    async def _tell(self, number: int, kind: str, channels: Iterable[str], at_ms: int) -> None:
        for channel in channels:
            hours = self._hours.get(channel)
            if hours is not None:
                due_ms = notices.usable_at(hours, at_ms)
                await self._tx.run(
                    "add_notice", incident_id=number, channel=channel, kind=kind, due_at_ms=due_ms, now_ms=self._now_ms
                )


async def _troubles(tx: Tx, state: str) -> list[Trouble]:
    groups: dict[int, set[str]] = {}
    places: dict[int, dict[str, str]] = {}
    tags: dict[int, set[str]] = {}
    for row in await tx.all("trouble_groups", state=state):
        groups.setdefault(row["dk"], set()).add(row["name"])
        places.setdefault(row["dk"], {})[row["kind"]] = row["name"]
    for row in await tx.all("trouble_tags", state=state):
        tags.setdefault(row["dk"], set()).add(row["tag"])
    return [
        Trouble(
            dk=row["dk"],
            device_id=row["device_id"],
            state=row["state"],
            since_ms=row["since_ms"],
            fault=row["last_error_code"] or "" if row["alert_opened_at_ms"] is not None else "",
            place=places.get(row["dk"], {}).get("region") or places.get(row["dk"], {}).get("site", ""),
            groups=frozenset(groups.get(row["dk"], ())),
            tags=frozenset(tags.get(row["dk"], ())),
        )
        for row in await tx.all("troubles", state=state)
    ]


async def _open(tx: Tx) -> tuple[list[Incident], frozenset[int]]:
    """(open incidents, their members that are muted or retired)."""
    members: dict[int, set[int]] = {}
    hushed: set[int] = set()
    for row in await tx.all("open_members"):
        members.setdefault(row["incident_id"], set()).add(row["dk"])
        if row["state"] in _HUSHED:
            hushed.add(row["dk"])
    found = [
        Incident(
            id=row["id"],
            rule=row["rule"],
            kind=row["kind"],
            subject=row["subject"],
            cause=row["cause"],
            members=frozenset(members.get(row["id"], ())),
            devices=row["devices"],
            escalate_at_ms=row["escalate_at_ms"],
        )
        for row in await tx.all("open_incidents")
    ]
    return found, frozenset(hushed)


def _happening(kind: str, number: int, about: Open | Incident, devices: int) -> Happening:
    data = {"kind": about.kind, "subject": about.subject, "cause": about.cause, "devices": devices}
    return Happening(type=kind, resource_type="incident", resource_id=str(number), data={"incidentId": number, **data})


async def page(
    tx: Tx, *, state: str | None, reach: Collection[str] | None, before_id: int, limit: int, offset: int
) -> tuple[list[Row], int]:
    """Up to limit + 1 incidents, newest first, and how many there are."""
    groups = _groups(reach)
    rows = await tx.all(
        "incidents_page", state=state, groups=groups, before_id=before_id, row_limit=limit + 1, row_offset=offset
    )
    return rows, await tx.value("incidents_count", state=state, groups=groups)


async def one(tx: Tx, number: int, reach: Collection[str] | None) -> tuple[Row, list[Row]]:
    """An incident and its devices within reach, at most MEMBERS_SHOWN, those still in it first. Raises Refusal 404."""
    row = await tx.one("incident_by_id", id=number)
    within = row is not None and (
        reach is None or await tx.value("incident_in_reach", id=number, groups=_groups(reach)) is not None
    )
    if row is None or not within:
        raise Refusal(404, "incident-unknown", f"there is no incident {number}", hint="GET /api/incidents lists them")
    return row, await tx.all("incident_members", id=number, groups=_groups(reach), row_limit=MEMBERS_SHOWN)


async def acknowledge(
    db: Database, number: int, *, note: str, actor: str, reach: Collection[str] | None, now_ms: int
) -> Row:
    """Somebody has taken it on: it is not escalated any more. Raises Refusal 404, 409, 422."""
    note = note.replace("\0", "")[: NOTE_MAX + 1]
    if len(note) > NOTE_MAX:
        raise Refusal(422, "validation", f"a note has at most {NOTE_MAX} characters", hint="make it shorter")
    async with db.transaction() as tx:
        row, _ = await one(tx, number, reach)
        if not await tx.run("acknowledge_incident", id=number, acknowledged_by=actor, note=note, now_ms=now_ms):
            by = f" by {row['acknowledged_by']}" if row["acknowledged_by"] else ""
            raise Refusal(
                409, "incident-not-open", f"the incident is {row['state']}{by}", hint="nothing has to be done"
            )
        await audit.record(
            tx,
            now_ms=now_ms,
            actor=actor,
            action=ACKNOWLEDGED,
            target=str(number),
            detail={"subject": row["subject"], "note": note},
        )
        data = {"incidentId": number, "subject": row["subject"], "by": actor, "note": note, "at": wire.rfc3339(now_ms)}
        told = Happening(type=ACKNOWLEDGED, resource_type="incident", resource_id=str(number), data=data)
        await announcing.announce(tx, [told], now_ms)
        await tx.run("fleet_changed")
        after = await tx.one("incident_by_id", id=number)
    assert after is not None
    return after


async def of_device(tx: Tx, dk: int) -> list[Row]:
    """The open incidents that a device is in."""
    return await tx.all("incidents_of_device", dk=dk)


async def acknowledged_devices(tx: Tx) -> set[int]:
    """The devices whose trouble somebody has taken on."""
    return {row["dk"] for row in await tx.all("acknowledged_devices")}


async def forget(db: Database, before_ms: int) -> int:
    """Drops closed incidents, ended notices and silences from before a time; how many."""
    async with db.transaction() as tx:
        names = ("drop_notices", "drop_incidents", "drop_silences")
        return sum([await tx.run(name, before_ms=before_ms) for name in names])


def _groups(reach: Collection[str] | None) -> str | None:
    return None if reach is None else msgspec.json.encode(sorted(reach)).decode()


def _list(text: str) -> tuple[str, ...]:
    found: Any = msgspec.json.decode(text, type=tuple[str, ...])
    return tuple(found)
