"""Judges how devices stand, writes every change of it, and lets people mute. Rules: cloud/rules/standing.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog
from msgspec.structs import astuple, replace

from cloud import config
from cloud.flows import announcing, audit
from cloud.flows.announcing import Happening
from cloud.rules import calendar as calendars
from cloud.rules import standing as rules
from cloud.rules.calendar import Calendar
from cloud.rules.standing import Facts, Standing, Terms, Transition
from cloud.store import webhooks
from cloud.store.db import Database, Row, Tx
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError

log = structlog.get_logger()

GROUP_MAX = 500
MUTED = "device.muted"
UNMUTED = "device.unmuted"
CHANGED = "device.state_changed"
#: Silence by night and over the weekend is no news.
_NO_NEWS = frozenset({("healthy", "expected-quiet"), ("expected-quiet", "healthy")})


def load_calendars(file: str, timezone: str) -> dict[str, Calendar]:
    """The calendars by name, 'default' always among them. Raises ConfigError naming every fault."""
    if not calendars.is_timezone(timezone):
        raise ConfigError(f"timezone: there is no {timezone!r}", hint="write it as Africa/Kampala")
    found, faults = calendars.parse(config.read_file(Path(file)) if file else {}, timezone)
    if faults:
        raise ConfigError(f"{file}: {'; '.join(faults)}", hint="docs/operators.md shows a calendar")
    return found


class Assessing:
    """Judges whatever has changed since it was judged last, or is due."""

    def __init__(self, db: Database, now_ms: Callable[[], int], terms: Terms, known: Mapping[str, Calendar]) -> None:
        self._db = db
        self._now_ms = now_ms
        self._terms = terms
        self._calendars = known
        self._default = known[calendars.DEFAULT]
        self._of_sites: dict[int, str] = {}

    async def adopt(self) -> int:
        """Gives a standing to devices that have none; how many."""
        async with self._db.transaction() as tx:
            return await tx.run("adopt_standings")

    async def some(self, after: int = 0) -> tuple[int, int, int | None]:
        """Judges at most GROUP_MAX devices with keys beyond `after`.

        Gives (how many, how many of them changed their state, where to go on or None at the end).
        """
        if after == 0:
            # Once per round: a calendar that is changed meanwhile counts from the next one on.
            async with self._db.reading() as tx:
                self._of_sites = {row["dk"]: row["calendar"] for row in await tx.all("site_calendars")}
        now_ms = self._now_ms()
        async with self._db.transaction() as tx:
            rows = await tx.all("standings_due", after=after, now_ms=now_ms, row_limit=GROUP_MAX)
            names = list(rows[0].keys()) if rows else []
            told = (dict(zip(names, cast("Iterable[Any]", row), strict=True)) for row in rows)
            judged = [self._judge(each, self._of_sites.get(each["dk"]), now_ms) for each in told]
            changes = [change for _, change in judged if change is not None]
            await _write(tx, [standing for standing, _ in judged], changes, now_ms)
        return len(rows), len(changes), rows[-1]["dk"] if len(rows) == GROUP_MAX else None

    def _judge(self, told: dict[str, Any], calendar: str | None, now_ms: int) -> tuple[Standing, Transition | None]:
        # Not strictly: SQLite knows no booleans.
        facts = msgspec.convert(told, Facts, strict=False)
        known = self._calendars.get(calendar, self._default) if calendar else self._default
        return rules.judge(msgspec.convert(told, Standing, strict=False), facts, known, self._terms, now_ms)


async def mute(tx: Tx, dks: Sequence[int], *, until_ms: int | None, note: str, actor: str, now_ms: int) -> int:
    """Nothing is told of them until then (None: until they are unmuted); how many of them were not retired."""
    end_ms = rules.FOREVER_MS if until_ms is None else until_ms
    before = await _locked(tx, dks)
    judged = [rules.mute(each, end_ms, note, now_ms) for each in before if each.state != "retired"]
    await _write(tx, [after for after, _ in judged], [change for _, change in judged if change], now_ms)
    for after, _ in judged:
        await tx.run("mute_by", dk=after.dk, muted_by=actor, mute_note=note)
    until = None if until_ms is None else wire.rfc3339(until_ms)
    await _note(tx, MUTED, [after.dk for after, _ in judged], actor, now_ms, until=until, note=note)
    return len(judged)


async def unmute(tx: Tx, dks: Sequence[int], *, actor: str, now_ms: int) -> int:
    """Judged openly again; how many of them had been muted."""
    before = [each for each in await _locked(tx, dks) if each.state == "muted"]
    judged = [rules.unmute(each, now_ms) for each in before]
    await _write(tx, [after for after, _ in judged], [change for _, change in judged if change], now_ms)
    for after, _ in judged:
        await tx.run("mute_by", dk=after.dk, muted_by=None, mute_note="")
    await _note(tx, UNMUTED, [after.dk for after, _ in judged], actor, now_ms)
    return len(judged)


async def retire(tx: Tx, dk: int, reason: str, now_ms: int) -> None:
    """Shut out for good, at once; the caller ends its tokens and writes the audit."""
    for before in await _locked(tx, [dk]):
        after = replace(
            before,
            state="retired",
            under="retired",
            since_ms=now_ms,
            reason=reason,
            muted_until_ms=None,
            due_at_ms=None,
        )
        change = Transition(dk=dk, old=before.state, new="retired", reason=reason, detail="", at_ms=now_ms)
        await _write(tx, [after], [change] if before.state != "retired" else [], now_ms)


async def restore(tx: Tx, dk: int, now_ms: int) -> None:
    """Let in again; judged anew with its next contact."""
    for before in await _locked(tx, [dk]):
        if before.state == "retired":
            after = replace(before, state="new", under="new", since_ms=now_ms, reason="enrolled", due_at_ms=now_ms)
            change = Transition(dk=dk, old="retired", new="new", reason="enrolled", detail="", at_ms=now_ms)
            await _write(tx, [after], [change], now_ms)


async def drop_old_transitions(db: Database, before_ms: int) -> int:
    """Forgets changes of state before a time; how many."""
    async with db.transaction() as tx:
        return await tx.run("drop_transitions", before_ms=before_ms)


def standing_of(row: Row) -> Standing:
    """A row of device_standing."""
    return msgspec.convert(dict(row), Standing, strict=False)


async def _locked(tx: Tx, dks: Sequence[int]) -> list[Standing]:
    return [standing_of(row) for row in await tx.lookup("standings_for_update", [(dk,) for dk in sorted(set(dks))])]


async def _write(tx: Tx, standings: Sequence[Standing], changes: Sequence[Transition], now_ms: int) -> None:
    moved = {each.dk for each in changes}
    await tx.bulk("save_standings", [astuple(each) for each in standings if each.dk in moved])
    await tx.bulk("keep_standings", [astuple(each) for each in standings if each.dk not in moved])
    if not changes:
        return
    await tx.bulk(
        "add_transitions", [(each.dk, each.old, each.new, each.reason, each.detail, each.at_ms) for each in changes]
    )
    await tx.run("fleet_changed")
    await _announce(tx, [each for each in changes if (each.old, each.new) not in _NO_NEWS], now_ms)


async def _announce(tx: Tx, changes: Sequence[Transition], now_ms: int) -> None:
    if not changes or not await announcing.wanted(tx, (CHANGED,)):
        return
    names = await webhooks.device_names(tx, [each.dk for each in changes])
    await announcing.announce(tx, [_happening(each, names.get(each.dk, "")) for each in changes], now_ms)


def _happening(change: Transition, device_id: str) -> Happening:
    return announcing.of_device(
        CHANGED,
        device_id,
        old=change.old,
        new=change.new,
        reason=change.reason,
        detail=change.detail,
        at=wire.rfc3339(change.at_ms),
    )


async def _note(tx: Tx, action: str, dks: Sequence[int], actor: str, now_ms: int, **detail: Any) -> None:
    names = await webhooks.device_names(tx, dks)
    for dk in dks:
        await audit.record(tx, now_ms=now_ms, actor=actor, action=action, target=names.get(dk, ""), detail=detail)
