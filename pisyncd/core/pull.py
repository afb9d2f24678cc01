"""When a device asks the cloud for changes of records, and for how long the cloud may hold the request.

attentive  records are here, or the link is not up for long: one request after the other, each held by the cloud
quiet      no records here: with what is sent anyway, and now and then, to stay inside the idle traffic

What goes wrong with it delays only itself: files and messages do not wait for records. Times are outbox milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pisyncd.core import recordwire
from pisyncd.core.backoff import Wait

PAGE_MIN = 10
HELD_MIN_S = 20.0
SPACING_S = 1.0
PAUSE_MAX_S = 300.0
REFUSED_MAX_S = 6 * 3600.0
#: How long after the link came up a device without records listens: longer than a visit with a hotspot lasts.
NEWCOMER_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """The settings. `wait_s` 0: never held. `spacing_s` lies between occasions that are used, `idle_s` is without."""

    wait_s: float = 300.0
    spacing_s: float = 300.0
    idle_s: float = 21_600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What asking has taught. `held_s` is how long a request may be held on this network, as far as is known."""

    asked_at_ms: int | None = None
    not_before_ms: int = 0
    empty: int = 0
    troubles: int = 0
    held_s: float = float(recordwire.WAIT_MAX_S)
    limit: int = recordwire.PAGE_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Why to ask. `asked`: somebody waits for it; `more`: the last page was not the last; `trial`: after trouble, only
    a short request may go; `occasion`: something was sent, or the link came up; `records`: there are some here."""

    asked: bool = False
    more: bool = False
    trial: bool = False
    occasion: bool = False
    records: bool = False
    online_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask now; the cloud may hold the request for so long."""

    wait_s: float


def decide(rule: Rule, past: Past, need: Need, now_ms: int) -> Ask | Wait:
    """Whether to ask now."""
    if need.asked:
        return Ask(0.0)
    if now_ms < past.not_before_ms:
        return Wait((past.not_before_ms - now_ms) / 1000, "the last answer came too soon, or none could be used")
    if need.more:
        return Ask(0.0)
    if rule.wait_s and (need.records or need.online_s < NEWCOMER_S):
        return Ask(0.0 if need.trial else min(rule.wait_s, past.held_s))
    if past.asked_at_ms is None:
        return Ask(0.0)
    since_s = (now_ms - past.asked_at_ms) / 1000
    wait_s = (rule.spacing_s if need.occasion else rule.idle_s) - since_s
    return Wait(wait_s, "nothing is expected") if wait_s > 0 else Ask(0.0)


def asked(past: Past, now_ms: int) -> Past:
    """A request goes out."""
    return replace(past, asked_at_ms=now_ms)


def answered(past: Past, now_ms: int, *, took_s: float, wait_s: float, moved: bool, more: bool) -> Past:
    """After an answer; `moved`: it brought something new; `more`: there is more at once.

    A cloud that answers at once with nothing is not asked again at once: 1 s 2 s 4 s ... 5 min.
    """
    early = not moved and (more or took_s < wait_s / 2)
    empty = past.empty + 1 if early else 0
    pause_s = min(PAUSE_MAX_S, SPACING_S * 2.0 ** min(empty - 1, 10)) if early else 0.0 if more else SPACING_S
    return replace(
        past,
        not_before_ms=now_ms + int(pause_s * 1000),
        empty=empty,
        troubles=0,
        limit=min(recordwire.PAGE_MAX, past.limit * 2),
    )


def cut(past: Past, now_ms: int, took_s: float) -> Past:
    """After a wait that was ended on the way: the next one is shorter, no less than 20 s."""
    return replace(past, not_before_ms=now_ms + int(SPACING_S * 1000), held_s=max(HELD_MIN_S, took_s * 0.8))


def broke(past: Past, now_ms: int) -> Past:
    """After an answer that did not come, or not whole: the next page is smaller."""
    return replace(too_large(past), not_before_ms=now_ms + int(SPACING_S * 1000))


def too_large(past: Past) -> Past:
    """After a page of too many bytes: half as many records at once."""
    return replace(past, limit=max(PAGE_MIN, past.limit // 2))


def refused(past: Past, now_ms: int, chance: float, retry_after_s: float | None = None) -> Past:
    """After an answer that says no, or cannot be read: 1 min 2 min 4 min ... 6 h, half of it jitter."""
    troubles = past.troubles + 1
    wait_s = min(REFUSED_MAX_S, 60.0 * 2.0 ** min(troubles - 1, 16)) * (0.5 + chance / 2)
    if retry_after_s is not None:
        wait_s = retry_after_s * (1 + chance / 10)
    return replace(past, not_before_ms=now_ms + int(wait_s * 1000), troubles=troubles)


def on_another_network(past: Past) -> Past:
    """What was learned of the way is not true of another one."""
    return replace(past, held_s=float(recordwire.WAIT_MAX_S), limit=recordwire.PAGE_MAX, not_before_ms=0, empty=0)
