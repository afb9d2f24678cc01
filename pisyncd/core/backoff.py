"""When to try again. Time and chance are arguments; the answers are seconds or decisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How long to wait after a failure towards one destination. Seconds.

    Base and cap follow Fluent Bit and Mender; the quick retries are the seed's (3 of 5 s inside one cycle).
    """

    base_s: float = 5.0
    cap_s: float = 1800.0
    quick_retries: int = 3
    quick_s: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """What is remembered of a destination. `due_at_ms` is in the outbox's time."""

    failures: int = 0
    due_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Admit:
    """Go ahead. A trial is the only attempt until it has succeeded."""

    trial: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet."""

    seconds: float
    reason: str


def delay(policy: Policy, failures: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds until the next attempt after `failures` failures in a row (1, 2, ...). `chance` is in [0, 1).

    The first `quick_retries` wait at most quick_s, the others at most 5 s 10 s 20 s ... 30 min, each with full
    jitter; the jitter is inside the cap, so a herd at the cap still spreads. Retry-After wins, with up to a
    tenth on top, so that a herd that was sent away together does not come back together.
    """
    if retry_after_s is not None:
        return retry_after_s * (1 + chance / 10)
    if failures <= policy.quick_retries:
        return policy.quick_s * (0.5 + chance / 2)
    exponent = min(failures - policy.quick_retries - 1, 30)
    ceiling: float = min(policy.cap_s, policy.base_s * 2**exponent)
    return max(1.0, chance * ceiling)


def after_failure(
    breaker: Breaker, policy: Policy, now_ms: int, chance: float, retry_after_s: float | None = None
) -> Breaker:
    """What to remember after one more failure. Failures of attempts that ran side by side count once."""
    beside = breaker.due_at_ms > now_ms
    if beside and retry_after_s is None:
        return breaker
    failures = breaker.failures + (not beside)
    wait_s = delay(policy, failures, chance, retry_after_s)
    return Breaker(failures=failures, due_at_ms=max(breaker.due_at_ms, now_ms + int(wait_s * 1000)))


def admit(breaker: Breaker, now_ms: int, trial_running: bool) -> Admit | Wait:
    """Whether an attempt may start: all while closed, none until due, then one at a time until one succeeds."""
    if breaker.failures == 0:
        return Admit(trial=False)
    if now_ms < breaker.due_at_ms:
        return Wait((breaker.due_at_ms - now_ms) / 1000, "backing off")
    if trial_running:
        return Wait(1.0, "another attempt is trying first")
    return Admit(trial=True)


def link_delay(misses: int, chance: float, policy: Policy) -> float:
    """Seconds before a transfer that broke without progress goes on: 0.5 s 1 s 2 s ... 1 min, half of it jitter."""
    return min(policy.cap_s, 60.0, 0.5 * 2.0 ** min(misses - 1, 10)) * (0.5 + chance / 2)


def item_delay(
    attempts: int, chance: float, *, base_s: float = 25.0, factor: float = 5.0, cap_s: float = 86_400
) -> float:
    """Seconds before one refused item is offered again: 25 s 2 min 10 min 52 min 4.3 h 21.7 h 24 h (Nextcloud)."""
    return min(cap_s, base_s * factor ** min(max(attempts - 1, 0), 12)) * (0.9 + chance / 5)
