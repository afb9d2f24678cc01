"""How a device stands, as people who look after a fleet need to see it.

state            meaning                                                              begins with
new              let in, never heard of                                               enrolled
healthy          heard of lately, and its syncs do not fail again and again           heard, backlog-gone
expected-quiet   silent, and by its own rhythm and calendar that is normal            silence-expected
overdue          silent for longer than its rhythm makes likely                       silence-unlikely
failing          reachable, but its syncs fail again and again                        failures-in-a-row
recovering       back, with a backlog that it works off                               backlog
muted            a person wants to hear nothing of it for a while                     muted
retired          shut out for good                                                    retired

A muted device is judged on beneath (`under`); when its time is over it is that (reason mute-ended, unmuted).
A device that keeps changing between well and troubled stays troubled (`flapping`) until it has kept still: every new
trouble adds 1 to a score that halves every FLAP_HALF_LIFE_MS; from FLAP_BEGINS on it is held, below FLAP_ENDS let go.

Everything here is computed from what is known and the time; `due_at_ms` is when the time alone changes something.
Times are wall milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
from msgspec.structs import replace

from cloud.rules import rhythm as rhythms
from cloud.rules.calendar import Calendar

StateName = Literal["new", "healthy", "expected-quiet", "overdue", "failing", "recovering", "muted", "retired"]
STATES: tuple[StateName, ...] = get_args(StateName)
#: Those that need a person.
TROUBLED: tuple[StateName, ...] = ("failing", "overdue")

FLAP_HALF_LIFE_MS = 6 * 3_600_000
FLAP_BEGINS = 5.0
FLAP_ENDS = 2.0
#: Muted until a person says otherwise.
FOREVER_MS = 2**62
#: When a silence becomes noteworthy may be seen so much late: fewer rows change their place in an index.
QUIET_STEP_MS = 900_000
_LEFT = 5


@dataclass(frozen=True, kw_only=True)
class Terms:
    """`improbable`: below this probability a silence is overdue; a backlog above `recovering_above` items is told."""

    quiet_after_ms: int = 86_400_000
    improbable: float = 0.01
    recovering_above: int = 50


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a device now; see device_state. `alert_at_ms`: since when its syncs fail again and again."""

    seen_ms: int | None
    events: int
    alert_at_ms: int | None = None
    failures: int = 0
    error_code: str | None = None
    queue_depth: int | None = None
    shut_out: bool = False


class Standing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a device; see device_standing."""

    dk: int
    state: StateName = "new"
    under: StateName = "new"
    since_ms: int = 0
    reason: str = "enrolled"
    detail: str = ""
    muted_until_ms: int | None = None
    flap_score: float = 0.0
    flap_at_ms: int = 0
    flapping: bool = False
    heard_ms: int = 0
    heard_events: int = 0
    due_at_ms: int | None = None
    rhythm: str = ""
    backlog: int | None = None
    backlog_at_ms: int | None = None
    drain_per_s: float | None = None
    clear_at_ms: int | None = None


class Transition(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One change of `state`; `at_ms` is when it came about, which may be before it was noticed."""

    dk: int
    old: StateName
    new: StateName
    reason: str
    detail: str
    at_ms: int


class _Found(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a device is, before muting: since when, why, and when time alone would change it."""

    state: StateName
    reason: str
    at_ms: int
    detail: str = ""
    due_at_ms: int | None = None


def judge(
    before: Standing, facts: Facts, calendar: Calendar, terms: Terms, now_ms: int
) -> tuple[Standing, Transition | None]:
    """How the device stands now, and the change of its state if there is one."""
    rhythm = rhythms.load(before.rhythm)
    learnt = facts.seen_ms is not None and rhythms.learn(rhythm, facts.seen_ms, calendar)
    after = _with_backlog(before, facts)
    found = _found(after, facts, rhythm, calendar, terms, now_ms)
    score, flap_at_ms, flapping, found = _damped(before, found, now_ms)
    muted_until_ms = before.muted_until_ms
    reason, at_ms, detail = found.reason, found.at_ms, found.detail
    if muted_until_ms is not None and (muted_until_ms <= now_ms or found.state == "retired"):
        reason, at_ms, muted_until_ms = "mute-ended", min(muted_until_ms, now_ms), None
    state: StateName = found.state if muted_until_ms is None else "muted"
    due = [found.due_at_ms, muted_until_ms, _let_go_at(score, flap_at_ms) if flapping else None]
    changed = state != before.state
    at_ms = min(max(at_ms, before.since_ms), now_ms)
    standing = replace(
        after,
        state=state,
        under=found.state,
        since_ms=at_ms if changed else before.since_ms,
        reason=reason if changed else before.reason,
        detail=detail if changed else before.detail,
        muted_until_ms=muted_until_ms,
        flap_score=score,
        flap_at_ms=flap_at_ms,
        flapping=flapping,
        heard_ms=facts.seen_ms or 0,
        heard_events=facts.events,
        due_at_ms=min((each for each in due if each is not None and each < FOREVER_MS), default=None),
        rhythm=rhythms.dump(rhythm) if learnt else before.rhythm,
    )
    if not changed:
        return standing, None
    return standing, Transition(dk=before.dk, old=before.state, new=state, reason=reason, detail=detail, at_ms=at_ms)


def mute(before: Standing, until_ms: int, note: str, now_ms: int) -> tuple[Standing, Transition | None]:
    """Muted until then; of a device that is muted already only the end changes, and a retired one stays retired."""
    if before.state == "retired":
        return before, None
    due_ms = before.due_at_ms if until_ms >= FOREVER_MS else min(before.due_at_ms or until_ms, until_ms)
    after = replace(before, muted_until_ms=until_ms, due_at_ms=due_ms)
    if before.state == "muted":
        return after, None
    after = replace(after, state="muted", since_ms=now_ms, reason="muted", detail=note)
    change = Transition(dk=before.dk, old=before.state, new="muted", reason="muted", detail=note, at_ms=now_ms)
    return after, change


def unmute(before: Standing, now_ms: int) -> tuple[Standing, Transition | None]:
    """What it would be, from now on."""
    if before.state != "muted":
        return before, None
    after = replace(
        before, state=before.under, muted_until_ms=None, since_ms=now_ms, reason="unmuted", detail="", due_at_ms=now_ms
    )
    change = Transition(dk=before.dk, old="muted", new=before.under, reason="unmuted", detail="", at_ms=now_ms)
    return after, change


def _found(
    before: Standing, facts: Facts, rhythm: rhythms.Rhythm, calendar: Calendar, terms: Terms, now_ms: int
) -> _Found:
    if facts.shut_out:
        return _Found(state="retired", reason="retired", at_ms=now_ms)
    if facts.seen_ms is None:
        return _Found(state="new", reason="enrolled", at_ms=before.since_ms)
    # Until then nobody needs the exact time, and finding it is most of the work.
    overdue_ms = rhythms.never_overdue_before(facts.seen_ms, calendar, terms.improbable)
    if now_ms >= overdue_ms:
        overdue_ms = rhythms.overdue_at(rhythm, facts.seen_ms, calendar, terms.improbable)
    if now_ms >= overdue_ms:
        was = "; its syncs had been failing before" if facts.alert_at_ms is not None else ""
        detail = f"longer silent than it ever is by its rhythm{was}"
        return _Found(state="overdue", reason="silence-unlikely", at_ms=overdue_ms, detail=detail)
    quiet_ms = facts.seen_ms + terms.quiet_after_ms
    if facts.alert_at_ms is not None:
        detail = f"{facts.failures} syncs in a row failed" + (f": {facts.error_code}" if facts.error_code else "")
        return _Found(
            state="failing",
            reason="failures-in-a-row",
            at_ms=facts.alert_at_ms,
            detail=detail,
            due_at_ms=overdue_ms,
        )
    if now_ms >= quiet_ms:
        return _Found(state="expected-quiet", reason="silence-expected", at_ms=quiet_ms, due_at_ms=overdue_ms)
    due_ms = min(overdue_ms, -(-quiet_ms // QUIET_STEP_MS) * QUIET_STEP_MS)
    if _has_backlog(before, facts, terms):
        detail = f"{facts.queue_depth} items are waiting on the device"
        return _Found(state="recovering", reason="backlog", at_ms=facts.seen_ms, detail=detail, due_at_ms=due_ms)
    reason = "backlog-gone" if before.under == "recovering" else "heard"
    return _Found(state="healthy", reason=reason, at_ms=facts.seen_ms, due_at_ms=due_ms)


def _has_backlog(before: Standing, facts: Facts, terms: Terms) -> bool:
    """A backlog is told of a device that comes back with one, until a fifth of what was too much is left."""
    if facts.queue_depth is None:
        return False
    if before.under == "recovering":
        return facts.queue_depth > terms.recovering_above // _LEFT
    returns = before.under in ("overdue", "failing", "expected-quiet")
    return returns and facts.queue_depth > terms.recovering_above


def _with_backlog(before: Standing, facts: Facts) -> Standing:
    """The backlog that the device told last, and when it should be gone at the pace that it had lately."""
    if facts.events == before.heard_events or facts.queue_depth is None or facts.seen_ms is None:
        return before
    passed_s = (facts.seen_ms - before.backlog_at_ms) / 1000 if before.backlog_at_ms is not None else 0.0
    pace: float | None = None
    if before.backlog is not None and passed_s > 0 and facts.queue_depth < before.backlog:
        now_pace = (before.backlog - facts.queue_depth) / passed_s
        pace = now_pace if before.drain_per_s is None else (before.drain_per_s + now_pace) / 2
    clear_ms = facts.seen_ms + round(facts.queue_depth / pace * 1000) if pace and facts.queue_depth else None
    return replace(
        before, backlog=facts.queue_depth, backlog_at_ms=facts.seen_ms, drain_per_s=pace, clear_at_ms=clear_ms
    )


def _damped(before: Standing, found: _Found, now_ms: int) -> tuple[float, int, bool, _Found]:
    """(score, when it was counted, whether it flaps, what it is held to be)."""
    score, flap_at_ms, flapping = before.flap_score, before.flap_at_ms, before.flapping
    troubled = found.state in TROUBLED
    if found.state in ("new", "retired"):
        return 0.0, flap_at_ms, False, found
    if troubled and found.at_ms > flap_at_ms:
        score = _decayed(score, flap_at_ms, found.at_ms) + 1.0
        flap_at_ms = found.at_ms
        flapping = flapping or score >= FLAP_BEGINS
    if flapping and _decayed(score, flap_at_ms, now_ms) < FLAP_ENDS:
        flapping = False
    if flapping and not troubled and before.under in TROUBLED:
        found = replace(
            found, state=before.under, reason="flapping", detail="it keeps changing; told when it keeps still"
        )
    return score, flap_at_ms, flapping, found


def _decayed(score: float, since_ms: int, now_ms: int) -> float:
    return score * math.exp2(-max(0, now_ms - since_ms) / FLAP_HALF_LIFE_MS)


def _let_go_at(score: float, flap_at_ms: int) -> int:
    # One millisecond more: at the moment itself it is not below yet.
    return flap_at_ms + math.ceil(FLAP_HALF_LIFE_MS * math.log2(max(score / FLAP_ENDS, 1.0))) + 1
